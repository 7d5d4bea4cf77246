//! What partners are still to be told about their own subscriptions.

use sqlx::PgConnection;

use crate::domain::Error;
use crate::domain::subscription::DISABLED_EVENT_TYPE;

/// Of events that Herald itself has to tell.
const SOURCE: &str = "/herald";

/// Puts the oldest notice into the queue, for whoever takes it; `None` when there is none. Returns how many deliveries that made.
pub async fn send(db: &mut PgConnection) -> Result<Option<i64>, Error> {
    let queued = sqlx::query_scalar(include_str!("queries/notices/send.sql"))
        .bind(DISABLED_EVENT_TYPE)
        .bind(SOURCE)
        .fetch_optional(db)
        .await?;
    Ok(queued)
}
