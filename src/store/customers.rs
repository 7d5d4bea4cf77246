//! Customers: ids that sessions may name.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::id::{CustomerId, PartnerId};
use crate::domain::{Error, Noun};

/// Errors: `Duplicate` when the id is taken, by anyone and for ever.
pub async fn insert(
    db: &mut PgConnection,
    partner: PartnerId,
    id: CustomerId,
) -> Result<DateTime<Utc>, Error> {
    let created_at: Option<DateTime<Utc>> = sqlx::query_scalar(
        "insert into customers (id, partner_id) values ($1, $2) on conflict (id) do nothing returning created_at",
    )
    .bind(id.0)
    .bind(partner.0)
    .fetch_optional(db)
    .await?;
    created_at.ok_or(Error::Duplicate(Noun::Customer))
}

/// Whether the partner knows a customer of this id who has not been erased.
pub async fn exists(db: &mut PgConnection, partner: PartnerId, id: CustomerId) -> Result<bool, Error> {
    let found = sqlx::query_scalar(
        "select exists (select from customers where id = $1 and partner_id = $2 and erased_at is null)",
    )
    .bind(id.0)
    .bind(partner.0)
    .fetch_one(db)
    .await?;
    Ok(found)
}

/// Erases a customer; false when there is none to erase.
pub async fn erase(db: &mut PgConnection, id: CustomerId) -> Result<bool, Error> {
    let done =
        sqlx::query("update customers set erased_at = herald_now() where id = $1 and erased_at is null")
            .bind(id.0)
            .execute(db)
            .await?;
    Ok(done.rows_affected() == 1)
}
