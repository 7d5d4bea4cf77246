//! Events, and the one insert that stores them with their deliveries.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::{DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};
use crate::domain::publication::{Attributes, OrderingKey};

/// A delivery that came into being with its event.
#[derive(Debug, Clone, Copy)]
pub struct Born {
    pub partner: PartnerId,
    pub delivery: DeliveryId,
    pub event: EventId,
    pub subscription: SubscriptionId,
    pub standing: Standing,
}

/// How a delivery begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Leased to the node that inserted it.
    Leased,
    /// Due for anyone, or held.
    Left,
    /// Behind another with its ordering key, whose end lets it out.
    Waits,
    /// To be gathered into a batch.
    Gathers,
}

/// What an insert brought about.
#[derive(Debug, Default)]
pub struct Inserted {
    pub born: Vec<Born>,
    /// How many subscriptions each event matched.
    pub matched: HashMap<EventId, i32>,
    /// Whether one of them matched so many that their deliveries are still to be put into the queue.
    pub fanned_out: bool,
}

/// A delivery, or an event that has none.
#[derive(sqlx::FromRow)]
struct InsertedRow {
    partner_id: Uuid,
    event_id: Uuid,
    matched: i32,
    delivery_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
    leased: bool,
    waits: Option<bool>,
    batched: Option<bool>,
}

impl InsertedRow {
    fn standing(&self) -> Standing {
        match (self.leased, self.waits, self.batched) {
            (true, ..) => Standing::Leased,
            (_, Some(true), _) => Standing::Waits,
            (_, _, Some(true)) => Standing::Gathers,
            _ => Standing::Left,
        }
    }
}

/// The lease that rows are born under: whose, for how long, at most for how many rows, and for which subscriptions' rows it is not.
#[derive(Debug, Clone, Copy)]
pub struct BirthLease<'a> {
    pub owner: NodeId,
    pub lease_ms: i64,
    pub rows_max: i64,
    pub set_aside: &'a [SubscriptionId],
}

/// Stores events with a queue row for each subscription that matches.
/// Errors are the driver's own, so that the caller can tell a missing partition (`partitions::is_missing`) from the rest.
pub async fn insert(
    db: &mut PgConnection,
    events: &[NewEvent],
    lease: BirthLease<'_>,
) -> Result<Inserted, sqlx::Error> {
    let rows: Vec<InsertedRow> = sqlx::query_as(include_str!("queries/events/insert.sql"))
        .bind(events.iter().map(|event| event.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.partner.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.source.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.payload.as_slice()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.occurred_at).collect::<Vec<_>>())
        .bind(events.iter().map(|event| attributes_json(&event.attributes)).collect::<Vec<_>>())
        .bind(
            events
                .iter()
                .map(|event| event.ordering_key.as_ref().map(OrderingKey::as_str))
                .collect::<Vec<_>>(),
        )
        .bind(lease.owner.0)
        .bind(lease.lease_ms as f64)
        .bind(lease.rows_max)
        .bind(
            events
                .iter()
                .map(|event| event.ordering_key.as_ref().map(OrderingKey::digest))
                .collect::<Vec<_>>(),
        )
        .bind(lease.set_aside.iter().map(|subscription| subscription.0).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    let mut inserted = Inserted::default();
    for row in rows {
        let event = EventId(row.event_id);
        inserted.matched.insert(event, row.matched);
        inserted.fanned_out |= row.delivery_id.is_none() && row.matched > 0;
        if let (Some(delivery), Some(subscription)) = (row.delivery_id, row.subscription_id) {
            inserted.born.push(Born {
                partner: PartnerId(row.partner_id),
                delivery: DeliveryId(delivery),
                event,
                subscription: SubscriptionId(subscription),
                standing: row.standing(),
            });
        }
    }
    Ok(inserted)
}

/// `None` where there are none, which is what most events have.
fn attributes_json(attributes: &Attributes) -> Option<String> {
    if attributes.is_empty() {
        return None;
    }
    let members = attributes.iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
    Some(Value::Object(members.collect()).to_string())
}

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

/// Which of these events are stored: how a COMMIT whose answer never came is looked up.
pub async fn stored(db: &mut PgConnection, ids: &[EventId]) -> Result<Vec<EventId>, Error> {
    let found: Vec<Uuid> = sqlx::query_scalar("select id from events where id = any ($1)")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    Ok(found.into_iter().map(EventId).collect())
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
