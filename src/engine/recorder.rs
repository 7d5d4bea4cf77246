//! Writes what came of leases, in batches, on a connection of its own. A batch is whatever gathered while the last one was being written and
//! in a short while after: a statement costs more than many rows of it, and nobody waits for a result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{Notify, mpsc};

use super::Held;
use crate::domain::Error;
use crate::domain::delivery::Whereabouts;
use crate::domain::id::{BundleId, NodeId};
use crate::store::queue::{self, Books, Ending, Finish, Record};
use crate::store::sessions::{Watch, in_time};
use crate::store::subscriptions::{self, AsRead};
use crate::store::{self, bundles, ordering_lines, partitions};
use crate::telemetry::Metrics;

const BATCH_MAX: usize = 1_000;
/// Deliveries that a statement records; of its last lease some may be beyond.
const ROWS_MAX: usize = 1_000;
/// How long a small batch waits for more. What is not written yet is sent again after a crash, so this is short.
const GATHER_FOR: Duration = Duration::from_millis(10);
/// A batch of so many is no small one: each has hardly any part in what the statement itself costs, and more are waiting for the recorder than
/// it is for them.
const GATHERED: usize = 256;
/// One to write, and one to look whether the other still answers.
pub const CONNECTIONS_MAX: u32 = 2;
/// Between tries at a batch that the database would not take.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What came of a lease.
pub struct Finished {
    pub(super) held: Held,
    pub ending: Ending,
    /// The record's `started_ago_ms` is filled in when it is written.
    pub record: Option<(Record, Instant)>,
    /// Whether the subscription is to be disabled, if it still is what was judged.
    pub disable: Option<Disable>,
    /// Whether this turned its subscription from well to failing, or back.
    pub turn: Option<Turn>,
}

/// Nothing more is to be sent to a subscription until its owner has seen to it.
pub struct Disable {
    pub reason: String,
    pub judged: AsRead,
    /// Only if it has failed for so long: another post may have arrived meanwhile.
    pub failing_for: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Failing,
    Well,
}

pub struct Recorder {
    pool: PgPool,
    node: NodeId,
    /// Rings the claimer.
    due: Arc<Notify>,
    /// Rings the batcher.
    gather: Arc<Notify>,
    changes: Arc<AtomicU64>,
    metrics: Metrics,
    session: Option<Session>,
    books: Books,
    /// Bundles of which it is not certain what is recorded of them.
    unsure: Vec<BundleId>,
}

struct Session {
    connection: PoolConnection<Postgres>,
    watch: Watch,
}

impl Recorder {
    pub fn new(
        pool: PgPool,
        node: NodeId,
        [due, gather]: [Arc<Notify>; 2],
        changes: Arc<AtomicU64>,
        metrics: Metrics,
    ) -> Self {
        let (books, unsure) = (Books::default(), Vec::new());
        Self { pool, node, due, gather, changes, metrics, session: None, books, unsure }
    }

    /// Until every sender is gone and everything they sent is written.
    pub async fn run(mut self, mut results: mpsc::UnboundedReceiver<Finished>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        // If it fails, the first batch tries again and says so.
        self.session = self.connect().await.ok();
        loop {
            // Here, because there may be results at any time.
            if self.books.overdue_at().is_some_and(|at| at <= Instant::now()) {
                self.take_apart_overdue().await;
            }
            let received = results.recv_many(&mut batch, BATCH_MAX);
            let received = match self.books.overdue_at() {
                Some(at) => tokio::time::timeout_at(at.into(), received).await,
                None => Ok(received.await),
            };
            match received {
                Ok(0) => return,
                Ok(_) => gather(&mut results, &mut batch).await,
                Err(_elapsed) => continue,
            }
            for part in parts(&batch) {
                self.record(part).await;
            }
            let short_wait = |finished: &Finished| {
                finished.held.alone.is_some()
                    || matches!(finished.ending, Ending::Retry { .. } | Ending::Release { .. } | Ending::Hold)
            };
            let ring = batch.iter().any(short_wait);
            let ring_both = batch.iter().any(|finished| finished.held.alone.is_some());
            // With what was sent alone goes what kept others from it.
            batch.clear();
            if ring {
                // The claimer may be asleep until a moment that is later than these.
                self.due.notify_one();
            }
            if ring_both {
                // The next that is sent alone may be a batch.
                self.gather.notify_one();
            }
        }
    }

