//! The background half: everything between a committed delivery and its recorded result. Knows no surface; each is a [`Dialect`] to it.
//!
//! Dramatis personae.
//! - A *lease* is this process's right to send one delivery, until an instant. It is for telling a dead sender from a slow one.
//! - The *claimer* leases what is due in the queue: retries, overflow, and what other processes left behind. Fresh deliveries do not pass
//!   through it; they are born leased and arrive from the hub.
//! - The *batcher* gathers what leaves in batches, and leases batches that are due again.
//! - *Backlogs* are what a callback has due beyond what it takes at present. They wait in the queue, set aside, until its lane draws them.
//! - The *dispatcher* holds the leases, a *lane* for each callback, and starts a post when the lane and the process have room.
//! - A *post* renders, signs and sends one delivery once, and turns whatever happened into an outcome.
//! - The *recorder* writes outcomes in batches, guarded by the lease: a post that finishes late changes nothing.
//! - The *drainer* brings back what was held, a little at a time.
//! - The *janitor* keeps promises that no single request can: rows of deleted subscriptions, lines of ordering keys that stand still, old answers,
//!   partitions of the days to come and of those that are over.
//! - The *fan-out* puts deliveries of events that matched very many subscriptions into the queue, a chunk at a time, and what partners are to be told
//!   of their own subscriptions.
//! - The *replayer* puts finished deliveries into the queue again for partners who asked for many of them, a little at a time.
//! - The *verifier* tries callbacks out when their owners ask for it.
//! - *Hints* tell other nodes that something is due, and hear it from them.
//! - The *roll call* finds processes that are gone, so that what they had leased need not wait for its lease to end.
//!
//! Nothing in here holds a transaction or a connection while a callback is being called.

mod backlog_watch;
mod backlogs;
pub mod batcher;
pub mod claimer;
pub mod dispatcher;
pub mod drainer;
mod fan_out;
pub mod hints;
pub mod janitor;
mod landing;
mod lanes;
pub mod outbound;
mod pace;
mod post;
pub mod recorder;
mod replayer;
pub mod roll_call;
mod targets;
mod traffic;
mod verdict;
mod verifier;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::domain::delivery::Lease;
use crate::domain::dialect::Dialect;
use crate::domain::egress::EgressPolicy;
use crate::domain::id::NodeId;
use crate::domain::key_ring::KeyRing;
use crate::domain::retry::RetryPolicy;
use crate::domain::surface::Surface;
use crate::hub::Handed;
use crate::hub::handoff::Intake;
use crate::telemetry::{Health, Metrics};
use crate::{own_thread, store};

use self::lanes::SharedRoom;
use self::outbound::Outbound;
use self::worker::{Foreman, ended};

/// How long writing results may take once the last post has ended.
pub const WRITE_RESULTS_WITHIN: Duration = Duration::from_secs(2);
/// And giving back what is left.
pub const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// How many connections to callbacks there are at most, with so many deliveries in flight.
pub fn connections_max(in_flight_max: usize) -> usize {
    lanes::under_way_max(in_flight_max) + outbound::Limits::default().idle_max
}

/// How each surface speaks to its callbacks.
pub type Dialects = HashMap<Surface, Arc<dyn Dialect>>;

#[derive(Debug, Clone)]
pub struct Settings {
    pub node: NodeId,
    pub lease: Duration,
    /// Of one attempt, when its subscription does not say otherwise.
    pub timeout: Duration,
    pub retry: RetryPolicy,
    /// A subscription that has failed for so long without a success is disabled.
    pub disable_after: Duration,
    pub in_flight_max: usize,
    pub callback_in_flight_max: usize,
    /// Posts that a callback gets within a second at most, whatever its subscriptions allow; `None` for as many as it takes.
    pub callback_rate_per_s: Option<u32>,
    /// How long a batch that is not full waits for more.
    pub batch_linger: Duration,
    /// How long events and attempts are kept after their day.
    pub retention_days: i32,
    /// Unfinished deliveries beyond which nothing more is published.
    pub backlog_max: i64,
}

