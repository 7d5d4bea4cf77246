//! Events, and the one insert that stores them with their deliveries.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::deliveries::millisecond_of;
use super::idempotency::Entry;
use super::redirect_sessions::Ended;
use super::sections;
use crate::domain::Error;
use crate::domain::delivery::RowHint;
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
    pub row_at: RowHint,
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
    /// Whether deliveries that could be sent at once found no room and were left to whoever has some. Whoever inserts knows.
    pub overflow: bool,
}

/// A delivery, an event that has none, or nothing where there was no event.
#[derive(sqlx::FromRow)]
struct InsertedRow {
    partner_id: Option<Uuid>,
    event_id: Option<Uuid>,
    matched: Option<i32>,
    delivery_id: Option<Uuid>,
    subscription_id: Option<Uuid>,
    leased: Option<bool>,
    waits: Option<bool>,
    batched: Option<bool>,
    row_at: Option<RowHint>,
}

impl InsertedRow {
    fn standing(&self) -> Standing {
        match (self.leased, self.waits, self.batched) {
            (Some(true), ..) => Standing::Leased,
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
    pub lease: Duration,
    pub rows_max: usize,
    pub set_aside: &'a [SubscriptionId],
}

/// With ordering keys or without, and with what goes along or without.
static INSERTS: LazyLock<[[String; 2]; 2]> = LazyLock::new(|| {
    let insert = include_str!("queries/events/insert.sql");
    let with = |ordered, alone| sections::with(insert, &[ordered, alone]);
    ["unordered", "ordered"].map(|ordered| ["alone", "alongside"].map(|company| with(ordered, company)))
});

/// What is written together with events or not at all.
#[derive(Clone, Copy, Default)]
pub struct Alongside<'a> {
    pub cancelled: &'a [Ended],
    pub answers: &'a [Entry],
}

/// Stores events with a queue row for each subscription that matches, and what goes along with them. One statement: without a transaction
/// around it, it is one by itself.
/// Errors are the driver's own, so that the caller can tell a missing partition (`partitions::is_missing`) and what was overtaken by others
/// ([`super::is_overtaken`]) from the rest.
pub async fn insert(
    db: &mut PgConnection,
    events: &[NewEvent],
    lease: BirthLease<'_>,
    alongside: Alongside<'_>,
) -> Result<Inserted, sqlx::Error> {
    let is_ordered = events.iter().any(|event| event.ordering_key.is_some());
    let has_company = !(alongside.cancelled.is_empty() && alongside.answers.is_empty());
    insert_by((is_ordered, has_company), db, events, lease, alongside).await
}

/// Has a session plan the usual inserts, by inserting nothing: otherwise the first that come wait for it.
pub async fn plan_inserts(db: &mut PgConnection, lease: BirthLease<'_>) -> Result<(), sqlx::Error> {
    for has_company in [true, false] {
        insert_by((false, has_company), db, &[], lease, Alongside::default()).await?;
    }
    Ok(())
}

async fn insert_by(
    (is_ordered, has_company): (bool, bool),
    db: &mut PgConnection,
    events: &[NewEvent],
    lease: BirthLease<'_>,
    Alongside { cancelled, answers }: Alongside<'_>,
) -> Result<Inserted, sqlx::Error> {
    let sql = &INSERTS[usize::from(is_ordered)][usize::from(has_company)];
    let insert = sqlx::query_as(AssertSqlSafe(sql.as_str()))
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
        .bind(lease.lease.as_secs_f64() * 1_000.0)
        .bind(i64::try_from(lease.rows_max).unwrap_or(i64::MAX))
        .bind(
            events
                .iter()
                .map(|event| event.ordering_key.as_ref().map(OrderingKey::digest))
                .collect::<Vec<_>>(),
        )
        .bind(lease.set_aside.iter().map(|subscription| subscription.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| DeliveryId::beside(event.id).0).collect::<Vec<_>>());
    if !has_company {
        return Ok(inserted(insert.fetch_all(db).await?));
    }
    let rows = insert
        .bind(cancelled.iter().map(|ended| ended.session.partner.0).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.id).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.version.0).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.updated_at).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.partner.0).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.id).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.status).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.answer.as_slice()).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.remembered).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    Ok(inserted(rows))
}

/// What an insert brought about whose answer never came, as long as the leases that it gave to this node last; `None` if nothing of it was
/// stored. All of it was stored, or nothing was.
pub async fn find_inserted(
    db: &mut PgConnection,
    events: &[NewEvent],
    owner: NodeId,
) -> Result<Option<Inserted>, Error> {
    let rows: Vec<InsertedRow> = sqlx::query_as(include_str!("queries/events/find_inserted.sql"))
        .bind(events.iter().map(|event| event.partner.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| millisecond_of(event.id.0).0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| millisecond_of(event.id.0).1).collect::<Vec<_>>())
        .bind(owner.0)
        .fetch_all(db)
        .await?;
    Ok((!rows.is_empty()).then(|| inserted(rows)))
}

fn inserted(rows: Vec<InsertedRow>) -> Inserted {
    let mut inserted = Inserted::default();
    for row in rows {
        let (Some(partner), Some(event), Some(matched)) = (row.partner_id, row.event_id, row.matched) else {
            continue;
        };
        let event = EventId(event);
        inserted.matched.insert(event, matched);
        inserted.fanned_out |= row.delivery_id.is_none() && matched > 0;
        if let (Some(delivery), Some(subscription)) = (row.delivery_id, row.subscription_id) {
            inserted.born.push(Born {
                partner: PartnerId(partner),
                delivery: DeliveryId(delivery),
                event,
                subscription: SubscriptionId(subscription),
                standing: row.standing(),
                row_at: row.row_at.unwrap_or_default(),
            });
        }
    }
    inserted
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
