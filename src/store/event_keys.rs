//! Ids that producers chose for their events, and which events they stand for. Forgotten after a week.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{EventId, PartnerId};

/// A chosen id and what it stands for.
#[derive(Debug, Clone)]
pub struct Entry {
    pub partner: PartnerId,
    pub key: String,
    pub event: EventId,
    pub content_hash: [u8; 32],
    /// How many subscriptions the event matches, if that is known already.
    pub matched: Option<i32>,
}

/// An id that was taken before, with how many subscriptions its event matched.
#[derive(Debug, sqlx::FromRow)]
pub struct Taken {
    pub partner_id: Uuid,
    pub key: String,
    pub event_id: Uuid,
    pub content_hash: Vec<u8>,
    pub matched: i32,
}

/// Takes ids within the present transaction, none of them named twice, in their order so that two takers cannot wait for each other. Waits
/// while another transaction is taking one. Returns those that are ours now; the others stood for something within the week. A deadlock
/// with whoever writes them in another order is the driver's own error, so that the caller can tell it (`super::is_overtaken`) and begin again.
pub async fn claim_many(
    db: &mut PgConnection,
    entries: &[Entry],
) -> Result<HashSet<(PartnerId, String)>, sqlx::Error> {
    let claimed: Vec<(Uuid, String)> = sqlx::query_as(
        "insert into event_keys (partner_id, key, event_id, content_hash, matched)
         select partner_id, key, event_id, content_hash, matched
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bytea[], $5::integer[])
             as claims (partner_id, key, event_id, content_hash, matched)
         order by partner_id, key
         on conflict (partner_id, key) do update
             set event_id = excluded.event_id, content_hash = excluded.content_hash, matched = excluded.matched,
                 created_at = herald_now()
             where event_keys.created_at < herald_now() - interval '7 days'
         returning partner_id, key",
    )
    .bind(entries.iter().map(|entry| entry.partner.0).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.event.0).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.content_hash.as_slice()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.matched).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    Ok(claimed.into_iter().map(|(partner, key)| (PartnerId(partner), key)).collect())
}

/// What these ids stand for, of those that stand for something.
pub async fn find_many(db: &mut PgConnection, keys: &[(PartnerId, String)]) -> Result<Vec<Taken>, Error> {
    // Written so that it can only be looked up in the index, see docs/decisions/0027. The event, which may be gone, is asked only by ids that
    // were taken before they knew.
    let found = sqlx::query_as(
        "select k.partner_id, k.key, k.event_id, k.content_hash, coalesce(k.matched, e.matched, 0) as matched
         from unnest($1::uuid[], $2::text[]) as asked (partner_id, key)
         join event_keys k on k.partner_id = any (array[asked.partner_id]) and k.key between asked.key and asked.key
         left join lateral (select matched from events where id = k.event_id and k.matched is null limit 1) e on true",
    )
    .bind(keys.iter().map(|(partner, _)| partner.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    Ok(found)
}

/// Writes down how many subscriptions the events of ids matched that were taken in the present transaction.
pub async fn set_matched(
    db: &mut PgConnection,
    keys: &[(PartnerId, String)],
    matched: &[i32],
) -> Result<(), Error> {
    sqlx::query(
        "update event_keys k set matched = given.matched
         from unnest($1::uuid[], $2::text[], $3::integer[]) as given (partner_id, key, matched)
         where k.partner_id = any (array[given.partner_id]) and k.key between given.key and given.key",
    )
    .bind(keys.iter().map(|(partner, _)| partner.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>())
    .bind(matched)
    .execute(db)
    .await?;
    Ok(())
}

/// Gives ids back that were taken in the present transaction for events that are not stored after all.
pub async fn release_many(db: &mut PgConnection, keys: &[(PartnerId, String)]) -> Result<(), Error> {
    sqlx::query(
        "delete from event_keys k using unnest($1::uuid[], $2::text[]) as given (partner_id, key)
         where k.partner_id = any (array[given.partner_id]) and k.key between given.key and given.key",
    )
    .bind(keys.iter().map(|(partner, _)| partner.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets up to `limit` ids that are a week old; returns how many.
pub async fn forget(db: &mut PgConnection, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        // What somebody is just claiming anew is young when that is committed.
        "delete from event_keys where created_at < herald_now() - interval '7 days' and ctid = any (array(
             select ctid from event_keys where created_at < herald_now() - interval '7 days' order by created_at limit $1
             for update skip locked))",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