/// What the engine stands on.
pub struct Parts {
    pub pool: PgPool,
    pub keys: KeyRing,
    pub egress: Arc<EgressPolicy>,
    pub outbound: Outbound,
    pub dialects: Dialects,
    pub intake: Intake,
    pub settings: Settings,
    pub health: Health,
    pub metrics: Metrics,
}

/// The running engine.
pub struct Engine {
    pool: PgPool,
    node: NodeId,
    stopping: watch::Sender<bool>,
    dispatcher: JoinHandle<()>,
    recorder: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

impl Engine {
    pub fn start(parts: Parts) -> Self {
        let Parts { pool, keys, egress, outbound, dialects, intake, settings, health, metrics } = parts;
        let (stopping, stop) = watch::channel(false);
        let foreman = Foreman { health, metrics: metrics.clone(), stop };
        let (results, recorded) = recorder::results();
        let (claims, claimed) = mpsc::unbounded_channel();
        let (backlogs, wishes) = backlogs::Backlogs::new(intake.set_aside, intake.bells.due.clone());
        let own = roll_call::Own { node: settings.node, ring: keys.fingerprints() };
        let reading = store::sessions::apart(&pool, 1);
        let in_index_order = || store::sessions::in_index_order(&pool, 1);
        let pulse = |work| foreman.health.pulse(work);
        let reads = pulse("read_subscriptions");
        let targets = || {
            let (pool, keys, egress) = (reading.clone(), keys.clone(), egress.clone());
            targets::Targets::new(pool, keys, egress, settings.clone(), intake.changes.clone(), reads.clone())
        };
        let dialects = Arc::new(dialects);
        let verifier = verifier::Verifier::new(targets(), outbound.clone(), dialects.clone());
        let set_aside = wishes.set_aside.clone();
        let claimer = claimer::Claimer::new(
            in_index_order(),
            pulse("claim"),
            settings.clone(),
            intake.bells.due.clone(),
            claims.clone(),
            results.clone(),
            wishes,
        );
        let batcher = batcher::Batcher::new(
            (in_index_order(), pulse("gather_batches")),
            settings.clone(),
            intake.bells.gather.clone(),
            claimer.alone(),
            set_aside,
            claims,
            results.clone(),
        );
        let claims_room = claimer.room().room;
        let lanes = lanes::Lanes::new(settings.in_flight_max, settings.callback_in_flight_max)
            // What finds no room here is left to the database.
            .sharing(SharedRoom {
                room: intake.room,
                size: intake.room_max,
                reserve: 0,
                of_proven_lanes: false,
            })
            // What is left there comes back by claims, which must have room.
            .sharing(claimer.room());
        let dispatcher = dispatcher::Dispatcher::new(
            &settings,
            targets(),
            (lanes, backlogs, claims_room),
            outbound,
            dialects,
            results,
            metrics.clone(),
        );
        let (node, changes) = (settings.node, intake.changes.clone());
        let bells = || intake.bells.clone();
        let janitor_pulses =
            janitor::Pulses { sweeps: pulse("sweep"), partitions: pulse("make_and_drop_partitions") };
        let fan_out_pulses =
            fan_out::Pulses { spread: pulse("spread_fan_outs"), tell: pulse("tell_of_disabled") };
        let heartbeat = foreman.health.worker("recorder");
        let (recorder_bells, recorder_metrics, records) = (bells(), metrics.clone(), pulse("record_results"));
        let recorder = own_thread::spawn("recorder", &pool, recorder::CONNECTIONS_MAX, async move |pool| {
            let (bells, metrics) = (recorder_bells, recorder_metrics);
            recorder::Recorder::run(pool, node, bells, changes, metrics, records, recorded).await;
            drop(heartbeat);
        });
        Self {
            node: settings.node,
            dispatcher: foreman.holding("dispatcher", |stop| dispatcher.run(intake.leases, claimed, stop)),
            recorder,
            others: vec![
                foreman.holding("claimer", |stop| claimer.run(stop)),
                foreman.holding("verifier", |stop| verifier.run(intake.verifications, stop)),
                foreman.holding("batcher", |stop| batcher.run(stop)),
                foreman.looking(
                    "drainer",
                    (in_index_order(), bells(), pulse("bring_back_held")),
                    |(pool, bells, pulse), stop| drainer::run(pool, bells, pulse, stop),
                ),
                foreman.looking(
                    "janitor",
                    (pool.clone(), metrics, janitor_pulses),
                    move |(pool, metrics, pulses), stop| {
                        janitor::run(pool, settings.retention_days, metrics, pulses, stop)
                    },
                ),
                foreman.looking(
                    "backlog_watch",
                    (pool.clone(), intake.backlog_full, pulse("watch_backlog")),
                    move |(pool, full, pulse), stop| {
                        backlog_watch::run(pool, settings.backlog_max, full, pulse, stop)
                    },
                ),
                foreman.looking(
                    "fan_out",
                    (pool.clone(), bells(), fan_out_pulses),
                    |(pool, bells, pulses), stop| fan_out::run(pool, bells, pulses, stop),
                ),
                foreman.looking(
                    "replayer",
                    (in_index_order(), bells(), pulse("replay")),
                    move |(pool, bells, pulse), stop| {
                        replayer::run(pool, settings.backlog_max, bells, pulse, stop)
                    },
                ),
                foreman.looking("hints", (pool.clone(), bells()), move |(pool, bells), stop| {
                    hints::run(pool, node, bells, stop)
                }),
                foreman.looking(
                    "roll_call",
                    (pool.clone(), own, intake.bells.due.clone(), pulse("show_presence")),
                    |(pool, own, due, pulse), stop| roll_call::run(pool, own, due, pulse, stop),
                ),
            ],
            stopping,
            pool,
        }
    }

