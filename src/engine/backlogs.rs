//! The callbacks that have more due than they take at present: because their breaker is open, or because more came than fits into their
//! lane. Their subscriptions are *set aside*: claims leave them out, so that what waits for a callback that is dead or slow is neither waded
//! through nor claimed only to be given back. When a callback takes more, or is to be asked whether it does, its lane *draws* as much as it
//! has room for, oldest first. A subscription of which nothing more is due is back among the others.
//!
//! All of this is memory of one process. What is set aside stays due in the database, and other processes judge for themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::lanes::PARKED_MAX;
use super::targets::Targets;
use crate::domain::id::{CallbackId, IdMap, SubscriptionId};
use crate::hub::SetAside;

/// A callback whose lane was shed gets as much less at a time.
const LESS_BY: usize = 4;
/// One that took what it was given within this gets more the next time.
const QUICK: Duration = Duration::from_secs(5);

/// A wish of a lane: up to so many due deliveries of each of these subscriptions.
#[derive(Debug)]
pub struct Draw {
    pub callback: CallbackId,
    pub shares: Vec<(SubscriptionId, usize)>,
}

/// The answer, after the leases themselves: the subscriptions that have nothing more that is due.
#[derive(Debug)]
pub struct Drawn {
    pub callback: CallbackId,
    pub drained: Vec<SubscriptionId>,
}

struct Backlog {
    subscriptions: BTreeSet<SubscriptionId>,
    /// How many of its leases may wait in its lane at a time.
    capacity: usize,
    drawing: bool,
    drawn_at: Option<Instant>,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { subscriptions: BTreeSet::new(), capacity: PARKED_MAX, drawing: false, drawn_at: None }
    }
}

pub struct Backlogs {
    callbacks: IdMap<CallbackId, Backlog>,
    draws: mpsc::UnboundedSender<Draw>,
    told: watch::Sender<SetAside>,
    /// Rings the claimer.
    due: Arc<Notify>,
    changed: bool,
    /// Whether claims have something back that they were told to leave out.
    is_back: bool,
}

/// The claimer's end.
pub struct Wishes {
    pub draws: mpsc::UnboundedReceiver<Draw>,
    /// What claims leave out.
    pub set_aside: watch::Receiver<SetAside>,
}

impl Backlogs {
    /// Tells `told`, and rings `due` when there may be something for claims again.
    pub fn new(told: watch::Sender<SetAside>, due: Arc<Notify>) -> (Self, Wishes) {
        let (draws, wished) = mpsc::unbounded_channel();
        let set_aside = told.subscribe();
        let callbacks = IdMap::default();
        let backlogs = Self { callbacks, draws, told, due, changed: false, is_back: false };
        (backlogs, Wishes { draws: wished, set_aside })
    }

    /// Leaves what is due for a subscription in the database until its callback takes more.
    pub fn set_aside(&mut self, callback: CallbackId, subscription: SubscriptionId) {
        let backlog = self.callbacks.entry(callback).or_default();
        self.changed |= backlog.subscriptions.insert(subscription);
    }

    /// A callback did not take what it was given while the leases lasted.
    pub fn slow(&mut self, callback: CallbackId) {
        if let Some(backlog) = self.callbacks.get_mut(&callback) {
            backlog.capacity = (backlog.capacity / LESS_BY).max(1);
        }
    }

    /// Sees to it that subscriptions that have moved to another callback do not go on waiting for the former one.
    pub async fn follow(&mut self, targets: &mut Targets) {
        let set_aside = self.callbacks.iter().flat_map(|(callback, backlog)| {
            backlog.subscriptions.iter().map(|subscription| (*subscription, *callback))
        });
        for (subscription, from) in targets.moved(set_aside.collect()).await {
            self.forget(from, &[subscription]);
        }
    }

    /// These are not set aside for a callback any more.
    fn forget(&mut self, callback: CallbackId, subscriptions: &[SubscriptionId]) {
        let Some(backlog) = self.callbacks.get_mut(&callback) else { return };
        for subscription in subscriptions {
            self.is_back |= backlog.subscriptions.remove(subscription);
        }
        self.changed |= self.is_back;
        if backlog.subscriptions.is_empty() {
            self.callbacks.remove(&callback);
        }
    }

    /// Whether something is set aside for a callback: what comes fresh gets in line behind it.
    pub fn has(&self, callback: CallbackId) -> bool {
        self.callbacks.contains_key(&callback)
    }

    /// The callbacks that something is set aside for.
    pub fn callbacks(&self) -> Vec<CallbackId> {
        self.callbacks.keys().copied().collect()
    }

    /// How many may wait in the lane of a callback that something is set aside for; `None` while a draw is under way.
    pub fn capacity(&self, callback: CallbackId) -> Option<usize> {
        self.callbacks.get(&callback).filter(|backlog| !backlog.drawing).map(|backlog| backlog.capacity)
    }

