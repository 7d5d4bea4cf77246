//! Events: stored with their deliveries, and as their partner sees them.

mod insert;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};

pub use insert::{
    Alongside, Begins, BirthLease, Insert, NewDelivery, Stored, find_inserted, insert, plan_inserts,
};

/// Stores an event that is meant for one subscription alone, with its one delivery: a test ping, due at once and tried once.
pub async fn insert_probe(
    db: &mut PgConnection,
    event: &NewEvent,
    delivery: DeliveryId,
    subscription: SubscriptionId,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with stored as (
             insert into events (id, partner_id, type, source, payload, occurred_at, matched) values ($1, $2, $3, $4, $5, $6, 1))
         insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at, probe)
         values ($2, $7, $1, $8, herald_now(), true)",
    )
    .bind(event.id.0)
    .bind(event.partner.0)
    .bind(&event.kind)
    .bind(&event.source)
    .bind(&event.payload)
    .bind(event.occurred_at)
    .bind(delivery.0)
    .bind(subscription.0)
    .execute(db)
    .await?;
    Ok(())
}

/// An event as its partner sees it.
#[derive(Debug, Clone)]
pub struct EventView {
    pub event: Event,
    pub matched: i32,
    pub ordering_key: Option<String>,
    /// JSON text.
    pub attributes: Option<String>,
}

#[derive(sqlx::FromRow)]
struct ViewRow {
    id: Uuid,
    r#type: String,
    source: String,
    payload: Vec<u8>,
    occurred_at: DateTime<Utc>,
    matched: i32,
    ordering_key: Option<String>,
    attributes: Option<String>,
}

pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    id: EventId,
) -> Result<Option<EventView>, Error> {
    let row: Option<ViewRow> = sqlx::query_as(
        "select id, type, source, payload, occurred_at, matched, ordering_key, attributes::text from events
         where id = $1 and partner_id = $2",
    )
    .bind(id.0)
    .bind(partner.0)
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| EventView {
        event: Event {
            id: EventId(row.id),
            kind: row.r#type,
            source: row.source,
            payload: row.payload,
            occurred_at: row.occurred_at,
        },
        matched: row.matched,
        ordering_key: row.ordering_key,
        attributes: row.attributes,
    }))
}
