//! First answers by the request id that asked for them.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::PartnerId;

#[derive(Debug, sqlx::FromRow)]
pub struct FirstAnswer {
    pub fingerprint: Vec<u8>,
    pub status: i16,
    /// Sealed by the key ring.
    pub answer: Vec<u8>,
}

/// The status of a claim whose answer is not known yet; it never outlives its transaction.
const CLAIMED: i16 = 100;

/// Claims a request id within the present transaction. Waits while another transaction holds the claim; false when it has
/// an answer that is less than a day old.
pub async fn claim(
    db: &mut PgConnection,
    partner: PartnerId,
    id: Uuid,
    fingerprint: &[u8],
) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into idempotency (partner_id, request_id, fingerprint, status, answer) values ($1, $2, $3, $4, '')
         on conflict (partner_id, request_id) do update
             set fingerprint = excluded.fingerprint, status = excluded.status, answer = '', created_at = herald_now()
             where idempotency.created_at < herald_now() - interval '24 hours'",
    )
    .bind(partner.0)
    .bind(id)
    .bind(fingerprint)
    .bind(CLAIMED)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A first answer to keep; `events::insert` does, with what it is the answer to.
pub struct Entry {
    pub partner: PartnerId,
    pub id: Uuid,
    pub fingerprint: Vec<u8>,
    pub status: i16,
    /// Sealed by the key ring.
    pub answer: Vec<u8>,
}

/// Those of many request ids that have been answered within a day.
pub async fn find_many(
    db: &mut PgConnection,
    ids: &[(PartnerId, Uuid)],
) -> Result<HashMap<(PartnerId, Uuid), FirstAnswer>, Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        partner_id: Uuid,
        request_id: Uuid,
        #[sqlx(flatten)]
        first: FirstAnswer,
    }
    let (partners, ids): (Vec<Uuid>, Vec<Uuid>) = ids.iter().map(|(partner, id)| (partner.0, *id)).unzip();
    let rows: Vec<Row> = sqlx::query_as(
        // Each is looked up by its key, whatever the planner believes of the table: a plan that was made while it was empty would read all of it.
        "select i.partner_id, i.request_id, i.fingerprint, i.status, i.answer
         from unnest($1::uuid[], $2::uuid[]) as asked (partner_id, id) cross join lateral (
             select * from idempotency where partner_id = asked.partner_id and request_id = asked.id limit 1) i
         where i.created_at >= herald_now() - interval '24 hours'",
    )
    .bind(partners)
    .bind(ids)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| ((PartnerId(row.partner_id), row.request_id), row.first)).collect())
}

pub async fn find(db: &mut PgConnection, partner: PartnerId, id: Uuid) -> Result<Option<FirstAnswer>, Error> {
    let row = sqlx::query_as(
        "select fingerprint, status, answer from idempotency where partner_id = $1 and request_id = $2",
    )
    .bind(partner.0)
    .bind(id)
    .fetch_optional(db)
    .await?;
    Ok(row)
}

/// Puts the answer beside its claim; the same transaction made both.
pub async fn answer(
    db: &mut PgConnection,
    partner: PartnerId,
    id: Uuid,
    status: i16,
    answer: &[u8],
) -> Result<(), Error> {
    sqlx::query("update idempotency set status = $3, answer = $4 where partner_id = $1 and request_id = $2")
        .bind(partner.0)
        .bind(id)
        .bind(status)
        .bind(answer)
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets up to `limit` answers that are a day old; returns how many.
pub async fn forget(db: &mut PgConnection, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        // What somebody is just claiming anew is young when that is committed.
        "delete from idempotency where created_at < herald_now() - interval '24 hours' and ctid = any (array(
             select ctid from idempotency where created_at < herald_now() - interval '24 hours' order by created_at limit $1
             for update skip locked))",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
