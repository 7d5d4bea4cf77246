//! Decides when which lease is sent, and what its outcome means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::lanes::{Kind, Lanes};
use super::outbound::Outbound;
use super::post::post;
use super::recorder::Finished;
use super::targets::{Target, Targets};
use super::traffic::{Shown, Traffic};
use super::verdict::{chance, ended, judge, millis, shown};
use super::{Dialects, Held, Settings, stopped};
use crate::domain::attempt::Outcome;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::{CallbackId, SubscriptionId};
use crate::domain::subscription::SubscriptionState;
use crate::hub::Handed;
use crate::store::queue::Ending;
use crate::telemetry::Metrics;

/// Messages taken from a channel at once.
const BATCH_MAX: usize = 512;
/// Well within the second that a target is believed for.
const REFRESH_EVERY: Duration = Duration::from_millis(400);
/// A lease that finds its lane full is due again after this much, and up to as much again.
const DEFERRED_FOR: Duration = Duration::from_secs(2);
/// Sending this delivery ended this many processes or leases: it is sent no more.
const CRASHES_MAX: i16 = 5;

/// Where a post stands in the lanes.
type Place = (CallbackId, Kind);

pub struct Dispatcher {
    targets: Targets,
    outbound: Outbound,
    dialects: Arc<Dialects>,
    lanes: Lanes,
    traffic: Traffic,
    /// No post takes longer.
    timeout_max: Duration,
    metrics: Metrics,
    results: mpsc::UnboundedSender<Finished>,
    landed: mpsc::UnboundedSender<Landed>,
    landings: mpsc::UnboundedReceiver<Landed>,
    /// Posts under way. They end with the dispatcher, however it ends.
    posts: JoinSet<()>,
}

impl Dispatcher {
    pub fn new(
        settings: &Settings,
        targets: Targets,
        outbound: Outbound,
        dialects: Arc<Dialects>,
        results: mpsc::UnboundedSender<Finished>,
        metrics: Metrics,
    ) -> Self {
        let lanes = Lanes::new(settings.in_flight_max, settings.callback_in_flight_max);
        let (landed, landings) = mpsc::unbounded_channel();
        let posts = JoinSet::new();
        let timeout_max = settings.timeout;
        let traffic = Traffic::default();
        Self {
            targets,
            outbound,
            dialects,
            lanes,
            traffic,
            timeout_max,
            metrics,
            results,
            landed,
            landings,
            posts,
        }
    }

