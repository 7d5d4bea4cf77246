//! What came of leases: the statement that ends deliveries, puts them off, holds them, and tells their history; and the shorter one for those
//! that simply arrived.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Instant;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::ordering_lines::Line;
use super::super::{bundles, sections};
use super::Books;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::{DeliveryState, Lease, Whereabouts};
use crate::domain::event::Event;
use crate::domain::id::{AttemptId, DeliveryId, NodeId, SubscriptionId};
use crate::domain::row_hint::RowHint;

/// Bytes of an answer that the deliveries of a batch keep together at most, and each of them in any case.
const RESPONSE_BYTES_OF_ALL: usize = 64 * 1024;
const RESPONSE_BYTES_OF_EACH: usize = 512;

/// What becomes of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The delivery is over, in this state.
    Final(DeliveryState),
    /// Due again later; the attempt counts.
    Retry { delay_ms: i64 },
    /// Held, while its subscription is paused or disabled.
    Hold,
    /// Given back unsent, due again later; nothing counts.
    Release { delay_ms: i64 },
}

/// What an attempt leaves in the history.
#[derive(Debug, Clone)]
pub struct Record {
    pub attempt: AttemptId,
    pub outcome: Outcome,
    pub status: Option<u16>,
    /// How long before the moment of writing the attempt began.
    pub started_ago_ms: i64,
    pub latency_ms: i32,
    pub response: Option<Vec<u8>>,
    pub detail: Option<String>,
}

pub struct Finish<'a> {
    pub lease: &'a Lease,
    pub ending: Ending,
    pub record: Option<Record>,
}

/// What finishing a batch of leases changed.
#[derive(Debug, Default)]
pub struct Done {
    /// Leases that this node still held. The rest change nothing and are recorded as late.
    pub changed: i64,
    /// Deliveries that waited for the end of another with their ordering key, and are due now.
    pub let_out: i64,
    /// Lines whose next could not be seen: `ordering_lines::let_out` finds it.
    pub stalled: Vec<Line>,
}

#[derive(sqlx::FromRow)]
struct DoneRow {
    changed: i64,
    let_out: i64,
    stalled_subscriptions: Vec<Uuid>,
    stalled_lines: Vec<i64>,
}

