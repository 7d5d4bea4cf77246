//! The statements that write results, and the session that they are for.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};

use super::{Bells, Disable, Finished, Turn};
use crate::domain::Error;
use crate::domain::delivery::Whereabouts;
use crate::domain::id::{BundleId, NodeId, SubscriptionId};
use crate::store::queue::{self, Books, Ending, Finish, Record};
use crate::store::sessions::{Bounds, Watch, in_time};
use crate::store::{self, bundles, ordering_lines, partitions, subscriptions};
use crate::telemetry::Metrics;

/// Everybody waits for the batches. Whoever has locked a row for longer than a request takes is not waited for.
pub(super) const BOUNDS: Bounds = Bounds { statement: Duration::from_secs(30), lock: Duration::from_secs(2) };

pub(super) struct Writer {
    pool: PgPool,
    node: NodeId,
    bounds: Bounds,
    bells: Bells,
    changes: Arc<AtomicU64>,
    metrics: Metrics,
    written: Rc<Cell<u64>>,
    session: Option<Session>,
    books: Books,
}

struct Session {
    connection: PoolConnection<Postgres>,
    watch: Watch,
}

/// Why results were not written.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no session to write them by: nothing was.
    NoSession(Error),
    /// There was no answer. Some of them, or all, may be written.
    Lost(Error),
    /// The database does not take them as they are, at present or for good. Some may be written.
    NotTaken(Error),
}

impl Writer {
    pub fn new(
        pool: PgPool,
        node: NodeId,
        bounds: Bounds,
        bells: Bells,
        changes: Arc<AtomicU64>,
        metrics: Metrics,
        written: Rc<Cell<u64>>,
    ) -> Self {
        let (session, books) = (None, Books::default());
        Self { pool, node, bounds, bells, changes, metrics, written, session, books }
    }

    /// Connects, so that the first results need not wait for it. If it fails, they try again and say so.
    pub async fn begin(&mut self) {
        self.session = self.connect().await.ok();
    }

    async fn connect(&mut self) -> Result<Session, Error> {
        in_time(async {
            let mut connection = self.pool.acquire().await?;
            store::sessions::plan_once_by_key(&mut connection).await?;
            store::sessions::bound(&mut connection, self.bounds).await?;
            queue::plan_finish(&mut connection, &mut self.books, self.node).await?;
            let watch = Watch::over(&mut connection, &self.pool).await?;
            Ok::<_, Error>(Session { connection, watch })
        })
        .await
    }

    /// Does something with the session, which is given up if that fails.
    async fn with_session<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self, &mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Failure> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.connect().await.map_err(Failure::NoSession)?,
        };
        let worked = session.watch.answered(work(self, &mut session.connection)).await;
        match worked {
            Ok(done) => {
                self.session = Some(session);
                Ok(done)
            }
            Err(error) => {
                session.connection.close_on_drop();
                Err(match store::is_in_doubt(&error) {
                    true => Failure::Lost(error.into()),
                    false => Failure::NotTaken(error.into()),
                })
            }
        }
    }

    /// Writes results. `again`: some of them may be written already.
    pub async fn write(&mut self, batch: &[&Finished], again: bool) -> Result<(), Failure> {
        let written = self.with_session(async |writer, db| writer.write_surely(db, batch, again).await).await;
        let let_out = written.inspect_err(|_| {
            // Some of it may have been undone.
            self.books.forget(&bundles_of(batch));
        })?;
        if let_out {
            self.bells.due.notify_one();
            self.bells.gather.notify_one();
        }
        if batch.iter().any(|finished| finished.disable.is_some()) {
            self.changes.fetch_add(1, Ordering::Release);
        }
        if batch.iter().any(|finished| finished.record.is_some()) {
            self.written.update(|count| count + 1);
        }
        self.count(batch);
        Ok(())
    }

    fn count(&self, batch: &[&Finished]) {
        for finished in batch {
            if let Ending::Final(state) = finished.ending {
                (0..finished.held.lease.size()).for_each(|_| self.metrics.delivery_ended(state));
            }
        }
    }

    /// Also where it is not certain what was written before, or a day's partition is missing.
    async fn write_surely(
        &mut self,
        db: &mut PgConnection,
        batch: &[&Finished],
        again: bool,
    ) -> Result<bool, sqlx::Error> {
        if again {
            self.take_apart(db, &bundles_of(batch)).await?;
        }
        match write(db, &mut self.books, self.node, batch, again).await {
            Err(error) if partitions::is_missing(&error) => {
                partitions::make_ahead(db).await?;
                self.take_apart(db, &bundles_of(batch)).await?;
                write(db, &mut self.books, self.node, batch, again).await
            }
            written => written,
        }
    }

    /// With a row for each, nothing can be written twice.
    async fn take_apart(&mut self, db: &mut PgConnection, ids: &[BundleId]) -> Result<(), sqlx::Error> {
        if !ids.is_empty() {
            bundles::take_apart(db, ids).await?;
            self.books.forget(ids);
        }
        Ok(())
    }

    /// Takes apart the bundles that should not be any more, and returns when there may be others.
    pub async fn take_apart_overdue(&mut self) -> Option<Instant> {
        let overdue = self.books.overdue(Instant::now());
        if !overdue.is_empty() {
            let taken = self.with_session(async |writer, db| writer.take_apart(db, &overdue).await).await;
            if let Err(Failure::NoSession(error) | Failure::Lost(error) | Failure::NotTaken(error)) = taken {
                // Whoever ends another of theirs has them looked at again, and otherwise their leases end.
                self.books.forget(&overdue);
                tracing::warn!(error = %error.chain(), bundles = overdue.len(), "bundles were not taken apart; their leases will be, once they are over");
            }
        }
        self.books.overdue_at()
    }
}

fn bundles_of(batch: &[&Finished]) -> Vec<BundleId> {
    let bundle = |finished: &&Finished| match finished.held.lease.at {
        Whereabouts::Bundle(bundle) => Some(bundle.id),
        Whereabouts::Row(_) => None,
    };
    batch.iter().filter_map(bundle).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether deliveries that waited for others with their ordering key are due now.
///
/// One transaction where subscriptions have to be disabled because their callback is gone: that is done first, so that what is held for them
/// stays held.
async fn write(
    db: &mut PgConnection,
    books: &mut Books,
    node: NodeId,
    batch: &[&Finished],
    again: bool,
) -> Result<bool, sqlx::Error> {
    let rows: Vec<Finish<'_>> = batch.iter().copied().map(finish).collect();
    let mut gone: Vec<(&Finished, &Disable)> =
        batch.iter().copied().filter_map(|one| one.disable.as_ref().map(|disable| (one, disable))).collect();
    note_turns(db, batch, again).await?;
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

/// Rare: a subscription turns once, however much is sent to it. What is written again may have been overtaken: that a subscription began to fail is
/// not said then, since its next attempt says so, if it is true.
async fn note_turns(db: &mut PgConnection, batch: &[&Finished], again: bool) -> Result<(), sqlx::Error> {
    let turned = |turn| {
        let of_turn = batch.iter().filter(|finished| finished.turn == Some(turn));
        // Once each.
        of_turn
            .map(|finished| finished.held.lease.subscription)
            .collect::<BTreeSet<SubscriptionId>>()
            .into_iter()
            .collect::<Vec<_>>()
    };
    let (failing, well) = (turned(Turn::Failing), turned(Turn::Well));
    if !failing.is_empty() && !again {
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
