//! Callbacks: where to send. Secrets go in sealed; they are read back by `targets`, to send, and by `webhooks`, whose owners prove themselves
//! with theirs.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::id::{CallbackId, PartnerId};
use crate::domain::signature::SUPERSEDED_KEYS_MAX;
use crate::domain::surface::Surface;
use crate::domain::{Error, Noun};

pub struct NewCallback<'a> {
    pub id: CallbackId,
    pub partner: PartnerId,
    pub surface: Surface,
    pub url: &'a str,
    pub credentials: Option<&'a [u8]>,
    pub signing_key: &'a [u8],
}

pub async fn insert(db: &mut PgConnection, callback: NewCallback<'_>) -> Result<(), Error> {
    sqlx::query(
        "insert into callbacks (id, partner_id, surface, url, credentials, signing_key) values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(callback.id.0)
    .bind(callback.partner.0)
    .bind(callback.surface.as_str())
    .bind(callback.url)
    .bind(callback.credentials)
    .bind(callback.signing_key)
    .execute(db)
    .await?;
    Ok(())
}

/// Changes where to send and what to present; what is `None` stays.
pub async fn update(
    db: &mut PgConnection,
    partner: PartnerId,
    id: CallbackId,
    url: Option<&str>,
    credentials: Option<&[u8]>,
) -> Result<(), Error> {
    sqlx::query(
        "update callbacks set url = coalesce($3, url), credentials = coalesce($4, credentials), updated_at = herald_now()
         where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(url)
    .bind(credentials)
    .execute(db)
    .await?;
    Ok(())
}

/// Installs a new signing key within the present transaction; the present one stays valid beside it for a day, and so do those before it, each
/// for its own, up to [`SUPERSEDED_KEYS_MAX`]. Returns until when the present one does.
/// Errors: `NotFound` when the callback was wiped meanwhile.
pub async fn rotate_signing_key(
    db: &mut PgConnection,
    partner: PartnerId,
    id: CallbackId,
    signing_key: &[u8],
) -> Result<DateTime<Utc>, Error> {
    // The lock is what keeps two changes at once from both superseding the same key, and losing one of theirs.
    let until: Option<DateTime<Utc>> = sqlx::query_scalar(
        "insert into superseded_signing_keys (partner_id, callback_id, signing_key, valid_until)
         select partner_id, id, signing_key, herald_now() + interval '24 hours' from callbacks
         where partner_id = $1 and id = $2 and signing_key is not null for update
         returning valid_until",
    )
    .bind(partner.0)
    .bind(id.0)
    .fetch_optional(&mut *db)
    .await?;
    let until = until.ok_or(Error::NotFound(Noun::Subscription))?;
    sqlx::query(
        "update callbacks set signing_key = $3, updated_at = herald_now() where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(signing_key)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "delete from superseded_signing_keys where callback_id = $1 and id not in (
             select id from superseded_signing_keys where callback_id = $1 and valid_until > herald_now()
             order by valid_until desc limit $2)",
    )
    .bind(id.0)
    .bind(SUPERSEDED_KEYS_MAX)
    .execute(db)
    .await?;
    Ok(until)
}

/// Wipes the secrets of a callback that nothing will be sent to again.
pub async fn wipe(db: &mut PgConnection, partner: PartnerId, id: CallbackId) -> Result<(), Error> {
    sqlx::query(
        "update callbacks set credentials = null, signing_key = null, updated_at = herald_now() where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(id.0)
    .execute(&mut *db)
    .await?;
    // By itself, after the row was had: the key of a change that was waited for is seen as well.
    sqlx::query("delete from superseded_signing_keys where callback_id = $1").bind(id.0).execute(db).await?;
    Ok(())
}
