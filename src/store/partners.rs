//! Partners.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::PartnerId;

pub async fn insert(db: &mut PgConnection, id: PartnerId, name: &str) -> Result<DateTime<Utc>, Error> {
    let created_at =
        sqlx::query_scalar("insert into partners (id, name) values ($1, $2) returning created_at")
            .bind(id.0)
            .bind(name)
            .fetch_one(db)
            .await?;
    Ok(created_at)
}

pub async fn exists(db: &mut PgConnection, id: PartnerId) -> Result<bool, Error> {
    let found = sqlx::query_scalar("select exists (select from partners where id = $1)")
        .bind(id.0)
        .fetch_one(db)
        .await?;
    Ok(found)
}

/// Which of these are partners.
pub async fn known(db: &mut PgConnection, ids: &[PartnerId]) -> Result<HashSet<PartnerId>, Error> {
    let found: Vec<Uuid> = sqlx::query_scalar("select id from partners where id = any ($1)")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    Ok(found.into_iter().map(PartnerId).collect())
}
