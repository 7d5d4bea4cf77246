//! Decides when which lease is sent, and what its outcome means.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::backlogs::{Backlogs, Drawn};
use super::claimer::Claim;
use super::landing::{Landed, Landing};
use super::lanes::{Lanes, Place};
use super::outbound::Outbound;
use super::post::post;
use super::recorder::{Finished, Results};
use super::targets::{Look, Target, Targets};
use super::traffic::{Refusal, Traffic};
use super::verdict::{chance, ended, judge, millis, shown};
use super::{Dialects, Held, Settings, stopped};
use crate::domain::attempt::Outcome;
use crate::domain::breaker::Standing;
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
/// A post that is under way at the end of two of these takes long.
const TICK_EVERY: Duration = Duration::from_millis(200);
/// A lease that cannot be sent for a reason of ours is due again after this much.
const DEFERRED_FOR: Duration = Duration::from_secs(2);
/// Sending this delivery ended this many processes, or its result was not to be recorded so often: it is sent no more.
const CRASHES_MAX: i16 = 5;
/// How often a subscription that changes meanwhile is read before it is taken as it was read last.
const READS_MAX: u32 = 3;

pub struct Dispatcher {
    targets: Targets,
    outbound: Outbound,
    dialects: Arc<Dialects>,
    lanes: Lanes,
    backlogs: Backlogs,
    /// The room that claimed leases share.
    claims_room: Arc<Semaphore>,
    traffic: Traffic,
    /// No post takes longer.
    timeout_max: Duration,
    metrics: Metrics,
    results: Results,
    landed: mpsc::UnboundedSender<Landed>,
    landings: mpsc::UnboundedReceiver<Landed>,
    /// Posts under way. They end with the dispatcher, however it ends.
    posts: JoinSet<()>,
}

impl Dispatcher {
    pub(super) fn new(
        settings: &Settings,
        targets: Targets,
        (lanes, backlogs, claims_room): (Lanes, Backlogs, Arc<Semaphore>),
        outbound: Outbound,
        dialects: Arc<Dialects>,
        results: Results,
        metrics: Metrics,
    ) -> Self {
        let (landed, landings) = mpsc::unbounded_channel();
        Self {
            targets,
            outbound,
            dialects,
            lanes,
            backlogs,
            claims_room,
            traffic: Traffic::new(settings.callback_rate_per_s),
            timeout_max: settings.timeout,
            metrics,
            results,
            landed,
            landings,
            posts: JoinSet::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut handed: mpsc::UnboundedReceiver<Handed>,
        mut claimed: mpsc::UnboundedReceiver<Claim>,
        mut stop: watch::Receiver<bool>,
    ) {
        let [mut refresh, mut tick] = [REFRESH_EVERY, TICK_EVERY].map(|every| {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        });
        let (mut fresh, mut again, mut landings) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                _ = self.landings.recv_many(&mut landings, BATCH_MAX) => {}
                _ = refresh.tick() => {
                    self.shed();
                    self.traffic.look(Instant::now());
                    self.traffic.forget(Instant::now());
                    self.lanes.paces.forget(Instant::now());
                    self.targets.refresh().await;
                    self.backlogs.follow(&mut self.targets).await;
                    self.draw(self.backlogs.callbacks());
                }
                _ = tick.tick() => self.metrics.attempts_taking_long(self.lanes.tick()),
                n = handed.recv_many(&mut fresh, BATCH_MAX), if !handed.is_closed() || !handed.is_empty() => {
                    if n == 0 { continue }
                }
                n = claimed.recv_many(&mut again, BATCH_MAX), if !claimed.is_closed() || !claimed.is_empty() => {
                    if n == 0 { continue }
                }
            }
            let with_room: Vec<CallbackId> =
                landings.iter().map(|landed: &Landed| landed.place.callback).collect();
            landings.drain(..).for_each(|landed| self.land(landed));
            // What panics in it is caught where it sends; anything else would lose its result without a word, and be sent again for ever.
            while let Some(ended) = self.posts.try_join_next() {
                ended.expect("a post ends with its result");
            }
            let mut arrivals: Vec<Arrival> =
                fresh.drain(..).map(|handed| Arrival { held: Held::from(handed), fresh: true }).collect();
            let mut drawn = Vec::new();
            for claim in again.drain(..) {
                match claim {
                    Claim::Lease(held) => arrivals.push(Arrival { held, fresh: false }),
                    Claim::Drawn(answer) => drawn.push(answer),
                }
            }
            self.admit(arrivals).await;
            drawn.iter().for_each(|drawn: &Drawn| self.backlogs.drawn(drawn));
            self.start().await;
            self.draw(with_room);
            self.backlogs.tell();
        }
        while let Ok(late) = handed.try_recv() {
            self.finish(late.into(), Ending::Release { delay_ms: 0 });
        }
        while let Ok(late) = claimed.try_recv() {
            if let Claim::Lease(late) = late {
                self.finish(late, Ending::Release { delay_ms: 0 });
            }
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
        let mut slow = BTreeSet::new();
        // What is long enough now must still be so when this is looked at next.
        for held in self.lanes.shed(Instant::now() + self.timeout_max + REFRESH_EVERY) {
            match self.targets.callback(held.lease.subscription) {
                Some(callback) => {
                    self.put_back(callback, held);
                    slow.insert(callback);
                }
                None => self.finish(held, Ending::Release { delay_ms: 0 }),
            }
        }
        slow.into_iter().for_each(|callback| self.backlogs.slow(callback));
    }

