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
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::{DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};
use crate::domain::publication::{Attributes, OrderingKey};
use crate::domain::row_hint::RowHint;

/// A delivery to be stored with its event.
#[derive(Debug, Clone, Copy)]
pub struct NewDelivery {
    pub id: DeliveryId,
    pub partner: PartnerId,
    pub event: EventId,
    pub subscription: SubscriptionId,
    /// Whether it leaves in a batch.
    pub gathers: bool,
    pub begins: Begins,
}

/// How a delivery shall begin, unless it has to wait for another with its ordering key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// Leased to the node that inserts it.
    Leased,
    /// Due for anyone.
    Due,
    /// Not before its subscription is active again.
    Held,
}

/// What became of a delivery that was stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Whether this node may send it.
    pub leased: bool,
    /// Whether it is behind another with its ordering key, whose end lets it out.
    pub waits: bool,
    pub row_at: RowHint,
}

#[derive(sqlx::FromRow)]
struct StoredRow {
    delivery_id: Option<Uuid>,
    leased: Option<bool>,
    waits: Option<bool>,
    row_at: Option<RowHint>,
}

/// The lease that rows are born under: whose, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BirthLease {
    pub owner: NodeId,
    pub duration: Duration,
}

/// What one statement stores.
#[derive(Clone, Copy)]
pub struct Insert<'a> {
    pub events: &'a [NewEvent],
    /// How many subscriptions each event matched.
    pub matched: &'a [i32],
    /// In the order of their events.
    pub deliveries: &'a [NewDelivery],
    /// By which versions of the partners' routes they were matched, in order. Two of one partner never hold together.
    pub versions: &'a [(PartnerId, i64)],
    pub alongside: Alongside<'a>,
}

/// What is written together with events or not at all.
#[derive(Clone, Copy, Default)]
pub struct Alongside<'a> {
    pub cancelled: &'a [Ended],
    pub answers: &'a [Entry],
}

/// What goes along with events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Nothing,
    Sessions,
    /// And sessions, of which there may be none.
    Answers,
}

impl Company {
    const ALL: [Self; 3] = [Self::Nothing, Self::Sessions, Self::Answers];

    fn of(alongside: Alongside<'_>) -> Self {
        match alongside {
            Alongside { answers: [], cancelled: [] } => Self::Nothing,
            Alongside { answers: [], .. } => Self::Sessions,
            _ => Self::Answers,
        }
    }

    fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Sessions => &["cancelled"],
            Self::Answers => &["cancelled", "answered"],
        }
    }
}

/// Without ordering keys or with, each with every company.
static INSERTS: LazyLock<[[String; 3]; 2]> = LazyLock::new(|| {
    let insert = include_str!("queries/events/insert.sql");
    let with = |ordered, company: Company| sections::with(insert, &[&[ordered], company.sections()].concat());
    ["unordered", "ordered"].map(|ordered| Company::ALL.map(|company| with(ordered, company)))
});

/// Stores events with their deliveries, and what goes along with them. One statement: without a transaction around it, it is one by itself.
/// Errors are the driver's own, so that the caller can tell a missing partition (`partitions::is_missing`) and what was overtaken by others
/// ([`super::is_overtaken`]), the partners' routes included, from the rest.
pub async fn insert(
    db: &mut PgConnection,
    lease: BirthLease,
    insert: Insert<'_>,
) -> Result<HashMap<DeliveryId, Stored>, sqlx::Error> {
    let is_ordered = insert.events.iter().any(|event| event.ordering_key.is_some());
    insert_by((is_ordered, Company::of(insert.alongside)), db, lease, insert).await
}

/// Has a session plan the usual inserts, by inserting nothing: otherwise the first that come wait for it.
pub async fn plan_inserts(db: &mut PgConnection, lease: BirthLease) -> Result<(), sqlx::Error> {
    let nothing =
        Insert { events: &[], matched: &[], deliveries: &[], versions: &[], alongside: Alongside::default() };
    for company in Company::ALL {
        insert_by((false, company), db, lease, nothing).await?;
    }
    Ok(())
}

