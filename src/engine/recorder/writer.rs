//! The statements that write results, and the session that they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};

use super::{Disable, Finished, Known, Turn};
use crate::domain::Error;
use crate::domain::delivery::Whereabouts;
use crate::domain::id::{BundleId, NodeId, PartnerId, SubscriptionId};
use crate::hub::changes::Changes;
use crate::hub::handoff::Bells;
use crate::store::queue::{self, Books, Ending, Finish, Record};
use crate::store::sessions::{Bounds, Watch, in_time};
use crate::store::subscriptions::{self, Disabling};
use crate::store::{self, bundles, ordering_lines, partitions};
use crate::telemetry::Metrics;

/// Everybody waits for the batches, and their leases pass. Whoever has locked a row for longer than a request takes is not waited for.
pub(super) const BOUNDS: Bounds = Bounds { statement: Duration::from_secs(10), lock: Duration::from_secs(1) };

pub(super) struct Writer {
    pool: PgPool,
    node: NodeId,
    bounds: Bounds,
    bells: Bells,
    changes: Changes,
    metrics: Metrics,
    known: Known,
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

impl Failure {
    pub fn error(&self) -> &Error {
        match self {
            Self::NoSession(error) | Self::Lost(error) | Self::NotTaken(error) => error,
        }
    }
}

/// What was written.
struct Written {
    /// Whether deliveries that waited for others with their ordering key are due now.
    let_out: bool,
    /// Whether subscriptions are not what they were, or not what they were taken for.
    changed: bool,
    /// What became of each.
    endings: Vec<Ending>,
}

impl Writer {
    pub fn new(
        pool: PgPool,
        node: NodeId,
        bounds: Bounds,
        bells: Bells,
        changes: Changes,
        metrics: Metrics,
        known: Known,
    ) -> Self {
        let (session, books) = (None, Books::default());
        Self { pool, node, bounds, bells, changes, metrics, known, session, books }
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

    /// Does something with the session, which is given up if that fails and it may be the session's fault.
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
                if store::is_of_the_statement(&error)
                    // Also for a transaction to be undone that was begun.
                    && session.watch.answered(session.connection.ping()).await.is_ok()
                {
                    self.session = Some(session);
                } else {
                    session.connection.close_on_drop();
                }
                Err(match store::is_in_doubt(&error) {
                    true => Failure::Lost(error.into()),
                    false => Failure::NotTaken(error.into()),
                })
            }
        }
    }

    /// Writes results. `again`: some of them may be written already.
    pub async fn write(&mut self, batch: &[&Finished], again: bool) -> Result<(), Failure> {
        if !again {
            self.remember_well(batch);
        }
        let written = self.with_session(async |writer, db| writer.write_surely(db, batch, again).await).await;
        if again || written.is_err() {
            // Some of it may have been undone, and what was taken apart needs no books.
            self.books.forget(&bundles_of(batch));
        }
        let Written { let_out, changed, endings } = written?;
        if let_out {
            self.bells.ring_here();
        }
        if changed {
            batch.iter().for_each(|finished| self.changes.note(finished.held.lease.partner));
        }
        if batch.iter().any(|finished| finished.record.is_some()) {
            self.known.written.update(|count| count + 1);
            self.known.pulse.well();
        }
        for (finished, ending) in batch.iter().zip(endings) {
            if let Ending::Final(state) = ending {
                self.metrics.deliveries_ended(state, finished.held.lease.size() as u64);
            }
        }
        Ok(())
    }

    /// Counts a crash for what will not be written, as well as it can be: it is sent again, and must not be for ever.
    pub async fn count_crashes(&mut self, results: &[&Finished]) {
        let leases: Vec<_> = results.iter().map(|finished| &finished.held.lease).collect();
        let node = self.node;
        let counted = self.with_session(async |_, db| queue::count_crashes(db, node, &leases).await).await;
        if let Err(failure) = counted {
            tracing::warn!(error = %failure.error().chain(), "that these were sent in vain could not be counted");
        }
    }

    /// Also where it is not certain what was written before, or a day's partition is missing.
    async fn write_surely(
        &mut self,
        db: &mut PgConnection,
        batch: &[&Finished],
        again: bool,
    ) -> Result<Written, sqlx::Error> {
        if again {
            self.take_apart(db, &bundles_of(batch)).await?;
        }
        note_failing(db, batch, again).await?;
        match self.write_rows(db, batch).await {
            Err(error) if partitions::is_missing(&error) => {
                partitions::make_ahead(db).await?;
                self.take_apart(db, &bundles_of(batch)).await?;
                self.write_rows(db, batch).await
            }
            written => written,
        }
    }

    /// One transaction where subscriptions have to be disabled because their callback is gone: that is done first, so that what is held for them
    /// stays held.
    async fn write_rows(
        &mut self,
        db: &mut PgConnection,
        batch: &[&Finished],
    ) -> Result<Written, sqlx::Error> {
        let mut endings: Vec<Ending> = batch.iter().map(|finished| finished.ending).collect();
        let places = batch.iter().copied().enumerate();
        let mut gone: Vec<_> =
            places.filter_map(|(place, one)| Some((place, one, one.disable.as_ref()?))).collect();
        if gone.is_empty() {
            let let_out = self.finish_all(db, batch, &endings).await?;
            return Ok(Written { let_out, changed: false, endings });
        }
        // In order, so that at the commit two nodes lock their partners' matching in the same order.
        gone.sort_by_key(|(_, finished, _)| whose(finished));
        // Rolled back when it is dropped, so that a connection never leaves here in the middle of one.
        let mut transaction = db.begin().await?;
        let (mut disabled, mut out_of_reach, mut changed) = (BTreeMap::new(), BTreeSet::new(), false);
        for (place, finished, disable) in gone {
            let whose = whose(finished);
            let disabling = match out_of_reach.contains(&whose) {
                true => Disabling::OutOfReach,
                false => self.disable(&mut transaction, whose, disable).await?,
            };
            match disabling {
                Disabling::Done => drop(disabled.insert(whose, &disable.reason)),
                Disabling::Outdated => changed = true,
                Disabling::OutOfReach => {
                    out_of_reach.insert(whose);
                    endings[place] = disable.otherwise;
                }
            }
        }
        changed |= !disabled.is_empty();
        let let_out = self.finish_all(&mut transaction, batch, &endings).await?;
        transaction.commit().await?;
        for ((partner, subscription), reason) in disabled {
            tracing::warn!(%partner, %subscription, reason, "a subscription was disabled");
        }
        Ok(Written { let_out, changed, endings })
    }

    async fn disable(
        &self,
        db: &mut PgConnection,
        whose: (PartnerId, SubscriptionId),
        disable: &Disable,
    ) -> Result<Disabling, sqlx::Error> {
        let Disable { reason, judged, failing_for, .. } = disable;
        let is_well = failing_for.is_some() && self.known.well.borrow().contains(&whose.1);
        // It has not failed for so long, if only that could be noted.
        if is_well && !subscriptions::end_failing(db, &[whose.1]).await?.is_empty() {
            return Ok(Disabling::OutOfReach);
        }
        subscriptions::disable(db, whose, *judged, *failing_for, reason).await
    }

    /// A finish sees the queue as it was when it began. Where something got in line meanwhile, the next is let out by a second look. Returns
    /// whether deliveries that waited for others with their ordering key are due now.
    async fn finish_all(
        &mut self,
        db: &mut PgConnection,
        batch: &[&Finished],
        endings: &[Ending],
    ) -> Result<bool, sqlx::Error> {
        let rows: Vec<_> =
            batch.iter().zip(endings).map(|(finished, ending)| finish(finished, *ending)).collect();
        let done = queue::finish(db, &mut self.books, self.node, &rows).await?;
        let let_out_later = match done.stalled.as_slice() {
            [] => 0,
            stalled => ordering_lines::let_out(db, stalled).await?,
        };
        Ok(done.let_out > 0 || let_out_later > 0)
    }

    /// Before anything is written, so that nothing that is written first disables them.
    fn remember_well(&self, batch: &[&Finished]) {
        let turned = turned(batch, Turn::Well);
        let mut well = self.known.well.borrow_mut();
        let before = well.len();
        well.extend(turned);
        if well.len() > before {
            self.known.more_are_well.notify_one();
        }
    }

    /// Notes that subscriptions are well. It must be, some time: otherwise their next failures would be held against them as if they had had no success.
    pub async fn note_well(&mut self) {
        let well: Vec<_> = self.known.well.borrow().iter().copied().collect();
        if well.is_empty() {
            return;
        }
        // One that cannot be written must not keep the others from being.
        if let Err(Failure::NotTaken(_)) = self.note(&well).await {
            for id in &well {
                let _tried_again = self.note(&[*id]).await;
            }
        }
    }

    async fn note(&mut self, well: &[SubscriptionId]) -> Result<(), Failure> {
        let passed_over = self.with_session(async |_, db| subscriptions::end_failing(db, well).await).await?;
        let is_noted = |id: &SubscriptionId| well.contains(id) && !passed_over.contains(id);
        self.known.well.borrow_mut().retain(|id| !is_noted(id));
        Ok(())
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
            if let Err(failure) = taken {
                // Whoever ends another of theirs has them looked at again, and otherwise their leases end.
                self.books.forget(&overdue);
                tracing::warn!(error = %failure.error().chain(), bundles = overdue.len(), "bundles were not taken apart; that is done once their leases are over");
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

/// Rare: a subscription turns once, however much is sent to it. What is written again may have been overtaken: that a subscription began to fail is
/// not said then, since its next attempt says so, if it is true.
async fn note_failing(db: &mut PgConnection, batch: &[&Finished], again: bool) -> Result<(), sqlx::Error> {
    let failing: Vec<_> = turned(batch, Turn::Failing).into_iter().collect();
    match again || failing.is_empty() {
        true => Ok(()),
        false => subscriptions::begin_failing(db, &failing).await,
    }
}

/// Once each.
fn turned(batch: &[&Finished], turn: Turn) -> BTreeSet<SubscriptionId> {
    let of_turn = batch.iter().filter(|finished| finished.turn == Some(turn));
    of_turn.map(|finished| finished.held.lease.subscription).collect()
}

fn whose(finished: &Finished) -> (PartnerId, SubscriptionId) {
    (finished.held.lease.partner, finished.held.lease.subscription)
}

fn finish(finished: &Finished, ending: Ending) -> Finish<'_> {
    let record = finished.record.as_ref().map(|(record, started)| {
        let started_ago_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        Record { started_ago_ms, ..record.clone() }
    });
    Finish { lease: &finished.held.lease, ending, record }
}