    /// Leaves a lease to the database until its callback takes more.
    fn put_back(&mut self, callback: CallbackId, held: Held) {
        if held.alone.is_some() {
            // Others wait to be sent alone as well: the next to be claimed must not be this one again.
            return self.finish(held, Ending::Release { delay_ms: millis(DEFERRED_FOR) });
        }
        self.backlogs.set_aside(callback, held.lease.subscription);
        self.finish(held, Ending::Release { delay_ms: 0 });
    }

    /// Sees to it that lanes with room get more of what is set aside for them; while a breaker is open, one for the probe when it is time.
    fn draw(&mut self, callbacks: Vec<CallbackId>) {
        let now = Instant::now();
        for callback in callbacks {
            let Some(capacity) = self.backlogs.capacity(callback) else { continue };
            let capacity = capacity.min(self.lanes.capacity_for_more(callback, &self.claims_room));
            let parked = self.lanes.parked(callback);
            let wanted = match self.traffic.standing(callback, now) {
                Standing::Shut => 0,
                Standing::ProbeDue => usize::from(parked == 0),
                Standing::Closed if parked * 2 <= capacity => capacity - parked,
                Standing::Closed => 0,
            };
            if wanted > 0 {
                self.backlogs.draw(callback, wanted, now);
            }
        }
    }

    /// Puts arrivals into their lanes.
    async fn admit(&mut self, arrivals: Vec<Arrival>) {
        let mut unknown: Vec<SubscriptionId> = arrivals
            .iter()
            .map(|arrival| arrival.held.lease.subscription)
            .filter(|subscription| self.targets.callback(*subscription).is_none())
            .collect();
        self.read(&mut unknown).await;
        for Arrival { held, fresh } in arrivals {
            match self.targets.callback(held.lease.subscription) {
                // Oldest first: what is fresh gets in line behind what is set aside.
                Some(callback) if fresh && self.backlogs.has(callback) => self.put_back(callback, held),
                Some(callback) => self.put_in_lane(callback, held),
                None => self.without_target(held, &unknown),
            }
        }
    }

    fn put_in_lane(&mut self, callback: CallbackId, held: Held) {
        if let Some(held) = self.lanes.park(callback, held) {
            self.put_back(callback, held);
        }
    }

    /// Starts as many posts as there is room for.
    async fn start(&mut self) {
        let mut stale = Vec::new();
        while let Some((place, held)) = self.lanes.take() {
            match self.targets.fresh(held.lease.subscription) {
                Some(target) => self.send(place, held, target),
                None => stale.push((place, held)),
            }
        }
        // What changes while it is read is read again. Changes that never stop do not keep anything from being sent.
        for reads_left in (0..READS_MAX).rev() {
            if stale.is_empty() {
                return;
            }
            let mut subscriptions =
                stale.iter().map(|(_, held): &(Place, Held)| held.lease.subscription).collect();
            self.read(&mut subscriptions).await;
            let could_be_read = !subscriptions.is_empty();
            for (place, held) in std::mem::take(&mut stale) {
                match self.targets.look(held.lease.subscription) {
                    Look::Fresh(target) => self.send(place, held, target),
                    Look::Stale(_) if could_be_read && reads_left > 0 => stale.push((place, held)),
                    Look::Stale(Some(target)) if could_be_read => self.send(place, held, target),
                    Look::Stale(_) => {
                        self.lanes.vacated(place);
                        self.finish(held, Ending::Release { delay_ms: 1_000 });
                    }
                    Look::Unknown => {
                        self.lanes.vacated(place);
                        self.without_target(held, &subscriptions);
                    }
                }
            }
        }
    }

    /// Reads subscriptions; leaves those in the list that could be read.
    async fn read(&mut self, subscriptions: &mut Vec<SubscriptionId>) {
        subscriptions.sort_unstable();
        subscriptions.dedup();
        if subscriptions.is_empty() {
            return;
        }
        match self.targets.read(subscriptions).await {
            Some(not_understood) => subscriptions.retain(|id| !not_understood.contains(id)),
            None => subscriptions.clear(),
        }
    }