    pub(super) async fn run(
        mut self,
        mut handed: mpsc::UnboundedReceiver<Handed>,
        mut claimed: mpsc::UnboundedReceiver<Held>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut refresh = tokio::time::interval(REFRESH_EVERY);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut fresh, mut again, mut landings) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                _ = self.landings.recv_many(&mut landings, BATCH_MAX) => {}
                _ = refresh.tick() => {
                    self.shed();
                    self.refresh().await;
                }
                n = handed.recv_many(&mut fresh, BATCH_MAX), if !handed.is_closed() || !handed.is_empty() => {
                    if n == 0 { continue }
                }
                n = claimed.recv_many(&mut again, BATCH_MAX), if !claimed.is_closed() || !claimed.is_empty() => {
                    if n == 0 { continue }
                }
            }
            landings.drain(..).for_each(|landed| self.land(landed));
            while self.posts.try_join_next().is_some() {}
            let arrivals = fresh.drain(..).map(Held::from).chain(again.drain(..)).collect();
            self.admit(arrivals).await;
            self.start().await;
        }
        while let Ok(late) = handed.try_recv() {
            self.finish(late.into(), Ending::Release { delay_ms: 0 });
        }
        while let Ok(late) = claimed.try_recv() {
            self.finish(late, Ending::Release { delay_ms: 0 });
        }
        self.drain().await;
    }

    /// Gives back what waits, and waits for what is under way.
    async fn drain(mut self) {
        for held in self.lanes.empty() {
            self.finish(held, Ending::Release { delay_ms: 0 });
        }
        while self.posts.join_next().await.is_some() {}
    }

    /// Waiting for room must not look like a crash: a lease that has become too short for a post is given back before it passes.
    fn shed(&mut self) {
        for held in self.lanes.shed(Instant::now() + self.timeout_max) {
            self.finish(held, Ending::Release { delay_ms: 0 });
        }
    }

    async fn refresh(&mut self) {
        if let Err(error) = self.targets.refresh().await {
            tracing::warn!(error = %error.chain(), "subscriptions cannot be read now");
        }
    }

    /// Puts arrivals into their lanes.
    async fn admit(&mut self, arrivals: Vec<Held>) {
        let mut unknown: Vec<SubscriptionId> = arrivals
            .iter()
            .map(|held| held.lease.subscription)
            .filter(|subscription| self.targets.callback(*subscription).is_none())
            .collect();
        self.read(&mut unknown).await;
        for held in arrivals {
            match self.targets.callback(held.lease.subscription) {
                Some(callback) => {
                    if let Some(held) = self.lanes.park(callback, held) {
                        let delay_ms = millis(DEFERRED_FOR.mul_f64(1.0 + chance()));
                        self.finish(held, Ending::Release { delay_ms });
                    }
                }
                None => self.without_target(held, &unknown),
            }
        }
    }

    /// Starts as many posts as there is room for.
    async fn start(&mut self) {
        let mut stale = Vec::new();
        while let Some((callback, kind, held)) = self.lanes.take() {
            match self.targets.fresh(held.lease.subscription) {
                Some(target) => self.send((callback, kind), held, target),
                None => stale.push(((callback, kind), held)),
            }
        }
        if stale.is_empty() {
            return;
        }
        let mut subscriptions = stale.iter().map(|(_, held)| held.lease.subscription).collect();
        self.read(&mut subscriptions).await;
        for (place, held) in stale {
            match self.targets.fresh(held.lease.subscription) {
                Some(target) => self.send(place, held, target),
                None => {
                    self.lanes.landed(place.0, place.1);
                    self.without_target(held, &subscriptions);
                }
            }
        }
    }

    /// Reads subscriptions; leaves the list empty when the database could not be asked.
    async fn read(&mut self, subscriptions: &mut Vec<SubscriptionId>) {
        subscriptions.sort_unstable();
        subscriptions.dedup();
        if subscriptions.is_empty() {
            return;
        }
        if let Err(error) = self.targets.read(subscriptions).await {
            tracing::warn!(error = %error.chain(), "subscriptions cannot be read now");
            subscriptions.clear();
        }
    }

    /// A subscription that was read and is not there any more ends its deliveries; one that could not be read delays them.
    fn without_target(&self, held: Held, read: &[SubscriptionId]) {
        if read.binary_search(&held.lease.subscription).is_ok() {
            self.cancel(held);
        } else {
            self.finish(held, Ending::Release { delay_ms: 1_000 });
        }
    }

    /// The last look before a post: whether it may, need and can be sent now.
    fn send(&mut self, place: Place, held: Held, target: Arc<Target>) {
        let lease = &held.lease;
        let unsent = match target.state {
            SubscriptionState::Deleted => Some(None),
            SubscriptionState::Paused | SubscriptionState::Disabled if !lease.probe => {
                Some(Some(Ending::Hold))
            }
            _ if lease.crashes >= CRASHES_MAX => Some(Some(Ending::Final(DeliveryState::Dead))),
            // A post that could outlive its lease could be sent by two at once.
            _ if lease.until.saturating_duration_since(Instant::now()) < target.timeout => {
                Some(Some(Ending::Release { delay_ms: 0 }))
            }
            _ if lease.probe => None,
            _ => match self.traffic.ask(place.0, target.rate_per_s, Instant::now()) {
                Ok(()) => None,
                Err(wait) => {
                    let delay_ms = millis(wait.mul_f64(1.0 + 0.1 * chance()));
                    Some(Some(Ending::Release { delay_ms }))
                }
            },
        };
        match unsent {
            None => self.launch(place, held, target),
            Some(ending) => {
                self.lanes.landed(place.0, place.1);
                match ending {
                    None => self.cancel(held),
                    Some(ending @ Ending::Final(_)) => self.end(held, ending, Outcome::Crashed),
                    Some(ending) => self.finish(held, ending),
                }
            }
        }
    }

    fn launch(&mut self, place: Place, held: Held, target: Arc<Target>) {
        let Some(dialect) = self.dialects.get(&target.surface).cloned() else {
            tracing::error!(surface = target.surface.as_str(), "no dialect is installed for this surface");
            self.traffic.withdraw(place.0, Instant::now());
            self.lanes.landed(place.0, place.1);
            return self.finish(held, Ending::Release { delay_ms: millis(DEFERRED_FOR) });
        };
        let (outbound, results, metrics) =
            (self.outbound.clone(), self.results.clone(), self.metrics.clone());
        let mut landing = Landing { place, shown: None, to: self.landed.clone() };
        let cut_off = self.traffic.cut_off();
        self.posts.spawn(async move {
            let (started, in_flight) = (Instant::now(), metrics.attempt_started());
            let posted = post(&outbound, &dialect, &target, &held.lease).await;
            metrics.attempt_finished(target.surface, posted.outcome, started.elapsed());
            landing.shown = shown(&target, &posted);
            let excused = posted.reached == Some(false) && cut_off.load(Ordering::Relaxed);
            let _stopped = results.send(judge(held, &target, posted, started, excused));
            drop((landing, in_flight));
        });
    }

    fn land(&mut self, landed: Landed) {
        let (callback, kind) = landed.place;
        match &landed.shown {
            Some(shown) => self.traffic.note(callback, shown, Instant::now()),
            None => self.traffic.withdraw(callback, Instant::now()),
        }
        self.lanes.landed(callback, kind);
    }

    fn finish(&self, held: Held, ending: Ending) {
        let _stopped = self.results.send(Finished { held, ending, record: None, disable: None, turn: None });
    }

    fn cancel(&self, held: Held) {
        self.end(held, Ending::Final(DeliveryState::Cancelled), Outcome::Cancelled);
    }

    /// Ends a delivery without a post.
    fn end(&self, held: Held, ending: Ending, outcome: Outcome) {
        let _stopped = self.results.send(ended(held, ending, outcome));
    }
}

/// Says that a post is over, also when it panicked.
struct Landing {
    place: Place,
    shown: Option<Shown>,
    to: mpsc::UnboundedSender<Landed>,
}

/// A post that is over.
struct Landed {
    place: Place,
    shown: Option<Shown>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let _stopped = self.to.send(Landed { place: self.place, shown: self.shown.take() });
    }
}

impl From<Handed> for Held {
    fn from(handed: Handed) -> Self {
        Self { lease: handed.lease, room: handed.room }
    }
}