async fn insert_by(
    (is_ordered, company): (bool, Company),
    db: &mut PgConnection,
    lease: BirthLease,
    Insert { events, matched, deliveries, versions, alongside: Alongside { cancelled, answers } }: Insert<'_>,
) -> Result<HashMap<DeliveryId, Stored>, sqlx::Error> {
    debug_assert!(versions.is_sorted(), "they are looked up as such");
    let sql = &INSERTS[usize::from(is_ordered)][company as usize];
    let keys = || events.iter().map(|event| event.ordering_key.as_ref());
    let begins = |which| deliveries.iter().map(move |delivery| delivery.begins == which);
    let insert = sqlx::query_as(AssertSqlSafe(sql.as_str()))
        .bind(events.iter().map(|event| event.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.partner.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.source.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.payload.as_slice()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.occurred_at).collect::<Vec<_>>())
        .bind(events.iter().map(|event| attributes_json(&event.attributes)).collect::<Vec<_>>())
        .bind(keys().map(|key| key.map(OrderingKey::as_str)).collect::<Vec<_>>())
        .bind(matched)
        .bind(deliveries.iter().map(|delivery| delivery.partner.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|delivery| delivery.id.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|delivery| delivery.event.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|delivery| delivery.subscription.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|delivery| delivery.gathers).collect::<Vec<_>>())
        .bind(begins(Begins::Held).collect::<Vec<_>>())
        .bind(begins(Begins::Leased).collect::<Vec<_>>())
        .bind(lease.owner.0)
        .bind(lease.duration.as_secs_f64() * 1_000.0)
        .bind(versions.iter().map(|(partner, _)| partner.0).collect::<Vec<_>>())
        .bind(versions.iter().map(|(_, version)| *version).collect::<Vec<_>>())
        .bind(if is_ordered { lines(events, deliveries) } else { Vec::new() })
        .bind(rows_wanted(versions));
    if company == Company::Nothing {
        return Ok(stored(insert.fetch_all(db).await?));
    }
    let insert = insert
        .bind(cancelled.iter().map(|ended| ended.session.partner.0).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.id).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.version.0).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.updated_at).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.remembered).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.row_at).collect::<Vec<_>>());
    if company == Company::Sessions {
        return Ok(stored(insert.fetch_all(db).await?));
    }
    let insert = insert
        .bind(answers.iter().map(|answer| answer.partner.0).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.id).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.status).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.answer.as_slice()).collect::<Vec<_>>());
    Ok(stored(insert.fetch_all(db).await?))
}

/// How many partners have to have a row with the version that is known of them; more than there can be if two are known of one.
fn rows_wanted(versions: &[(PartnerId, i64)]) -> i64 {
    let twice = versions.windows(2).filter(|pair| pair[0].0 == pair[1].0).count();
    let changed = versions.iter().filter(|(_, version)| *version > 0).count();
    (changed + twice) as i64
}

/// The line that each delivery gets into, if its event has an ordering key.
fn lines(events: &[NewEvent], deliveries: &[NewDelivery]) -> Vec<Option<i64>> {
    let line = |event: &NewEvent| Some((event.id, event.ordering_key.as_ref()?.digest()));
    let lines: HashMap<_, _> = events.iter().filter_map(line).collect();
    deliveries.iter().map(|delivery| lines.get(&delivery.event).copied()).collect()
}

/// What became of the deliveries of an insert whose answer never came, as far as they are still in the queue; `None` if nothing of it was stored.
/// All of it was stored, or nothing was.
pub async fn find_inserted(
    db: &mut PgConnection,
    events: &[NewEvent],
    owner: NodeId,
) -> Result<Option<HashMap<DeliveryId, Stored>>, Error> {
    let rows: Vec<StoredRow> = sqlx::query_as(include_str!("queries/events/find_inserted.sql"))
        .bind(events.iter().map(|event| event.partner.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| millisecond_of(event.id.0).0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| millisecond_of(event.id.0).1).collect::<Vec<_>>())
        .bind(owner.0)
        .fetch_all(db)
        .await?;
    Ok((!rows.is_empty()).then(|| stored(rows)))
}

fn stored(rows: Vec<StoredRow>) -> HashMap<DeliveryId, Stored> {
    let stored = |row: StoredRow| {
        let (leased, waits) = (row.leased.unwrap_or_default(), row.waits.unwrap_or_default());
        Some((DeliveryId(row.delivery_id?), Stored { leased, waits, row_at: row.row_at? }))
    };
    rows.into_iter().filter_map(stored).collect()
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
