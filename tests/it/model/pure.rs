//! What the life of a delivery should be, without a database: small enough to be seen to be right. `docs/state-machine.md` draws it.

use herald::domain::attempt::Outcome;
use herald::domain::delivery::DeliveryState;
use herald::domain::subscription::SubscriptionState;
use herald::store::queue::Ending;

/// Time in the model passes in these steps, which are far longer than a case takes.
pub const STEP_MS: i64 = 600_000;
pub const LEASE_STEPS: i64 = 6;

/// A row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// In steps; `None` is held.
    pub due: Option<i64>,
    pub owner: Option<usize>,
    pub epoch: i32,
    pub attempts: i32,
    pub crashes: i16,
}

/// A row of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    pub outcome: &'static str,
    pub final_state: Option<&'static str>,
    pub late: bool,
}

#[derive(Debug, Clone)]
pub struct Delivery {
    pub subscription: usize,
    pub queued: Option<Queued>,
    /// The last end; a delivery that is queued again has one as well.
    pub ended: Option<DeliveryState>,
    pub history: Vec<Told>,
}

impl Delivery {
    pub fn state(&self) -> DeliveryState {
        match &self.queued {
            Some(Queued { due: None, .. }) => DeliveryState::Held,
            Some(_) => DeliveryState::Pending,
            None => self.ended.expect("a delivery is queued or has ended: else it is lost"),
        }
    }

    fn end(&mut self, outcome: Outcome, state: DeliveryState) {
        assert!(self.queued.take().is_some(), "nothing ends twice");
        self.ended = Some(state);
        self.history.push(Told { outcome: outcome.as_str(), final_state: Some(state.as_str()), late: false });
    }
}

/// A right to send that was once given. Holders keep it in memory whatever has become of it.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub delivery: usize,
    pub node: usize,
    pub epoch: i32,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub now: i64,
    pub subscriptions: Vec<SubscriptionState>,
    pub deliveries: Vec<Delivery>,
    pub given: Vec<Given>,
}

impl Model {
    pub fn new(subscriptions: usize) -> Self {
        Self {
            now: 0,
            subscriptions: vec![SubscriptionState::Active; subscriptions],
            deliveries: Vec::new(),
            given: Vec::new(),
        }
    }

    /// A delivery comes into being, leased to the node that stores it if there is one with room; false when the subscription is deleted.
    pub fn publish(&mut self, subscription: usize, node: Option<usize>) -> bool {
        let flows = match self.subscriptions[subscription] {
            SubscriptionState::Deleted => return false,
            SubscriptionState::Active => true,
            SubscriptionState::Paused | SubscriptionState::Disabled => false,
        };
        let owner = node.filter(|_| flows);
        let epoch = i32::from(owner.is_some());
        let due = flows.then_some(self.now + if owner.is_some() { LEASE_STEPS } else { 0 });
        let delivery = self.deliveries.len();
        self.given.extend(owner.map(|node| Given { delivery, node, epoch }));
        let queued = Some(Queued { due, owner, epoch, attempts: 0, crashes: 0 });
        self.deliveries.push(Delivery { subscription, queued, ended: None, history: vec![] });
        true
    }

    /// What a claim may take: what is due, whoever had it. What is held is never among it.
    pub fn claimable(&self) -> Vec<usize> {
        let due = |queued: &Queued| queued.due.is_some_and(|due| due <= self.now);
        (0..self.deliveries.len())
            .filter(|delivery| self.deliveries[*delivery].queued.as_ref().is_some_and(due))
            .collect()
    }

    /// A claim took this one.
    pub fn claimed(&mut self, delivery: usize, node: usize) -> Given {
        let queued = self.deliveries[delivery].queued.as_mut().expect("only what is queued is claimed");
        queued.crashes += i16::from(queued.owner.is_some());
        queued.owner = Some(node);
        queued.epoch += 1;
        queued.due = Some(self.now + LEASE_STEPS);
        let given = Given { delivery, node, epoch: queued.epoch };
        self.given.push(given);
        given
    }