    /// Writes a batch, however long the database is away: the results are only here. Rows that it refuses for good are left to their
    /// leases, which pass, and the deliveries are sent again.
    async fn record(&mut self, batch: &[Finished]) {
        loop {
            match self.write(batch).await {
                Ok(()) => return self.count(batch),
                Err(error @ Error::Unavailable(_)) => {
                    tracing::warn!(error = %error.chain(), results = batch.len(), "results cannot be written now; trying again");
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
                Err(error) if batch.len() > 1 => {
                    tracing::error!(error = %error.chain(), results = batch.len(), "a batch of results was refused; writing each alone");
                    for finished in batch {
                        Box::pin(self.record(std::slice::from_ref(finished))).await;
                    }
                    return;
                }
                Err(error) => {
                    let delivery = batch.first().map(|finished| finished.held.lease.delivery);
                    tracing::error!(error = %error.chain(), ?delivery, "a result was refused; its lease will pass");
                    return;
                }
            }
        }
    }

    fn count(&self, batch: &[Finished]) {
        for finished in batch {
            if let Ending::Final(state) = finished.ending {
                (0..finished.held.lease.size()).for_each(|_| self.metrics.delivery_ended(state));
            }
        }
    }

    async fn connect(&mut self) -> Result<Session, Error> {
        in_time(async {
            let mut connection = self.pool.acquire().await?;
            store::sessions::plan_once_by_key(&mut connection).await?;
            queue::plan_finish(&mut connection, &mut self.books, self.node).await?;
            let watch = Watch::over(&mut connection, &self.pool).await?;
            Ok::<_, Error>(Session { connection, watch })
        })
        .await
    }

    async fn write(&mut self, batch: &[Finished]) -> Result<(), Error> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.connect().await?,
        };
        let written = self.write_surely(&mut session.connection, batch);
        match session.watch.answered(written).await {
            Ok(let_out) => {
                self.session = Some(session);
                if let_out {
                    self.due.notify_one();
                    self.gather.notify_one();
                }
                if batch.iter().any(|finished| finished.disable.is_some()) {
                    self.changes.fetch_add(1, Ordering::Release);
                }
                Ok(())
            }
            Err(error) => {
                session.connection.close_on_drop();
                // Some of it may have been written, and with a row for each nothing can be written twice.
                self.unsure.extend(bundles_of(batch));
                Err(error.into())
            }
        }
    }

    /// Also where it is not certain what was written before, or a day's partition is missing.
    async fn write_surely(&mut self, db: &mut PgConnection, batch: &[Finished]) -> Result<bool, sqlx::Error> {
        self.take_apart_unsure(db).await?;
        match write(db, &mut self.books, self.node, batch).await {
            Err(error) if partitions::is_missing(&error) => {
                // Some of it may have been undone.
                self.unsure = bundles_of(batch);
                partitions::make_ahead(db).await?;
                self.take_apart_unsure(db).await?;
                write(db, &mut self.books, self.node, batch).await
            }
            written => written,
        }
    }

    async fn take_apart_unsure(&mut self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        take_apart(db, &mut self.books, &self.unsure).await?;
        self.unsure.clear();
        Ok(())
    }

    async fn take_apart_overdue(&mut self) {
        let overdue = self.books.overdue(Instant::now());
        let taken = async {
            let mut session = match self.session.take() {
                Some(session) => session,
                None => self.connect().await?,
            };
            let taken = take_apart(&mut session.connection, &mut self.books, &overdue);
            match session.watch.answered(taken).await {
                Ok(()) => self.session = Some(session),
                Err(error) => {
                    session.connection.close_on_drop();
                    return Err(error.into());
                }
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = taken.await {
            tracing::warn!(error = %error.chain(), "bundles cannot be taken apart now; trying again");
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }
}

async fn take_apart(db: &mut PgConnection, books: &mut Books, ids: &[BundleId]) -> Result<(), sqlx::Error> {
    if !ids.is_empty() {
        bundles::take_apart(db, ids).await?;
        books.forget(ids);
    }
    Ok(())
}

fn bundles_of(batch: &[Finished]) -> Vec<BundleId> {
    let bundle = |finished: &Finished| match finished.held.lease.at {
        Whereabouts::Bundle(bundle) => Some(bundle.id),
        Whereabouts::Row(_) => None,
    };
    batch.iter().filter_map(bundle).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A statement's worth of results at a time. Each lease stays whole, however many deliveries it is for.
fn parts(results: &[Finished]) -> impl Iterator<Item = &[Finished]> {
    let mut rest = results;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |finished: &&Finished| {
            let room_left = rows < ROWS_MAX;
            rows += finished.held.lease.size();
            room_left
        };
        let (part, after) = rest.split_at(rest.iter().take_while(fits).count());
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// Waits for more of a small batch, but not for the rest of one whose senders are all gone.
async fn gather(results: &mut mpsc::UnboundedReceiver<Finished>, batch: &mut Vec<Finished>) {
    if results.is_closed() || batch.len() >= GATHERED {
        return;
    }
    tokio::time::sleep(GATHER_FOR).await;
    while batch.len() < BATCH_MAX
        && let Ok(finished) = results.try_recv()
    {
        batch.push(finished);
    }
}

/// Whether deliveries that waited for others with their ordering key are due now.
///
/// One transaction where subscriptions have to be disabled because their callback is gone: that is done first, so that what is held for them
/// stays held.
async fn write(
    db: &mut PgConnection,
    books: &mut Books,
    node: NodeId,
    batch: &[Finished],
) -> Result<bool, sqlx::Error> {
    let rows: Vec<Finish<'_>> = batch.iter().map(finish).collect();
    let mut gone: Vec<(&Finished, &Disable)> =
        batch.iter().filter_map(|one| one.disable.as_ref().map(|disable| (one, disable))).collect();
    note_turns(db, batch).await?;
    if gone.is_empty() {
        return finish_all(db, books, node, &rows).await;
    }
    // In order, so that two nodes lock subscriptions, and at the commit their partners' matching, in the same order.
    gone.sort_by_key(|(finished, _)| (finished.held.lease.partner, finished.held.lease.subscription));
    // Rolled back when it is dropped, so that a connection never leaves here in the middle of one.
    let mut transaction = db.begin().await?;
    let mut disabled = Vec::new();
    for (finished, disable) in gone {
        let lease = &finished.held.lease;
        let Disable { reason, judged, failing_for } = disable;
        let whose = (lease.partner, lease.subscription);
        if subscriptions::disable(&mut transaction, whose, *judged, *failing_for, reason).await? {
            disabled.push((lease, reason));
        }
    }
    let let_out = finish_all(&mut transaction, books, node, &rows).await?;
    transaction.commit().await?;
    for (lease, reason) in disabled {
        tracing::warn!(partner = %lease.partner, subscription = %lease.subscription, reason, "a subscription was disabled");
    }
    Ok(let_out)
}

/// A finish sees the queue as it was when it began. Where something got in line meanwhile, the next is let out by a second look.
async fn finish_all(
    db: &mut PgConnection,
    books: &mut Books,
    node: NodeId,
    rows: &[Finish<'_>],
) -> Result<bool, sqlx::Error> {
    let done = queue::finish(db, books, node, rows).await?;
    let let_out_later = match done.stalled.as_slice() {
        [] => 0,
        stalled => ordering_lines::let_out(db, stalled).await?,
    };
    Ok(done.let_out > 0 || let_out_later > 0)
}

/// Rare: a subscription turns once, however much is sent to it.
async fn note_turns(db: &mut PgConnection, batch: &[Finished]) -> Result<(), sqlx::Error> {
    let turned = |turn| {
        let of_turn = batch.iter().filter(|finished| finished.turn == Some(turn));
        // Once each.
        of_turn
            .map(|finished| finished.held.lease.subscription)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    };
    let (failing, well) = (turned(Turn::Failing), turned(Turn::Well));
    if !failing.is_empty() {
        subscriptions::begin_failing(db, &failing).await?;
    }
    if !well.is_empty() {
        subscriptions::end_failing(db, &well).await?;
    }
    Ok(())
}

fn finish(finished: &Finished) -> Finish<'_> {
    let record = finished.record.as_ref().map(|(record, started)| {
        let started_ago_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        Record { started_ago_ms, ..record.clone() }
    });
    Finish { lease: &finished.held.lease, ending: finished.ending, record }
}
