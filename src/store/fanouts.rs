//! Events that matched very many subscriptions, and whose deliveries are not all in the queue yet.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{EventId, PartnerId, SubscriptionId};

/// Notes whom an event matched, for [`spread`] to put their deliveries into the queue. In the transaction that stores the event.
pub async fn insert(
    db: &mut PgConnection,
    matched: &[(PartnerId, EventId, SubscriptionId)],
) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("queries/fanouts/insert.sql"))
        .bind(matched.iter().map(|(partner, ..)| partner.0).collect::<Vec<_>>())
        .bind(matched.iter().map(|(_, event, _)| event.0).collect::<Vec<_>>())
        .bind(matched.iter().map(|(.., subscription)| subscription.0).collect::<Vec<_>>())
        .execute(db)
        .await?;
    Ok(())
}

/// Puts the next chunk of any fan-out into the queue; `None` when there is none. Answers of which event it was, and with how many deliveries.
pub async fn spread(db: &mut PgConnection) -> Result<Option<(EventId, i64)>, Error> {
    let row: Option<(Uuid, i64)> =
        sqlx::query_as(include_str!("queries/fanouts/spread.sql")).fetch_optional(db).await?;
    Ok(row.map(|(event, deliveries)| (EventId(event), deliveries)))
}