/// Finishes leases. A batch is as many rows as it has deliveries, all with the same outcome. What simply arrived is recorded by a statement of
/// its own, so each lease is finished whole, but not all of them at once.
pub async fn finish(
    db: &mut PgConnection,
    books: &mut Books,
    owner: NodeId,
    batch: &[Finish<'_>],
) -> Result<Done, sqlx::Error> {
    let (arrived, mut rest): (Vec<_>, Vec<_>) = batch.iter().partition(|finish| simply_arrived(finish));
    split_off(db, books, owner, &rest).await?;
    let is_bundled = |finish: &&Finish<'_>| books.bundle_of(finish.lease).is_some();
    let (bundled, rows): (Vec<_>, Vec<_>) = arrived.into_iter().partition(is_bundled);
    let mut changed = 0;
    for (arrived, kept_in) in [(bundled, KeptIn::Bundles), (rows, KeptIn::Queue)] {
        if !arrived.is_empty() {
            let left_alone = deliver(db, books, owner, kept_in, &arrived).await?;
            changed += i64::try_from(arrived.len() - left_alone.len()).unwrap_or(i64::MAX);
            let left_alone = arrived.into_iter().enumerate().filter(|(place, _)| left_alone.contains(place));
            rest.extend(left_alone.map(|(_, finish)| finish));
        }
    }
    if rest.is_empty() {
        return Ok(Done { changed, ..Done::default() });
    }
    let done = finish_any(db, owner, &rest).await?;
    Ok(Done { changed: changed + done.changed, ..done })
}

/// Has a session plan how results are recorded, by recording none.
pub async fn plan_finish(db: &mut PgConnection, books: &mut Books, owner: NodeId) -> Result<(), sqlx::Error> {
    for kept_in in [KeptIn::Bundles, KeptIn::Queue] {
        deliver(db, books, owner, kept_in, &[]).await?;
    }
    finish_any(db, owner, &[]).await?;
    Ok(())
}

fn simply_arrived(finish: &Finish<'_>) -> bool {
    let arrived = finish.record.as_ref().is_some_and(|record| record.outcome == Outcome::Delivered);
    let is_alone = finish.lease.batch.is_none() && !finish.lease.in_line;
    arrived && is_alone && finish.ending == Ending::Final(DeliveryState::Delivered)
}

/// Gives those that did not simply arrive the rows that are changed then.
async fn split_off(
    db: &mut PgConnection,
    books: &mut Books,
    owner: NodeId,
    finished: &[&Finish<'_>],
) -> Result<(), sqlx::Error> {
    let members: Vec<_> =
        finished.iter().filter_map(|finish| Some((finish.lease, books.bundle_of(finish.lease)?))).collect();
    if members.is_empty() {
        return Ok(());
    }
    let used_up = books.used_up_by(members.iter().map(|(_, bundle)| bundle));
    bundles::split_off(db, owner, &members, &used_up).await?;
    members.into_iter().for_each(|(lease, bundle)| books.settle(lease.delivery, bundle));
    Ok(())
}

/// What the leased stand in until they have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeptIn {
    Queue,
    Bundles,
}

static DELIVER: LazyLock<[String; 2]> = LazyLock::new(|| {
    let deliver = include_str!("../queries/queue/deliver.sql");
    ["rows", "bundled"].map(|section| sections::with(deliver, &[section]))
});

#[derive(sqlx::FromRow)]
struct DeliveredRow {
    now: DateTime<Utc>,
    /// Places among those that were told, from 1.
    left_alone: Vec<i64>,
}

/// Finishes leases whose deliveries simply arrived. Returns the places of those that it left alone: their leases are not this node's any more, their rows have
/// moved, or the next of their ordering key has to be let out.
async fn deliver(
    db: &mut PgConnection,
    books: &mut Books,
    owner: NodeId,
    kept_in: KeptIn,
    arrived: &[&Finish<'_>],
) -> Result<BTreeSet<usize>, sqlx::Error> {
    fn each<'a, T>(arrived: &[&'a Finish<'a>], take: impl Fn(&'a Finish<'a>) -> T) -> Vec<T> {
        arrived.iter().map(|finish| take(finish)).collect()
    }
    fn told<'a, T>(arrived: &[&'a Finish<'a>], take: impl Fn(&'a Record) -> T) -> Vec<Option<T>> {
        arrived.iter().map(|finish| finish.record.as_ref().map(&take)).collect()
    }
    let asked = Instant::now();
    let now = books.clock.now(asked);
    let attempt_id = |record: &Record| match now {
        Some(now) => record.attempt.at(now.timestamp_millis() - record.started_ago_ms).0,
        None => record.attempt.0,
    };
    let sql: &'static str = &DELIVER[kept_in as usize];
    let deliver = sqlx::query_as(sql)
        .bind(owner.0)
        .bind(each(arrived, |finish| finish.lease.partner.0))
        .bind(each(arrived, |finish| finish.lease.delivery.0))
        .bind(each(arrived, |finish| finish.lease.epoch))
        .bind(told(arrived, attempt_id))
        .bind(each(arrived, |finish| finish.lease.event.id.0))
        .bind(each(arrived, |finish| finish.lease.subscription.0))
        .bind(each(arrived, |finish| finish.lease.event.kind.as_str()))
        .bind(each(arrived, |finish| finish.record.as_ref()?.status.map(i32::from)))
        .bind(told(arrived, |record| record.started_ago_ms))
        .bind(told(arrived, |record| record.latency_ms))
        .bind(each(arrived, |finish| finish.record.as_ref()?.response.as_deref()))
        .bind(each(arrived, |finish| finish.record.as_ref()?.detail.as_deref()))
        .bind(now);
    let members: Vec<_> = match kept_in {
        KeptIn::Queue => Vec::new(),
        KeptIn::Bundles => arrived.iter().filter_map(|finish| books.bundle_of(finish.lease)).collect(),
    };
    let deliver = match kept_in {
        KeptIn::Queue => deliver.bind(each(arrived, |finish| row_at(finish.lease))),
        KeptIn::Bundles => deliver
            .bind(members.iter().map(|bundle| bundle.id.0).collect::<Vec<_>>())
            .bind(bundles::uuids(&books.used_up_by(members.iter()))),
    };
    let row: DeliveredRow = deliver.fetch_one(db).await?;
    books.clock.set(row.now, asked);
    let left_alone: BTreeSet<_> =
        row.left_alone.into_iter().filter_map(|place| usize::try_from(place - 1).ok()).collect();
    for (place, (finish, bundle)) in arrived.iter().zip(&members).enumerate() {
        match left_alone.contains(&place) {
            true => books.forget(&[bundle.id]),
            false => books.settle(finish.lease.delivery, *bundle),
        }
    }
    Ok(left_alone)
}

