//! The one insert that stores events with their deliveries.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::deliveries::millisecond_of;
use super::super::idempotency::Entry;
use super::super::redirect_sessions::Ended;
use super::super::sections;
use crate::domain::Error;
use crate::domain::delivery::{Bundle, Whereabouts};
use crate::domain::event::NewEvent;
use crate::domain::id::{BundleId, DeliveryId, EventId, IdMap, NodeId, PartnerId, SubscriptionId};
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
    pub at: Whereabouts,
}

#[derive(sqlx::FromRow)]
struct StoredRow {
    delivery_id: Option<Uuid>,
    leased: Option<bool>,
    waits: Option<bool>,
    row_at: Option<RowHint>,
    /// Where it has no row, the bundle that it stands in, and that bundle's size.
    #[sqlx(default)]
    bundle_id: Option<Uuid>,
    #[sqlx(default)]
    bundle_size: Option<i32>,
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

/// Where the deliveries of a statement go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deliveries {
    /// All of them into the bundle.
    Bundled,
    /// Into the bundle or the queue.
    Mixed,
    /// So that some get in line for their ordering keys.
    Ordered,
}

impl Deliveries {
    const ALL: [Self; 3] = [Self::Bundled, Self::Mixed, Self::Ordered];

    fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Bundled => &["no_rows"],
            Self::Mixed => &["rows", "unordered"],
            Self::Ordered => &["rows", "ordered"],
        }
    }
}

/// Wherever deliveries go, each with every company.
static INSERTS: LazyLock<[[String; 3]; 3]> = LazyLock::new(|| {
    let insert = include_str!("../queries/events/insert.sql");
    let with = |deliveries: Deliveries, company: Company| {
        sections::with(insert, &[deliveries.sections(), company.sections()].concat())
    };
    Deliveries::ALL.map(|deliveries| Company::ALL.map(|company| with(deliveries, company)))
});

/// Stores events with their deliveries, and what goes along with them. One statement: without a transaction around it, it is one by itself.
/// Errors are the driver's own, so that the caller can tell a missing partition (`partitions::is_missing`) and what was overtaken by others
/// ([`crate::store::is_overtaken`]), the partners' routes included, from the rest.
pub async fn insert(
    db: &mut PgConnection,
    lease: BirthLease,
    insert: Insert<'_>,
) -> Result<IdMap<DeliveryId, Stored>, sqlx::Error> {
    let is_ordered = insert.events.iter().any(|event| event.ordering_key.is_some());
    let lines = if is_ordered { lines(insert.events, insert.deliveries) } else { Vec::new() };
    let lines_or_none = lines.iter().copied().chain(std::iter::repeat(None));
    let mut split = Split::default();
    for (delivery, line) in insert.deliveries.iter().zip(lines_or_none) {
        match (delivery.begins, line) {
            (Begins::Leased, None) => split.bundled.push(*delivery),
            _ => {
                split.rows.push(*delivery);
                split.lines.push(line);
            }
        }
    }
    let deliveries = match split.rows.is_empty() {
        true => Deliveries::Bundled,
        false if is_ordered => Deliveries::Ordered,
        false => Deliveries::Mixed,
    };
    insert_by((deliveries, Company::of(insert.alongside)), db, lease, insert, split).await
}

/// Deliveries by what they are stored in.
#[derive(Default)]
struct Split {
    bundled: Vec<NewDelivery>,
    rows: Vec<NewDelivery>,
    /// The line that each of the rows gets into, if its event has an ordering key.
    lines: Vec<Option<i64>>,
}

impl Split {
    /// Named by the first that is in it.
    fn bundle(&self) -> Option<Bundle> {
        let first = self.bundled.first()?;
        Some(Bundle { id: BundleId(first.id.0), size: self.bundled.len() })
    }
}

/// Has a session plan the usual inserts, by inserting nothing: otherwise the first that come wait for it.
pub async fn plan_inserts(db: &mut PgConnection, lease: BirthLease) -> Result<(), sqlx::Error> {
    let nothing =
        Insert { events: &[], matched: &[], deliveries: &[], versions: &[], alongside: Alongside::default() };
    for company in Company::ALL {
        insert_by((Deliveries::Bundled, company), db, lease, nothing, Split::default()).await?;
    }
    Ok(())
}

