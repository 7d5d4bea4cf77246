//! Callbacks that have names and are shared: the notifications surface's. One is there while it has its name.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::id::{CallbackId, PartnerId};
use crate::domain::notification::Name;
use crate::domain::{Error, Noun};

/// A callback as its owner sees it, without its credentials.
#[derive(Debug, Clone)]
pub struct NamedCallback {
    pub id: CallbackId,
    pub name: String,
    pub url: String,
    pub backup_url: Option<String>,
    pub batch_size: i32,
}

#[derive(sqlx::FromRow)]
struct CallbackRow {
    id: Uuid,
    name: String,
    url: String,
    backup_url: Option<String>,
    batch_size: i32,
}

impl From<CallbackRow> for NamedCallback {
    fn from(row: CallbackRow) -> Self {
        let CallbackRow { id, name, url, backup_url, batch_size } = row;
        Self { id: CallbackId(id), name, url, backup_url, batch_size }
    }
}

const SELECT: &str = "select id, name, url, backup_url, batch_size from callbacks
    where partner_id = $1 and surface = 'notifications' and name is not null";

pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    name: &Name,
) -> Result<Option<NamedCallback>, Error> {
    let row: Option<CallbackRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} and name = $2")))
        .bind(partner.0)
        .bind(name.as_str())
        .fetch_optional(db)
        .await?;
    Ok(row.map(NamedCallback::from))
}

/// Up to `limit` callbacks, oldest first.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    limit: i64,
) -> Result<Vec<NamedCallback>, Error> {
    let rows: Vec<CallbackRow> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} order by id limit $2")))
            .bind(partner.0)
            .bind(limit)
            .fetch_all(db)
            .await?;
    Ok(rows.into_iter().map(NamedCallback::from).collect())
}

pub struct NewNamedCallback<'a> {
    pub id: CallbackId,
    pub partner: PartnerId,
    pub name: &'a Name,
    pub url: &'a str,
    pub backup_url: Option<&'a str>,
    pub batch_size: i32,
    pub credentials: &'a [u8],
    pub signing_key: &'a [u8],
}

/// Errors: `Duplicate` when the partner has one of this name.
pub async fn insert(db: &mut PgConnection, new: NewNamedCallback<'_>) -> Result<(), Error> {
    let done = sqlx::query(
        "insert into callbacks (id, partner_id, surface, name, url, backup_url, batch_size, credentials, signing_key)
         values ($1, $2, 'notifications', $3, $4, $5, $6, $7, $8)
         on conflict (partner_id, surface, name) where name is not null do nothing",
    )
    .bind(new.id.0)
    .bind(new.partner.0)
    .bind(new.name.as_str())
    .bind(new.url)
    .bind(new.backup_url)
    .bind(new.batch_size)
    .bind(new.credentials)
    .bind(new.signing_key)
    .execute(db)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(Error::Duplicate(Noun::Callback)) }
}

/// Writes a callback as it shall be, with new credentials.
pub async fn update(
    db: &mut PgConnection,
    partner: PartnerId,
    callback: &NamedCallback,
    credentials: &[u8],
) -> Result<(), Error> {
    sqlx::query(
        "update callbacks set url = $3, backup_url = $4, batch_size = $5, credentials = $6, updated_at = herald_now()
         where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(callback.id.0)
    .bind(&callback.url)
    .bind(&callback.backup_url)
    .bind(callback.batch_size)
    .bind(credentials)
    .execute(db)
    .await?;
    Ok(())
}

/// Takes a callback's name away, which others may then have: the row stays for the subscriptions that had it.
pub async fn unname(db: &mut PgConnection, partner: PartnerId, id: CallbackId) -> Result<(), Error> {
    sqlx::query("update callbacks set name = null where partner_id = $1 and id = $2")
        .bind(partner.0)
        .bind(id.0)
        .execute(db)
        .await?;
    Ok(())
}