    /// Whether it changed anything. What comes late is told and decides nothing.
    pub fn finish(&mut self, given: Given, by: usize, ending: Ending, outcome: Option<Outcome>) -> bool {
        let stopped = matches!(
            self.subscriptions[self.deliveries[given.delivery].subscription],
            SubscriptionState::Paused | SubscriptionState::Disabled
        );
        let now = self.now;
        let delivery = &mut self.deliveries[given.delivery];
        let held = |queued: &Queued| queued.owner == Some(by) && queued.epoch == given.epoch;
        let Some(queued) = delivery.queued.as_mut().filter(|queued| held(queued)) else {
            let sent = outcome.filter(|outcome| outcome.is_of_an_attempt());
            delivery.history.extend(sent.map(|outcome| Told {
                outcome: outcome.as_str(),
                final_state: None,
                late: true,
            }));
            return false;
        };
        if let Ending::Final(state) = ending {
            delivery.end(outcome.expect("an end has an outcome"), state);
            return true;
        }
        queued.owner = None;
        queued.epoch += 1;
        queued.due = match ending {
            Ending::Hold if stopped => None,
            Ending::Retry { delay_ms } | Ending::Release { delay_ms } => Some(now + delay_ms / STEP_MS),
            _ => Some(now),
        };
        if let Some(outcome) = outcome {
            queued.attempts += 1;
            queued.crashes = 0;
            delivery.history.push(Told { outcome: outcome.as_str(), final_state: None, late: false });
        }
        true
    }

    /// The leases of a node that is gone are over now; true for each that was not over by itself.
    pub fn crash(&mut self, node: usize) -> u64 {
        let now = self.now;
        let queued = self.deliveries.iter_mut().filter_map(|delivery| delivery.queued.as_mut());
        let running =
            queued.filter(|queued| queued.owner == Some(node) && queued.due.is_some_and(|due| due > now));
        running.map(|queued| queued.due = Some(now)).count() as u64
    }

    /// A node stops in good order.
    pub fn stop(&mut self, node: usize) -> u64 {
        let now = self.now;
        let queued = self.deliveries.iter_mut().filter_map(|delivery| delivery.queued.as_mut());
        queued
            .filter(|queued| queued.owner == Some(node))
            .map(|queued| {
                (queued.owner, queued.due) = (None, Some(now));
                queued.epoch += 1;
            })
            .count() as u64
    }

    /// False when the subscription is deleted, which is for good.
    pub fn turn(&mut self, subscription: usize, state: SubscriptionState) -> bool {
        if self.subscriptions[subscription] == SubscriptionState::Deleted {
            return false;
        }
        self.subscriptions[subscription] = state;
        match state {
            SubscriptionState::Active => self.resume(subscription),
            SubscriptionState::Deleted => self.cancel(subscription),
            SubscriptionState::Paused | SubscriptionState::Disabled => {}
        }
        true
    }

    fn resume(&mut self, subscription: usize) {
        let now = self.now;
        let of_it = self.deliveries.iter_mut().filter(|delivery| delivery.subscription == subscription);
        for queued in of_it.filter_map(|delivery| delivery.queued.as_mut()) {
            queued.due.get_or_insert(now);
        }
    }

    fn cancel(&mut self, subscription: usize) {
        let unleased =
            |delivery: &Delivery| delivery.queued.as_ref().is_some_and(|queued| queued.owner.is_none());
        let of_it = self.deliveries.iter_mut().filter(|delivery| delivery.subscription == subscription);
        for delivery in of_it.filter(|delivery| unleased(delivery)) {
            delivery.end(Outcome::Cancelled, DeliveryState::Cancelled);
        }
    }

    /// What the janitor does about rows that a race left behind.
    pub fn sweep(&mut self) {
        for subscription in 0..self.subscriptions.len() {
            match self.subscriptions[subscription] {
                SubscriptionState::Active => self.resume(subscription),
                SubscriptionState::Deleted => self.cancel(subscription),
                SubscriptionState::Paused | SubscriptionState::Disabled => {}
            }
        }
    }

    /// Makes what waits due; false when it is leased or held.
    pub fn hasten(&mut self, delivery: usize) -> bool {
        let now = self.now;
        let Some(queued) = self.deliveries[delivery].queued.as_mut() else { return false };
        let Some(due) = queued.due.as_mut().filter(|_| queued.owner.is_none()) else { return false };
        *due = now.min(*due);
        true
    }

    /// Whether what has ended may be queued again. Its epoch begins anew, above all earlier ones.
    pub fn may_begin_again(&self, delivery: usize) -> bool {
        let delivery = &self.deliveries[delivery];
        delivery.queued.is_none() && self.subscriptions[delivery.subscription] != SubscriptionState::Deleted
    }

    pub fn begin_again(&mut self, delivery: usize, epoch: i32) {
        let earlier = self.given.iter().filter(|given| given.delivery == delivery).map(|given| given.epoch);
        assert!(earlier.max().is_none_or(|earlier| earlier < epoch), "nobody's old lease fits");
        let flows = self.subscriptions[self.deliveries[delivery].subscription] == SubscriptionState::Active;
        let due = flows.then_some(self.now);
        self.deliveries[delivery].queued = Some(Queued { due, owner: None, epoch, attempts: 0, crashes: 0 });
    }
}
