//! Callbacks: where to send. Secrets go in sealed; they are read back by `targets`, to send, and by `webhooks`, whose owners prove themselves
//! with theirs.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::Error;
use crate::domain::id::{CallbackId, PartnerId};
use crate::domain::surface::Surface;

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

/// Installs a new signing key; the present one stays valid beside it for a day. Returns until when.
pub async fn rotate_signing_key(
    db: &mut PgConnection,
    partner: PartnerId,
    id: CallbackId,
    signing_key: &[u8],
) -> Result<Option<DateTime<Utc>>, Error> {
    let until = sqlx::query_scalar(
        "update callbacks set
             previous_signing_key = signing_key,
             previous_signing_key_until = case when signing_key is null then null else herald_now() + interval '24 hours' end,
             signing_key = $3, updated_at = herald_now()
         where partner_id = $1 and id = $2
         returning previous_signing_key_until",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(signing_key)
    .fetch_one(db)
    .await?;
    Ok(until)
}

/// Wipes the secrets of a callback that nothing will be sent to again.
pub async fn wipe(db: &mut PgConnection, partner: PartnerId, id: CallbackId) -> Result<(), Error> {
    sqlx::query(
        "update callbacks set credentials = null, signing_key = null, previous_signing_key = null,
             previous_signing_key_until = null, updated_at = herald_now()
         where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(id.0)
    .execute(db)
    .await?;
    Ok(())
}
