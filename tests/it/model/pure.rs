//! What the life of a delivery should be, without a database: small enough to be seen to be right. `docs/state-machine.md` draws it.

use herald::domain::attempt::Outcome;
use herald::domain::delivery::DeliveryState;
use herald::domain::subscription::SubscriptionState;
use herald::store::queue::Ending;
use uuid::Uuid;

/// Time in the model passes in these steps, which are far longer than a case takes.
pub const STEP_MS: i64 = 600_000;
pub const LEASE_STEPS: i64 = 6;
/// The subscription whose deliveries leave in batches, of at most so many.
pub const BATCHED: usize = 1;
pub const BATCH_SIZE: usize = 3;

/// A row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// In steps; `None` is held.
    pub due: Option<i64>,
    pub owner: Option<usize>,
    pub epoch: i32,
    pub attempts: i32,
    pub crashes: i16,
    /// Behind another with its ordering key.
    pub waits: bool,
    pub batched: bool,
    pub batch: Option<Uuid>,
}

impl Queued {
    fn is_due(&self, now: i64) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// At most.
    fn crashes_if_claimed(&self) -> i16 {
        self.crashes + i16::from(self.owner.is_some())
    }
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
    /// Its ordering key, until it has ended for the first time.
    pub key: Option<usize>,
    pub queued: Option<Queued>,
    /// The last end; a delivery that is queued again has one as well.
    pub ended: Option<DeliveryState>,
    pub history: Vec<Told>,
}