/// Nowhere, if it is not known: then it is found by its key.
fn row_at(lease: &Lease) -> RowHint {
    match lease.at {
        Whereabouts::Row(row_at) => row_at,
        Whereabouts::Bundle(_) => RowHint::default(),
    }
}

/// Finishes leases, whatever came of them.
async fn finish_any(
    db: &mut PgConnection,
    owner: NodeId,
    batch: &[&Finish<'_>],
) -> Result<Done, sqlx::Error> {
    let rows: Vec<Row<'_>> = batch.iter().flat_map(|finish| rows(finish)).collect();
    fn each<'a, T>(rows: &[Row<'a>], take: impl Fn(&Row<'a>) -> T) -> Vec<T> {
        rows.iter().map(take).collect()
    }
    fn told<'a, T>(rows: &[Row<'a>], take: impl Fn(&'a Record) -> Option<T>) -> Vec<Option<T>> {
        rows.iter().map(|row| row.finish.record.as_ref().and_then(&take)).collect()
    }
    let row: DoneRow = sqlx::query_as(include_str!("../queries/queue/finish.sql"))
        .bind(owner.0)
        .bind(each(&rows, |row| row.finish.lease.partner.0))
        .bind(each(&rows, |row| row.delivery.0))
        .bind(each(&rows, |row| row.epoch))
        .bind(each(&rows, |row| verdict(row.finish.ending)))
        .bind(each(&rows, |row| delay_ms(row.finish.ending)))
        .bind(each(&rows, |row| final_state(row.finish.ending)))
        .bind(each(&rows, Row::attempt))
        .bind(each(&rows, |row| row.event.id.0))
        .bind(each(&rows, |row| row.finish.lease.subscription.0))
        .bind(each(&rows, |row| row.event.kind.as_str()))
        .bind(told(&rows, |record| Some(record.outcome.as_str())))
        .bind(told(&rows, |record| record.status.map(i32::from)))
        .bind(told(&rows, |record| Some(record.started_ago_ms)))
        .bind(told(&rows, |record| Some(record.latency_ms)))
        .bind(each(&rows, Row::response))
        .bind(told(&rows, |record| record.detail.as_deref()))
        .fetch_one(db)
        .await?;
    let stalled = row.stalled_subscriptions.into_iter().zip(row.stalled_lines);
    Ok(Done {
        changed: row.changed,
        let_out: row.let_out,
        stalled: stalled
            .map(|(subscription, line)| Line { subscription: SubscriptionId(subscription), line })
            .collect(),
    })
}

/// One delivery of a finished lease.
struct Row<'a> {
    finish: &'a Finish<'a>,
    delivery: DeliveryId,
    event: &'a Event,
    epoch: i32,
    /// Among those that were sent together.
    place: usize,
}

fn rows<'a>(finish: &'a Finish<'a>) -> impl Iterator<Item = Row<'a>> {
    let lease = finish.lease;
    let first = Row { finish, delivery: lease.delivery, event: &lease.event, epoch: lease.epoch, place: 0 };
    let others = lease.others().iter().enumerate().map(move |(index, other)| Row {
        finish,
        delivery: other.delivery,
        event: &other.event,
        epoch: other.epoch,
        place: index + 1,
    });
    std::iter::once(first).chain(others)
}

impl<'a> Row<'a> {
    /// Of each delivery another one, and the same when it is written again.
    fn attempt(&self) -> Option<Uuid> {
        let attempt = self.finish.record.as_ref()?.attempt.0;
        Some(Uuid::from_u128(attempt.as_u128() ^ self.place as u128))
    }

    /// What the receiver answered, less of it the more deliveries have to keep it.
    fn response(&self) -> Option<&'a [u8]> {
        let response = self.finish.record.as_ref()?.response.as_deref()?;
        let bytes_max = (RESPONSE_BYTES_OF_ALL / self.finish.lease.size()).max(RESPONSE_BYTES_OF_EACH);
        Some(&response[..response.len().min(bytes_max)])
    }
}

fn verdict(ending: Ending) -> &'static str {
    match ending {
        Ending::Final(_) => "final",
        Ending::Retry { .. } => "retry",
        Ending::Hold => "hold",
        Ending::Release { .. } => "release",
    }
}

fn delay_ms(ending: Ending) -> Option<i64> {
    match ending {
        Ending::Retry { delay_ms } | Ending::Release { delay_ms } => Some(delay_ms),
        Ending::Final(_) | Ending::Hold => None,
    }
}

fn final_state(ending: Ending) -> Option<&'static str> {
    match ending {
        Ending::Final(state) => Some(state.as_str()),
        _ => None,
    }
}
