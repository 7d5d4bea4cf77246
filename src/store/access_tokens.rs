//! Tokens that stand for keys: a hash of each, never the token.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::access_token::AccessToken;
use crate::domain::id::{ApiKeyId, PartnerId};

/// A token that opens something, and its key, which is neither revoked nor expired.
#[derive(sqlx::FromRow)]
pub struct AccessTokenRow {
    pub partner_id: Uuid,
    pub key_id: Uuid,
    pub scopes: Vec<String>,
}

/// Stores a token that lives three hours [published]; returns when it was issued.
pub async fn insert(
    db: &mut PgConnection,
    token: &AccessToken,
    partner: PartnerId,
    key: ApiKeyId,
) -> Result<DateTime<Utc>, Error> {
    let issued_at = sqlx::query_scalar(
        "insert into access_tokens (hash, partner_id, key_id, expires_at) values ($1, $2, $3, herald_now() + interval '3 hours')
         returning issued_at",
    )
    .bind(token.hash().as_slice())
    .bind(partner.0)
    .bind(key.0)
    .fetch_one(db)
    .await?;
    Ok(issued_at)
}

pub async fn find_usable(
    db: &mut PgConnection,
    token: &AccessToken,
) -> Result<Option<AccessTokenRow>, Error> {
    let row = sqlx::query_as(
        "select t.partner_id, t.key_id, k.scopes from access_tokens t join api_keys k on k.id = t.key_id
         where t.hash = $1 and t.expires_at > herald_now()
           and k.revoked_at is null and (k.expires_at is null or k.expires_at > herald_now())",
    )
    .bind(token.hash().as_slice())
    .fetch_optional(db)
    .await?;
    Ok(row)
}

/// Forgets tokens that have expired, up to `limit`; returns how many.
pub async fn forget(db: &mut PgConnection, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "delete from access_tokens where ctid = any (array(
             select ctid from access_tokens where expires_at <= herald_now() limit $1))",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