    /// A subscription that was read and is not there any more ends its deliveries; one that could not be read delays them.
    fn without_target(&self, held: Held, read: &[SubscriptionId]) {
        if read.binary_search(&held.lease.subscription).is_ok() {
            self.end(held, Ending::Final(DeliveryState::Cancelled), Outcome::Cancelled);
        } else {
            self.finish(held, Ending::Release { delay_ms: 1_000 });
        }
    }

    /// The last look before a post: whether it may, need and can be sent now.
    fn send(&mut self, place: Place, held: Held, target: Arc<Target>) {
        if target.callback != place.callback {
            self.lanes.vacated(place);
            return self.put_in_lane(target.callback, held);
        }
        let lease = &held.lease;
        let unsent = match target.state {
            SubscriptionState::Deleted => Some(None),
            SubscriptionState::Paused | SubscriptionState::Disabled if !lease.probe => {
                Some(Some(Ending::Hold))
            }
            _ if lease.crashes >= CRASHES_MAX => {
                tracing::error!(delivery = %lease.delivery, crashes = lease.crashes, "each process that was sending this is gone; it is given up");
                Some(Some(Ending::Final(DeliveryState::Dead)))
            }
            // A post that could outlive its lease could be sent by two at once.
            _ if lease.until.saturating_duration_since(Instant::now()) < target.timeout => {
                Some(Some(Ending::Release { delay_ms: 0 }))
            }
            _ if lease.probe => None,
            _ => match self.traffic.ask(
                place.callback,
                (target.rate_per_s, lease.was_given_back()),
                Instant::now(),
            ) {
                Ok(()) => None,
                Err(Refusal::Open) => {
                    self.lanes.vacated(place);
                    return self.put_back(place.callback, held);
                }
                Err(Refusal::Turn(wait)) => Some(Some(Ending::Release { delay_ms: millis(wait) })),
            },
        };
        match unsent {
            None => self.launch(place, held, target),
            Some(ending) => {
                self.lanes.vacated(place);
                match ending {
                    None => self.end(held, Ending::Final(DeliveryState::Cancelled), Outcome::Cancelled),
                    Some(ending @ Ending::Final(_)) => self.end(held, ending, Outcome::Crashed),
                    Some(ending) => self.finish(held, ending),
                }
            }
        }
    }

    fn launch(&mut self, place: Place, held: Held, target: Arc<Target>) {
        let Some(dialect) = self.dialects.get(&target.surface).cloned() else {
            tracing::error!(surface = target.surface.as_str(), "no dialect is installed for this surface");
            self.traffic.withdraw(place.callback, Instant::now());
            self.lanes.vacated(place);
            return self.finish(held, Ending::Release { delay_ms: millis(DEFERRED_FOR) });
        };
        let (outbound, results, metrics) =
            (self.outbound.clone(), self.results.clone(), self.metrics.clone());
        let mut landing = Landing { place, shown: None, to: self.landed.clone() };
        let cut_off = self.traffic.cut_off();
        // Boxed: the runtime would copy all of it into its task, and once more when it has ended.
        self.posts.spawn(Box::pin(async move {
            let (started, in_flight) = (Instant::now(), metrics.attempt_started());
            held.place.iter().for_each(|place| place.posted(started));
            let posted = post(&outbound, &dialect, &target, &held.lease).await;
            let took = started.elapsed();
            held.place.iter().for_each(|place| place.ended(took, started + took));
            metrics.attempt_finished(target.surface, posted.outcome, took);
            landing.shown = shown(&target, held.lease.attempts, &posted);
            let excused = posted.reached == Some(false) && cut_off.load(Ordering::Relaxed);
            results.send(judge(held, &target, posted, started, excused));
            drop((landing, in_flight));
        }));
    }

    fn land(&mut self, Landed { place, shown }: Landed) {
        let (callback, now) = (place.callback, Instant::now());
        let Some(shown) = shown else {
            self.traffic.withdraw(callback, now);
            return self.lanes.vacated(place);
        };
        // Chance is for those who fail, and dear.
        let is_calm = !shown.failed && shown.leave_alone.is_none();
        let chance = if is_calm { 0.0 } else { chance() };
        self.traffic.note(callback, &shown, now, chance);
        self.lanes.proven(callback, !shown.failed);
        match shown.slow_down {
            true => self.lanes.paces.slow_down(callback, now),
            false if !shown.failed => self.lanes.paces.took(callback),
            false => {}
        }
        self.lanes.landed(place);
    }

    fn finish(&self, held: Held, ending: Ending) {
        self.results.send(Finished { held, ending, record: None, disable: None, turn: None });
    }

    /// Ends a delivery without a post.
    fn end(&self, held: Held, ending: Ending, outcome: Outcome) {
        self.results.send(ended(held, ending, outcome));
    }
}

/// A lease on its way into its lane.
struct Arrival {
    held: Held,
    /// Born leased, not claimed.
    fresh: bool,
}
