//! Writes what came of leases, in batches, on a connection of its own. A batch is whatever gathered while the last one was being written and
//! in a short while after: a statement costs more than many rows of it, and hardly anybody waits for a result. Those that somebody does wait for
//! are written at once, see [`incoming`].
//!
//! A batch that the database is asked to take and does not goes out of the way, to [`stubborn`], where those that are why are told from the rest.

mod incoming;
mod stubborn;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};

use self::incoming::Next;
pub use self::incoming::{Incoming, Results, results};
use self::stubborn::Stubborn;
use self::writer::{Failure, Writer};
use super::Held;
use crate::domain::id::{NodeId, SubscriptionId};
use crate::hub::changes::Changes;
use crate::hub::handoff::Bells;
use crate::store::queue::{Ending, Record};
use crate::store::subscriptions::AsRead;
use crate::telemetry::{Metrics, Pulse};

const BATCH_MAX: usize = 1_000;
/// Deliveries that a statement records; of its last lease some may be beyond.
const ROWS_MAX: usize = 1_000;
/// One for the batches, one for what is stubborn, and one to look whether these still answer.
pub const CONNECTIONS_MAX: u32 = 3;
/// Between tries at a batch that the database would not take.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Connections that one batch may cost, in case it is the batch.
const LOST_MAX: u32 = 3;

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
    /// What becomes of the delivery while somebody has the subscription locked. That is not waited for: the next attempt asks for the same.
    pub otherwise: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Failing,
    Well,
}

/// Whom some results concern, once they are written and dropped: with what was sent alone goes what kept others from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Concerned {
    /// The claimer may be asleep until a moment that is later than some of these.
    due: bool,
    /// The next that is sent alone may be a batch.
    gather: bool,
}

impl Concerned {
    fn by<'a>(results: impl IntoIterator<Item = &'a Finished>) -> Self {
        results.into_iter().fold(Self { due: false, gather: false }, |concerned, finished| {
            let alone = finished.held.alone.is_some();
            let short_wait =
                matches!(finished.ending, Ending::Retry { .. } | Ending::Release { .. } | Ending::Hold);
            Self { due: concerned.due || alone || short_wait, gather: concerned.gather || alone }
        })
    }

    fn told_by(self, bells: &Bells) {
        if self.due {
            bells.due.notify_one();
        }
        if self.gather {
            bells.gather.notify_one();
        }
    }
}

/// What the batches and the stubborn know of each other.
#[derive(Clone)]
struct Known {
    /// Of writing attempts.
    pulse: Pulse,
    /// Batches with attempts in them that were written: while this rises it is not the database that is in trouble.
    written: Rc<Cell<u64>>,
    /// Subscriptions that are well again, of which that is still to be noted.
    well: Rc<RefCell<BTreeSet<SubscriptionId>>>,
    /// Rings when there are more of them.
    more_are_well: Rc<Notify>,
}

pub struct Recorder {
    writer: Writer,
    bells: Bells,
    known: Known,
    stubborn: mpsc::UnboundedSender<Finished>,
    /// What was written when results were not taken the last time.
    not_taken_at: Option<u64>,
}

impl Recorder {
    /// Writes results until every sender is gone and everything they sent is written.
    pub async fn run(
        pool: PgPool,
        node: NodeId,
        bells: Bells,
        changes: Changes,
        metrics: Metrics,
        pulse: Pulse,
        results: Incoming,
    ) {
        let known =
            Known { pulse, written: Rc::default(), well: Rc::default(), more_are_well: Rc::default() };
        let writer = |bounds| {
            let (pool, bells, changes, metrics) =
                (pool.clone(), bells.clone(), changes.clone(), metrics.clone());
            Writer::new(pool, node, bounds, bells, changes, metrics, known.clone())
        };
        let (to_stubborn, arriving) = mpsc::unbounded_channel();
        let stubborn = Stubborn::new(writer(stubborn::BOUNDS), bells.clone(), known.clone(), arriving);
        let recorder = Self {
            writer: writer(writer::BOUNDS),
            bells: bells.clone(),
            known: known.clone(),
            stubborn: to_stubborn,
            not_taken_at: None,
        };
        tokio::join!(recorder.write_batches(results), stubborn.run());
    }

    async fn write_batches(mut self, mut results: Incoming) {
        self.writer.begin().await;
        loop {
            // Here, because there may be results at any time.
            let overdue_at = self.writer.take_apart_overdue().await;
            let mut batch = match results.next(overdue_at).await {
                Next::Batch(batch) => batch,
                Next::Time => continue,
                Next::Over => return,
            };
            self.record_all(&mut batch).await;
            let concerned = Concerned::by(&batch);
            drop(batch);
            concerned.told_by(&self.bells);
        }
    }

    /// A statement's worth at a time. What would not be written is taken out.
    async fn record_all(&mut self, results: &mut Vec<Finished>) {
        let mut written = 0;
        while written < results.len() {
            let end = written + part(&results[written..]);
            if self.record(&results[written..end]).await {
                written = end;
            } else {
                results.drain(written..end).for_each(|finished| drop(self.stubborn.send(finished)));
                let so_far = self.known.written.get();
                // If nothing is written any more, the next will not be either.
                if self.not_taken_at.replace(so_far) == Some(so_far) {
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Writes a batch, however long the database is away: the results are only here. False when it is there, and does not take them.
    async fn record(&mut self, batch: &[Finished]) -> bool {
        let batch: Vec<_> = batch.iter().collect();
        let (mut again, mut lost, mut was_away) = (false, 0, false);
        loop {
            let failed = match self.writer.write(&batch, again).await {
                Ok(()) => {
                    if was_away {
                        self.known.pulse.well();
                    }
                    return true;
                }
                Err(failed) => failed,
            };
            let (error, is_theirs) = match failed {
                Failure::NoSession(error) => (error, false),
                Failure::Lost(error) => {
                    (again, lost) = (true, lost + 1);
                    (error, lost == LOST_MAX)
                }
                Failure::NotTaken(error) => (error, true),
            };
            if is_theirs {
                tracing::warn!(error = %error.chain(), results = batch.len(), "results were not taken; the others go first, and these are tried apart from them");
                return false;
            }
            was_away = true;
            self.known.pulse.failed(&error, "results cannot be written now, and are kept");
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }
}

/// How many of the first results are a statement's worth. Each lease stays whole, however many deliveries it is for.
fn part<'a>(results: impl IntoIterator<Item = &'a Finished>) -> usize {
    let mut rows = 0;
    let fits = |finished: &&Finished| {
        let room_left = rows < ROWS_MAX;
        rows += finished.held.lease.size();
        room_left
    };
    results.into_iter().take_while(fits).count()
}