    /// Asks for up to `count` of what is set aside for a callback, or a few more: some of each of its subscriptions.
    pub fn draw(&mut self, callback: CallbackId, count: usize, now: Instant) {
        let Some(backlog) = self.callbacks.get_mut(&callback) else { return };
        // One that is asked for while it has room for more is for a probe.
        let is_all = count >= backlog.capacity.min(2);
        if is_all && backlog.drawn_at.is_some_and(|at| now.saturating_duration_since(at) < QUICK) {
            backlog.capacity = (backlog.capacity * 2).min(PARKED_MAX);
        }
        let each = count.div_ceil(backlog.subscriptions.len().max(1));
        let shares = backlog.subscriptions.iter().map(|subscription| (*subscription, each)).collect();
        (backlog.drawing, backlog.drawn_at) = (true, Some(now));
        let _stopped = self.draws.send(Draw { callback, shares });
    }

    /// A draw was answered.
    pub fn drawn(&mut self, drawn: &Drawn) {
        if let Some(backlog) = self.callbacks.get_mut(&drawn.callback) {
            backlog.drawing = false;
        }
        self.forget(drawn.callback, &drawn.drained);
    }

    /// Tells the claimer and the writer what changed since they were told last.
    ///
    /// Who writes by an old list leaves a row to a draw that may have been made already. So the claimer looks once more after everybody was
    /// told, and the writer has it look when it finds after its commit that the list is another (`hub::ingest`): one of the two comes last.
    pub fn tell(&mut self) {
        if std::mem::take(&mut self.changed) {
            let subscriptions = self.callbacks.values().flat_map(|backlog| &backlog.subscriptions);
            self.told.send_replace(subscriptions.copied().collect());
        }
        if std::mem::take(&mut self.is_back) {
            self.due.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlogs() -> (Backlogs, Wishes) {
        Backlogs::new(watch::channel(SetAside::from([])).0, Arc::default())
    }

    #[tokio::test]
    async fn claims_are_made_again_when_something_is_theirs_again() {
        let due = Arc::new(Notify::new());
        let (mut backlogs, wishes) = Backlogs::new(watch::channel(SetAside::from([])).0, due.clone());
        let rung = async || tokio::time::timeout(Duration::ZERO, due.notified()).await.is_ok();
        let (callback, subscription) = (CallbackId::new(), SubscriptionId::new());
        backlogs.set_aside(callback, subscription);
        backlogs.tell();
        assert!(!rung().await);
        backlogs.drawn(&Drawn { callback, drained: vec![subscription] });
        assert!(!rung().await, "not before everybody was told");
        backlogs.tell();
        assert!(wishes.set_aside.borrow().is_empty() && rung().await);
        backlogs.tell();
        assert!(!rung().await);
    }

    #[test]
    fn what_is_set_aside_is_drawn_until_nothing_more_is_due() {
        let (mut backlogs, mut wishes) = backlogs();
        let (callback, now) = (CallbackId::new(), Instant::now());
        let (one, other) = (SubscriptionId::new(), SubscriptionId::new());
        backlogs.set_aside(callback, one);
        backlogs.set_aside(callback, other);
        backlogs.tell();
        assert_eq!(wishes.set_aside.borrow_and_update().len(), 2);
        backlogs.set_aside(callback, one);
        backlogs.tell();
        assert!(!wishes.set_aside.has_changed().unwrap(), "known already");

        backlogs.draw(callback, 5, now);
        let draw = wishes.draws.try_recv().unwrap();
        let mut shares = draw.shares;
        shares.sort_unstable();
        let mut expected = [(one, 3), (other, 3)];
        expected.sort_unstable();
        assert_eq!(shares, expected);
        assert_eq!(backlogs.capacity(callback), None, "one at a time");
        backlogs.drawn(&Drawn { callback, drained: vec![one] });
        assert!(backlogs.has(callback) && backlogs.capacity(callback).is_some());
        backlogs.drawn(&Drawn { callback, drained: vec![other] });
        assert!(!backlogs.has(callback));
        backlogs.tell();
        assert!(wishes.set_aside.borrow().is_empty());
    }

    #[test]
    fn a_slow_callback_gets_less_at_a_time_until_it_is_quick_again() {
        let (mut backlogs, _wishes) = backlogs();
        let (callback, now) = (CallbackId::new(), Instant::now());
        backlogs.set_aside(callback, SubscriptionId::new());
        let nothing = || Drawn { callback, drained: vec![] };
        backlogs.draw(callback, PARKED_MAX, now);
        backlogs.drawn(&nothing());
        backlogs.slow(callback);
        assert_eq!(backlogs.capacity(callback), Some(PARKED_MAX / LESS_BY));
        backlogs.draw(callback, 10, now + QUICK);
        backlogs.drawn(&nothing());
        assert_eq!(backlogs.capacity(callback), Some(PARKED_MAX / LESS_BY), "that was not quick");
        backlogs.draw(callback, 10, now + QUICK + QUICK / 2);
        backlogs.drawn(&nothing());
        assert_eq!(backlogs.capacity(callback), Some(PARKED_MAX / 2));
        for _ in 0..9 {
            backlogs.slow(callback);
        }
        assert_eq!(backlogs.capacity(callback), Some(1), "never nothing");
        backlogs.draw(callback, 1, now + QUICK + QUICK / 2);
        backlogs.drawn(&nothing());
        assert_eq!(backlogs.capacity(callback), Some(2), "and not for ever so little");
        backlogs.draw(callback, 1, now + QUICK + QUICK / 2);
        backlogs.drawn(&nothing());
        assert_eq!(backlogs.capacity(callback), Some(2), "a probe shows nothing");
    }
}
