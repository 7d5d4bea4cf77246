//! First answers by the request id that asked for them.

use std::collections::HashSet;

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

/// A claim, or an answer to one, of many at once.
pub struct Entry {
    pub partner: PartnerId,
    pub id: Uuid,
    /// Of a claim.
    pub fingerprint: Vec<u8>,
    /// Of an answer.
    pub status: i16,
    pub answer: Vec<u8>,
}

impl Entry {
    pub fn claim(partner: PartnerId, id: Uuid, fingerprint: Vec<u8>) -> Self {
        Self { partner, id, fingerprint, status: CLAIMED, answer: Vec::new() }
    }
}

/// Claims many request ids, in the order of their keys so that two claimers cannot wait for each other. Returns those that were claimed;
/// the others have answers.
pub async fn claim_many(
    db: &mut PgConnection,
    claims: &[Entry],
) -> Result<HashSet<(PartnerId, Uuid)>, Error> {
    let claimed: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "insert into idempotency (partner_id, request_id, fingerprint, status, answer)
         select partner_id, request_id, fingerprint, $4, ''
         from unnest($1::uuid[], $2::uuid[], $3::bytea[]) as claims (partner_id, request_id, fingerprint)
         order by partner_id, request_id
         on conflict (partner_id, request_id) do update
             set fingerprint = excluded.fingerprint, status = excluded.status, answer = '', created_at = herald_now()
             where idempotency.created_at < herald_now() - interval '24 hours'
         returning partner_id, request_id",
    )
    .bind(claims.iter().map(|claim| claim.partner.0).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| claim.id).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| claim.fingerprint.as_slice()).collect::<Vec<_>>())
    .bind(CLAIMED)
    .fetch_all(db)
    .await?;
    Ok(claimed.into_iter().map(|(partner, id)| (PartnerId(partner), id)).collect())
}

/// Puts many answers beside their claims; the same transaction made all of them.
pub async fn answer_many(db: &mut PgConnection, answers: &[Entry]) -> Result<(), Error> {
    sqlx::query(
        "update idempotency i set status = a.status, answer = a.answer
         from unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bytea[]) as a (partner_id, request_id, status, answer)
         where i.partner_id = a.partner_id and i.request_id = a.request_id",
    )
    .bind(answers.iter().map(|answer| answer.partner.0).collect::<Vec<_>>())
    .bind(answers.iter().map(|answer| answer.id).collect::<Vec<_>>())
    .bind(answers.iter().map(|answer| answer.status).collect::<Vec<_>>())
    .bind(answers.iter().map(|answer| answer.answer.as_slice()).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
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
        "delete from idempotency where ctid = any (array(
             select ctid from idempotency where created_at < herald_now() - interval '24 hours' limit $1))",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Gives a claimed request id back: its answer is not one to be given again.
pub async fn release(db: &mut PgConnection, partner: PartnerId, id: Uuid) -> Result<(), Error> {
    sqlx::query("delete from idempotency where partner_id = $1 and request_id = $2")
        .bind(partner.0)
        .bind(id)
        .execute(db)
        .await?;
    Ok(())
}