async fn insert_by(
    (which, company): (Deliveries, Company),
    db: &mut PgConnection,
    lease: BirthLease,
    Insert { events, matched, versions, alongside: Alongside { cancelled, answers }, .. }: Insert<'_>,
    split: Split,
) -> Result<IdMap<DeliveryId, Stored>, sqlx::Error> {
    debug_assert!(versions.is_sorted(), "they are looked up as such");
    let sql: &'static str = &INSERTS[which as usize][company as usize];
    let keys = || events.iter().map(|event| event.ordering_key.as_ref());
    let Split { bundled, rows: deliveries, lines } = &split;
    let begins = |which| deliveries.iter().map(move |delivery| delivery.begins == which);
    let insert = sqlx::query_as(sql)
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
        .bind(lines)
        .bind(rows_wanted(versions))
        .bind(split.bundle().map(|bundle| bundle.id.0))
        .bind(bundled.iter().map(|delivery| delivery.partner.0).collect::<Vec<_>>())
        .bind(bundled.iter().map(|delivery| delivery.id.0).collect::<Vec<_>>())
        .bind(bundled.iter().map(|delivery| delivery.event.0).collect::<Vec<_>>())
        .bind(bundled.iter().map(|delivery| delivery.subscription.0).collect::<Vec<_>>());
    if company == Company::Nothing {
        return Ok(all_stored(insert.fetch_all(db).await?, &split));
    }
    let insert = insert
        .bind(cancelled.iter().map(|ended| ended.session.partner.0).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.id).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.version.0).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.session.updated_at).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.remembered).collect::<Vec<_>>())
        .bind(cancelled.iter().map(|ended| ended.row_at).collect::<Vec<_>>());
    if company == Company::Sessions {
        return Ok(all_stored(insert.fetch_all(db).await?, &split));
    }
    let insert = insert
        .bind(answers.iter().map(|answer| answer.partner.0).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.id).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.status).collect::<Vec<_>>())
        .bind(answers.iter().map(|answer| answer.answer.as_slice()).collect::<Vec<_>>());
    Ok(all_stored(insert.fetch_all(db).await?, &split))
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
    let lines: IdMap<_, _> = events.iter().filter_map(line).collect();
    deliveries.iter().map(|delivery| lines.get(&delivery.event).copied()).collect()
}

/// What became of the deliveries of an insert whose answer never came, as far as they are still in the queue; `None` if nothing of it was stored.
/// All of it was stored, or nothing was.
pub async fn find_inserted(
    db: &mut PgConnection,
    events: &[NewEvent],
    owner: NodeId,
) -> Result<Option<IdMap<DeliveryId, Stored>>, Error> {
    let rows: Vec<StoredRow> = sqlx::query_as(include_str!("../queries/events/find_inserted.sql"))
        .bind(events.iter().map(|event| event.partner.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| millisecond_of(event.id.0).0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| millisecond_of(event.id.0).1).collect::<Vec<_>>())
        .bind(owner.0)
        .fetch_all(db)
        .await?;
    Ok((!rows.is_empty()).then(|| stored(rows)))
}

/// The rows that came back, and what is in the bundle, of which none do.
fn all_stored(rows: Vec<StoredRow>, split: &Split) -> IdMap<DeliveryId, Stored> {
    let mut all = stored(rows);
    if let Some(bundle) = split.bundle() {
        let born = Stored { leased: true, waits: false, at: Whereabouts::Bundle(bundle) };
        all.extend(split.bundled.iter().map(|delivery| (delivery.id, born)));
    }
    all
}

fn stored(rows: Vec<StoredRow>) -> IdMap<DeliveryId, Stored> {
    let bundle = |row: &StoredRow| {
        Some(Bundle { id: BundleId(row.bundle_id?), size: usize::try_from(row.bundle_size?).ok()? })
    };
    let stored = |row: StoredRow| {
        let (leased, waits) = (row.leased.unwrap_or_default(), row.waits.unwrap_or_default());
        let at = bundle(&row).map(Whereabouts::Bundle).or(row.row_at.map(Whereabouts::Row))?;
        Some((DeliveryId(row.delivery_id?), Stored { leased, waits, at }))
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