impl Delivery {
    pub fn state(&self, of_subscription: SubscriptionState) -> DeliveryState {
        match &self.queued {
            Some(Queued { due: None, waits, .. }) if is_stopped(of_subscription) || !waits => {
                DeliveryState::Held
            }
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

/// A right to send that was once given, for one delivery or a batch. Holders keep it in memory whatever has become of it.
#[derive(Debug, Clone)]
pub struct Given {
    pub deliveries: Vec<usize>,
    pub batch: Option<Uuid>,
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

/// Whether what it is to get is held.
fn is_stopped(state: SubscriptionState) -> bool {
    matches!(state, SubscriptionState::Paused | SubscriptionState::Disabled)
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
    /// What leaves in batches is leased to nobody, nor is who waits for another with its key.
    pub fn publish(&mut self, subscription: usize, key: Option<usize>, node: Option<usize>) -> bool {
        let state = self.subscriptions[subscription];
        if state == SubscriptionState::Deleted {
            return false;
        }
        let flows = !is_stopped(state);
        let (batched, batch) = (subscription == BATCHED, None);
        let waits = key.is_some_and(|key| self.first_in_line(subscription, key).is_some());
        let owner = node.filter(|_| flows && !waits && !batched);
        let epoch = 0;
        let leased_for = if owner.is_some() { LEASE_STEPS } else { 0 };
        let due = (flows && !waits).then_some(self.now + leased_for);
        let delivery = self.deliveries.len();
        self.given.extend(owner.map(|node| Given { deliveries: vec![delivery], batch, node, epoch }));
        let queued = Some(Queued { due, owner, epoch, attempts: 0, crashes: 0, waits, batched, batch });
        self.deliveries.push(Delivery { subscription, key, queued, ended: None, history: vec![] });
        true
    }

    /// Who of those with this key came first and is unfinished.
    fn first_in_line(&self, subscription: usize, key: usize) -> Option<usize> {
        let stands =
            |of: &Delivery| of.subscription == subscription && of.key == Some(key) && of.queued.is_some();
        self.deliveries.iter().position(stands)
    }

    /// Those who have ended leave their lines; whoever is first there now waits no longer, but is held if the subscription is stopped.
    fn leave_line(&mut self, left: &[usize]) {
        for delivery in left {
            let subscription = self.deliveries[*delivery].subscription;
            let Some(key) = self.deliveries[*delivery].key.take() else { continue };
            let Some(first) = self.first_in_line(subscription, key) else { continue };
            let queued = self.deliveries[first].queued.as_mut().expect("who stands in line is queued");
            if std::mem::take(&mut queued.waits) && queued.batch.is_none() {
                queued.due = (!is_stopped(self.subscriptions[subscription])).then_some(self.now);
            }
        }
    }

    /// The deliveries of a batch.
    pub fn members(&self, batch: Uuid) -> Vec<usize> {
        let in_it =
            |delivery: &Delivery| delivery.queued.as_ref().is_some_and(|queued| queued.batch == Some(batch));
        (0..self.deliveries.len()).filter(|place| in_it(&self.deliveries[*place])).collect()
    }

    /// The batches that are due again.
    pub fn batches_due(&self, alone: bool) -> Vec<Uuid> {
        let queued = self.deliveries.iter().filter_map(|delivery| delivery.queued.as_ref());
        let wanted =
            |queued: &&Queued| queued.is_due(self.now) && (queued.crashes_if_claimed() >= 2) == alone;
        let mut due: Vec<Uuid> = queued.filter(wanted).filter_map(|queued| queued.batch).collect();
        due.sort_unstable();
        due.dedup();
        due
    }

    /// What has to go into a batch now: it is due, and has none.
    pub fn to_gather(&self) -> Vec<usize> {
        let wanted = |queued: &Queued| queued.batched && queued.batch.is_none() && queued.is_due(self.now);
        (0..self.deliveries.len())
            .filter(|place| self.deliveries[*place].queued.as_ref().is_some_and(wanted))
            .collect()
    }

    /// Whether these may be a new batch: each is to be gathered by itself, or comes right after the one before it in its line, unless the
    /// subscription is stopped.
    pub fn may_be_together(&self, batch: &[usize]) -> bool {
        let alone = self.to_gather();
        let line = |place: usize| {
            let of = &self.deliveries[place];
            let mates = (0..self.deliveries.len()).filter(move |mate| {
                let mate = &self.deliveries[*mate];
                mate.subscription == of.subscription && mate.key == of.key && mate.queued.is_some()
            });
            mates.collect::<Vec<_>>()
        };
        let follows = |at: usize, place: usize| {
            let line = line(place);
            let before = line.iter().take_while(|mate| **mate != place).last();
            let flows = !is_stopped(self.subscriptions[self.deliveries[place].subscription]);
            let has_key = self.deliveries[place].key.is_some();
            flows && has_key && before.is_some_and(|before| batch[..at].contains(before))
        };
        batch.len() <= BATCH_SIZE
            && batch.iter().enumerate().all(|(at, place)| alone.contains(place) || follows(at, *place))
    }

    /// A batch was leased to a node, for the first time or again.
    pub fn batch_claimed(&mut self, batch: Uuid, deliveries: Vec<usize>, node: usize) -> Given {
        for place in &deliveries {
            self.claim_one(*place, node).batch = Some(batch);
        }
        let epoch = self.deliveries[deliveries[0]].queued.as_ref().expect("it was claimed").epoch;
        let given = Given { deliveries, batch: Some(batch), node, epoch };
        self.given.push(given.clone());
        given
    }

    /// What a claim may take: what is due, whoever had it. What is held is never among it, and what two senders in a row have not
    /// survived is claimed alone.
    pub fn claimable(&self) -> Vec<usize> {
        self.due(|queued| queued.crashes_if_claimed() < 2)
    }

    /// What may be claimed alone.
    pub fn suspects(&self) -> Vec<usize> {
        self.due(|queued| queued.crashes_if_claimed() >= 2)
    }

    /// What may be drawn for a subscription: nobody has it, not even under a lease that is over.
    pub fn drawable(&self, subscription: usize) -> Vec<usize> {
        let own = |delivery: &usize| self.deliveries[*delivery].subscription == subscription;
        self.due(|queued| queued.owner.is_none() && queued.crashes < 2).into_iter().filter(own).collect()
    }

    fn due(&self, wanted: impl Fn(&Queued) -> bool) -> Vec<usize> {
        let due = |queued: &Queued| !queued.batched && queued.is_due(self.now) && wanted(queued);
        (0..self.deliveries.len())
            .filter(|delivery| self.deliveries[*delivery].queued.as_ref().is_some_and(due))
            .collect()
    }

    /// A claim took this one.
    pub fn claimed(&mut self, delivery: usize, node: usize) -> Given {
        let epoch = self.claim_one(delivery, node).epoch;
        let given = Given { deliveries: vec![delivery], batch: None, node, epoch };
        self.given.push(given.clone());
        given
    }

    fn claim_one(&mut self, delivery: usize, node: usize) -> &mut Queued {
        let queued = self.deliveries[delivery].queued.as_mut().expect("only what is queued is claimed");
        // Nobody here shows that it is there. Who finds a lease of its own knows that it is.
        queued.crashes += i16::from(queued.owner.is_some_and(|owner| owner != node));
        queued.owner = Some(node);
        queued.epoch += 1;
        queued.due = Some(self.now + LEASE_STEPS);
        queued
    }

    /// How many deliveries it changed. What comes late is told and decides nothing.
    pub fn finish(&mut self, given: &Given, by: usize, ending: Ending, outcome: Option<Outcome>) -> usize {
        let mut changed = given.deliveries.clone();
        changed.retain(|delivery| self.finish_one(*delivery, (by, given.epoch), ending, outcome));
        if let Ending::Final(_) = ending {
            self.leave_line(&changed);
        }
        changed.len()
    }

    fn finish_one(
        &mut self,
        delivery: usize,
        (by, epoch): (usize, i32),
        ending: Ending,
        outcome: Option<Outcome>,
    ) -> bool {
        let stopped = matches!(
            self.subscriptions[self.deliveries[delivery].subscription],
            SubscriptionState::Paused | SubscriptionState::Disabled
        );
        let now = self.now;
        let delivery = &mut self.deliveries[delivery];
        let held = |queued: &Queued| queued.owner == Some(by) && queued.epoch == epoch;
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
            SubscriptionState::Deleted => self.cancel(subscription),
            // What is held is brought back by the next sweep.
            SubscriptionState::Active | SubscriptionState::Paused | SubscriptionState::Disabled => {}
        }
        true
    }

    fn resume(&mut self, subscription: usize) {
        let now = self.now;
        let of_it = self.deliveries.iter_mut().filter(|delivery| delivery.subscription == subscription);
        // Who waits for another is not held; what is in a batch is held with it.
        let held = |queued: &&mut Queued| !queued.waits || queued.batch.is_some();
        for queued in of_it.filter_map(|delivery| delivery.queued.as_mut()).filter(held) {
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

    /// Everything ends that nobody is sending; how many that were.
    pub fn expire(&mut self) -> i64 {
        let is_sent = |queued: &Queued| queued.owner.is_some() && !queued.is_due(self.now);
        let over: Vec<usize> = (0..self.deliveries.len())
            .filter(|place| self.deliveries[*place].queued.as_ref().is_some_and(|queued| !is_sent(queued)))
            .collect();
        for place in &over {
            self.deliveries[*place].end(Outcome::Expired, DeliveryState::Expired);
        }
        self.leave_line(&over);
        over.len() as i64
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

    /// Makes what waits for its time due, with all of its batch; false when it is leased, held, or waits for another.
    pub fn hasten(&mut self, delivery: usize) -> bool {
        let now = self.now;
        let Some(queued) = self.deliveries[delivery].queued.as_ref() else { return false };
        if queued.owner.is_some() || queued.due.is_none() {
            return false;
        }
        let mates = queued.batch.map_or_else(|| vec![delivery], |batch| self.members(batch));
        for mate in mates {
            let queued = self.deliveries[mate].queued.as_mut().expect("a batch is queued");
            queued.due = queued.due.map(|due| now.min(due));
        }
        true
    }

    /// Whether what has ended may be queued again. Its epoch begins anew, above all earlier ones.
    pub fn may_begin_again(&self, delivery: usize) -> bool {
        let delivery = &self.deliveries[delivery];
        delivery.queued.is_none() && self.subscriptions[delivery.subscription] != SubscriptionState::Deleted
    }

    pub fn begin_again(&mut self, delivery: usize, epoch: i32) {
        let earlier =
            self.given.iter().filter(|given| given.deliveries.contains(&delivery)).map(|given| given.epoch);
        assert!(earlier.max().is_none_or(|earlier| earlier < epoch), "nobody's old lease fits");
        let flows = self.subscriptions[self.deliveries[delivery].subscription] == SubscriptionState::Active;
        let due = flows.then_some(self.now);
        self.deliveries[delivery].queued = Some(Queued {
            due,
            owner: None,
            epoch,
            attempts: 0,
            crashes: 0,
            waits: false,
            batched: false,
            batch: None,
        });
    }
}
