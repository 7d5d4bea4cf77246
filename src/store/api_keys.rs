//! Partners' API keys: what finds one and what proves it, never the key.

use chrono::{DateTime, Utc};
use sqlx::{FromRow as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{ApiKeyId, PartnerId};

/// A key that is neither revoked nor expired. No `Debug`: the hash of a chosen key can be guessed at.
#[derive(Clone, sqlx::FromRow)]
pub struct ApiKeyRow {
    pub id: Uuid,
    pub partner_id: Uuid,
    pub hash: Vec<u8>,
    pub scopes: Vec<String>,
}

pub struct NewApiKey<'a> {
    pub id: ApiKeyId,
    pub partner: PartnerId,
    pub prefix: &'a str,
    pub hash: &'a [u8],
    pub scopes: &'a [String],
    pub expires_at: Option<DateTime<Utc>>,
}

pub async fn insert(db: &mut PgConnection, key: NewApiKey<'_>) -> Result<DateTime<Utc>, Error> {
    let created_at = sqlx::query_scalar(
        "insert into api_keys (id, partner_id, prefix, hash, scopes, expires_at) values ($1, $2, $3, $4, $5, $6) returning created_at",
    )
    .bind(key.id.0)
    .bind(key.partner.0)
    .bind(key.prefix)
    .bind(key.hash)
    .bind(key.scopes)
    .bind(key.expires_at)
    .fetch_one(db)
    .await?;
    Ok(created_at)
}

/// The usable keys with this prefix. Prefixes are random, so there is rarely more than one.
pub async fn find_usable(db: &mut PgConnection, prefix: &str) -> Result<Vec<ApiKeyRow>, Error> {
    let rows = sqlx::query_as(
        "select id, partner_id, hash, scopes from api_keys
         where prefix = $1 and revoked_at is null and (expires_at is null or expires_at > herald_now())",
    )
    .bind(prefix)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// The usable keys with any of these prefixes, each with its prefix.
pub async fn find_usable_among(
    db: &mut PgConnection,
    prefixes: &[String],
) -> Result<Vec<(String, ApiKeyRow)>, Error> {
    let rows = sqlx::query(
        "select prefix, id, partner_id, hash, scopes from api_keys
         where prefix = any ($1) and revoked_at is null and (expires_at is null or expires_at > herald_now())",
    )
    .bind(prefixes)
    .fetch_all(db)
    .await?;
    let rows = rows.iter().map(|row| Ok((row.try_get("prefix")?, ApiKeyRow::from_row(row)?)));
    Ok(rows.collect::<Result<_, sqlx::Error>>()?)
}

/// A key as its operator sees it: everything but what proves it.
#[derive(Debug, sqlx::FromRow)]
pub struct ListedKey {
    pub id: Uuid,
    pub partner_id: Uuid,
    pub partner_name: String,
    pub scopes: Vec<String>,
    pub prefix: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// Neither revoked nor past its end.
    pub usable: bool,
}

/// All keys, or one partner's, in the order in which they were made. Those that open nothing any more are among them.
pub async fn list(db: &mut PgConnection, partner: Option<PartnerId>) -> Result<Vec<ListedKey>, Error> {
    let rows = sqlx::query_as(
        "select k.id, k.partner_id, p.name as partner_name, k.scopes, k.prefix, k.created_at, k.expires_at, k.revoked_at,
                k.revoked_at is null and (k.expires_at is null or k.expires_at > herald_now()) as usable
         from api_keys k join partners p on p.id = k.partner_id
         where $1::uuid is null or k.partner_id = $1 order by k.created_at, k.id",
    )
    .bind(partner.map(|partner| partner.0))
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Revokes a key, whosever it is; returns since when it is revoked, which may be long ago. `None` when there is no such key.
pub async fn revoke_of_anyone(db: &mut PgConnection, id: ApiKeyId) -> Result<Option<DateTime<Utc>>, Error> {
    let since = sqlx::query_scalar(
        "update api_keys set revoked_at = coalesce(revoked_at, herald_now()) where id = $1 returning revoked_at",
    )
    .bind(id.0)
    .fetch_optional(db)
    .await?;
    Ok(since)
}

/// Revokes one key; false when the partner has no such key that is not revoked.
pub async fn revoke(db: &mut PgConnection, partner: PartnerId, id: ApiKeyId) -> Result<bool, Error> {
    let done = sqlx::query(
        "update api_keys set revoked_at = herald_now() where partner_id = $1 and id = $2 and revoked_at is null",
    )
    .bind(partner.0)
    .bind(id.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whose the newest key with this prefix is or was, revoked or not.
pub async fn find_last_owner(db: &mut PgConnection, prefix: &str) -> Result<Option<PartnerId>, Error> {
    let owner = sqlx::query_scalar(
        "select partner_id from api_keys where prefix = $1 order by created_at desc, id desc limit 1",
    )
    .bind(prefix)
    .fetch_optional(db)
    .await?;
    Ok(owner.map(PartnerId))
}

/// Revokes every key with this prefix but the one with this hash; returns how many. No key has an empty hash.
pub async fn revoke_others(db: &mut PgConnection, prefix: &str, keep: &[u8]) -> Result<u64, Error> {
    let done = sqlx::query("update api_keys set revoked_at = herald_now() where prefix = $1 and hash <> $2 and revoked_at is null")
        .bind(prefix)
        .bind(keep)
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}