    /// Tells the workers to stop, ahead of [`Engine::stop`].
    pub fn begin_stop(&self) {
        let _nobody_listens = self.stopping.send(true);
    }

    /// Stops: nothing new is started, posts under way get until the bound, every result is written, and what is left is released for
    /// another process to send at once; not after a worker has fallen, since something that it held may be why. Then leases pass by time, and that
    /// is counted.
    pub async fn stop(self, bound: Duration, has_fallen: bool) {
        self.begin_stop();
        let until = Instant::now() + bound;
        for worker in self.others {
            ended(worker, until).await;
        }
        // Posts that are still under way then end with it.
        ended(self.dispatcher, until).await;
        // The recorder ends when the last sender of results is gone, after it has written them all.
        ended(self.recorder, Instant::now() + WRITE_RESULTS_WITHIN).await;
        if has_fallen {
            return;
        }
        let release = async { store::queue::release_all(&mut *self.pool.acquire().await?, self.node).await };
        match store::sessions::within(RELEASE_WITHIN, release).await {
            Ok(0) => {}
            Ok(leases) => tracing::info!(leases, "released unfinished leases"),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "could not release leases; they pass on when they expire")
            }
        }
    }
}

/// A lease in this process's hands, with the room in memory that is its, and a batch's place among those of its subscription.
struct Held {
    lease: Lease,
    room: tokio::sync::OwnedSemaphorePermit,
    place: Option<batcher::OutPlace>,
    /// Of a delivery that may be what killed its senders: while this is held, no other such is claimed.
    alone: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl From<Handed> for Held {
    fn from(handed: Handed) -> Self {
        Self { lease: handed.lease, room: handed.room, place: None, alone: None }
    }
}

/// Returns when it is time to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _sender_is_gone = stop.wait_for(|stopping| *stopping).await;
}
