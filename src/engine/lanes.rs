//! Fairness in memory: a lane for each callback, with few posts under way and few waiting, so that one that hangs occupies its own lane and
//! nobody else's. Lanes take turns. First attempts and retries have rooms of their own, so that neither can fill the process. Pure
//! bookkeeping: it starts nothing and knows no time.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::Held;
use super::pace::Paces;
use crate::domain::id::CallbackId;

/// How many leases may wait in one lane at most. What is beyond that waits in the queue, see `backlogs`.
pub const PARKED_MAX: usize = 256;

/// Which room a post takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    First,
    Retry,
    /// What was held and is brought back.
    Drain,
}

impl Kind {
    fn of(held: &Held) -> Self {
        match &held.lease {
            lease if lease.draining => Self::Drain,
            lease if lease.attempts == 0 => Self::First,
            _ => Self::Retry,
        }
    }
}

#[derive(Default)]
struct Lane {
    in_flight: usize,
    parked: VecDeque<Held>,
    /// Whether the lane stands in the line of those that could start one.
    in_line: bool,
}

/// How many posts of one kind are under way, and how many may be.
struct Room {
    in_flight: usize,
    max: usize,
}

impl Room {
    fn is_full(&self) -> bool {
        self.in_flight >= self.max
    }
}

pub struct Lanes {
    in_flight_max: usize,
    pub paces: Paces,
    first: Room,
    retry: Room,
    drain: Room,
    lanes: HashMap<CallbackId, Lane>,
    line: VecDeque<CallbackId>,
}

impl Lanes {
    /// First attempts may take three quarters of the whole, retries half, and what was held a quarter.
    pub fn new(in_flight_max: usize, callback_in_flight_max: usize) -> Self {
        let room = |max: usize| Room { in_flight: 0, max: max.max(1) };
        Self {
            in_flight_max,
            paces: Paces::new(callback_in_flight_max),
            first: room(in_flight_max - in_flight_max / 4),
            retry: room(in_flight_max / 2),
            drain: room(in_flight_max / 4),
            lanes: HashMap::new(),
            line: VecDeque::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.first.in_flight + self.retry.in_flight + self.drain.in_flight
    }

    fn room(&mut self, kind: Kind) -> &mut Room {
        match kind {
            Kind::First => &mut self.first,
            Kind::Retry => &mut self.retry,
            Kind::Drain => &mut self.drain,
        }
    }

    /// Puts a lease in its callback's lane; gives it back when the lane is full. A lane may take as much as is still free of the room that the
    /// lease came with: lanes that do not move share the room with each other and always leave some for the next one. A test ping, which
    /// somebody waits for, is next in any lane; so is a lease that others wait behind because it is sent alone.
    pub fn park(&mut self, callback: CallbackId, held: Held) -> Option<Held> {
        let capacity = self.capacity(held.room.semaphore().available_permits());
        let lane = self.lanes.entry(callback).or_default();
        match held.lease.probe || held.alone.is_some() {
            true => lane.parked.push_front(held),
            false if lane.parked.len() >= capacity => return Some(held),
            false => lane.parked.push_back(held),
        }
        self.line_up(callback);
        None
    }

    /// How many leases may wait in a lane while so much of the room is free.
    pub fn capacity(&self, free: usize) -> usize {
        free.max(self.paces.widest()).min(PARKED_MAX)
    }

    /// How many leases wait in a lane.
    pub fn parked(&self, callback: CallbackId) -> usize {
        self.lanes.get(&callback).map_or(0, |lane| lane.parked.len())
    }

    /// Takes the next lease to send, if there is room for one more post. It counts as under way until [`Lanes::landed`].
    ///
    /// A lane sends in the order of arrival; only when the room of one kind is full do those of the other kind overtake.
    pub fn take(&mut self) -> Option<(CallbackId, Kind, Held)> {
        for _ in 0..self.line.len() {
            if self.in_flight() >= self.in_flight_max {
                return None;
            }
            let callback = self.line.pop_front()?;
            let is_full = [&self.first, &self.retry, &self.drain].map(Room::is_full);
            let width = self.paces.width(callback);
            let Some(lane) = self.lanes.get_mut(&callback) else { continue };
            let fits = |held: &Held| !is_full[Kind::of(held) as usize];
            // A lane in line may have been shed of everything since, or made narrower.
            if lane.parked.is_empty() || lane.in_flight >= width {
                lane.in_line = false;
                self.forget_if_idle(callback);
                continue;
            }
            let Some(held) = lane.parked.iter().position(fits).and_then(|place| lane.parked.remove(place))
            else {
                self.line.push_back(callback);
                continue;
            };
            lane.in_line = false;
            lane.in_flight += 1;
            let kind = Kind::of(&held);
            self.room(kind).in_flight += 1;
            self.line_up(callback);
            return Some((callback, kind, held));
        }
        None
    }

    /// A lease that was taken is no longer under way.
    pub fn landed(&mut self, callback: CallbackId, kind: Kind) {
        let room = self.room(kind);
        room.in_flight = room.in_flight.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(&callback) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        self.line_up(callback);
        self.forget_if_idle(callback);
    }

    /// A lane that still stands in line is forgotten when its turn comes: it must not get a second place.
    fn forget_if_idle(&mut self, callback: CallbackId) {
        let idle = |lane: &Lane| lane.in_flight == 0 && lane.parked.is_empty() && !lane.in_line;
        if self.lanes.get(&callback).is_some_and(idle) {
            self.lanes.remove(&callback);
        }
    }

    /// What waits with a lease that ends before this: too late to be sent, and to be given back before it passes.
    pub fn shed(&mut self, before: Instant) -> Vec<Held> {
        let mut shed = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.parked.iter().any(|held| held.lease.until < before) {
                let (late, kept): (VecDeque<Held>, _) =
                    lane.parked.drain(..).partition(|held| held.lease.until < before);
                shed.extend(late);
                lane.parked = kept;
            }
        }
        shed
    }

    /// Everything that waits: what a stop gives back.
    pub fn empty(&mut self) -> Vec<Held> {
        self.line.clear();
        let waiting = |lane: &mut Lane| {
            lane.in_line = false;
            lane.parked.drain(..).collect::<Vec<_>>()
        };
        self.lanes.values_mut().flat_map(waiting).collect()
    }

    /// A lane stands in line while it has a lease to send and room to send it, and never twice.
    fn line_up(&mut self, callback: CallbackId) {
        if let Some(lane) = self.lanes.get_mut(&callback)
            && !lane.in_line
            && !lane.parked.is_empty()
            && lane.in_flight < self.paces.width(callback)
        {
            lane.in_line = true;
            self.line.push_back(callback);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use chrono::DateTime;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::domain::delivery::Lease;
    use crate::domain::event::Event;
    use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};

    fn held_in(room: &Arc<Semaphore>) -> Held {
        let event = Event {
            id: EventId::new(),
            kind: "Type".into(),
            source: "/".into(),
            payload: vec![],
            occurred_at: DateTime::UNIX_EPOCH,
        };
        let lease = Lease {
            partner: PartnerId::new(),
            delivery: DeliveryId::new(),
            subscription: SubscriptionId::new(),
            event: Arc::new(event),
            attempts: 0,
            epoch: 1,
            probe: false,
            draining: false,
            crashes: 0,
            until: Instant::now(),
            batch: None,
        };
        Held { lease, room: room.clone().try_acquire_owned().unwrap(), place: None, alone: None }
    }

    /// A lease with more room around it than any lane takes.
    fn held() -> Held {
        held_in(&Arc::new(Semaphore::new(10_000)))
    }

    #[test]
    fn rule_20_one_callback_takes_its_own_room_and_no_more() {
        let (dead, healthy) = (CallbackId::new(), CallbackId::new());
        let mut lanes = Lanes::new(10, 2);
        for _ in 0..5 {
            assert!(lanes.park(dead, held()).is_none());
        }
        assert!(lanes.park(healthy, held()).is_none());
        let taken: Vec<_> = std::iter::from_fn(|| lanes.take().map(|(callback, ..)| callback)).collect();
        assert_eq!(taken.iter().filter(|callback| **callback == dead).count(), 2);
        assert_eq!(taken.iter().filter(|callback| **callback == healthy).count(), 1);
        lanes.landed(dead, Kind::First);
        assert_eq!(lanes.take().map(|(callback, ..)| callback), Some(dead), "one landed, one starts");
        assert!(lanes.take().is_none());
        assert_eq!(lanes.in_flight(), 3);
    }

    #[test]
    fn lanes_take_turns_and_the_whole_is_bounded() {
        let (one, other) = (CallbackId::new(), CallbackId::new());
        let mut lanes = Lanes::new(5, 4);
        for _ in 0..4 {
            lanes.park(one, held());
        }
        for _ in 0..4 {
            lanes.park(other, held());
        }
        let taken: Vec<_> = std::iter::from_fn(|| lanes.take().map(|(callback, ..)| callback)).collect();
        assert_eq!(taken, [one, other, one, other]);
        assert_eq!(lanes.empty().len(), 4, "the rest waits");
        lanes.landed(one, Kind::First);
        assert!(lanes.take().is_none(), "nothing waits any more");
    }

    #[test]
    fn a_lane_that_is_full_gives_the_lease_back() {
        let callback = CallbackId::new();
        let mut lanes = Lanes::new(1, 1);
        for _ in 0..PARKED_MAX {
            assert!(lanes.park(callback, held()).is_none());
        }
        assert!(lanes.park(callback, held()).is_some());
    }

    #[test]
    fn rule_20_lanes_that_do_not_move_leave_room_for_others() {
        let room = Arc::new(Semaphore::new(16));
        let (mut lanes, dead) = (Lanes::new(1, 1), CallbackId::new());
        let refused =
            std::iter::from_fn(|| Some(lanes.park(dead, held_in(&room)))).position(|it| it.is_some());
        assert_eq!(refused, Some(8), "half of it");
        let healthy = CallbackId::new();
        assert!(lanes.park(healthy, held_in(&room)).is_none());
        let rest: Vec<_> =
            std::iter::from_fn(|| (room.available_permits() > 1).then(|| held_in(&room))).collect();
        assert!(lanes.park(CallbackId::new(), held_in(&room)).is_none(), "the last one still gets a place");
        drop(rest);
    }

    #[test]
    fn rule_23_what_has_waited_too_long_to_be_sent_is_given_back() {
        let (now, callback) = (Instant::now(), CallbackId::new());
        let in_s = |seconds| now + Duration::from_secs(seconds);
        let mut lanes = Lanes::new(10, 1);
        for until in [5, 30, 9, 20] {
            let mut held = held();
            held.lease.until = in_s(until);
            assert!(lanes.park(callback, held).is_none());
        }
        let ends = |held: &[Held]| held.iter().map(|held| held.lease.until).collect::<Vec<_>>();
        assert_eq!(ends(&lanes.shed(in_s(10))), [in_s(5), in_s(9)]);
        assert_eq!(lanes.take().map(|(.., held)| held.lease.until), Some(in_s(30)), "the rest in its order");
        assert_eq!(ends(&lanes.shed(in_s(60))), [in_s(20)]);
        lanes.landed(callback, Kind::First);
        assert!(lanes.take().is_none() && lanes.lanes.is_empty());
    }

    #[test]
    fn a_lane_that_was_shed_while_in_line_keeps_its_one_place() {
        let callback = CallbackId::new();
        let mut lanes = Lanes::new(10, 1);
        lanes.park(callback, held());
        assert_eq!(lanes.shed(Instant::now() + Duration::from_secs(1)).len(), 1);
        for _ in 0..3 {
            lanes.park(callback, held());
        }
        let taken = std::iter::from_fn(|| lanes.take()).count();
        assert_eq!(taken, 1, "no more than its own room");
    }

    #[test]
    fn rule_20_first_attempts_and_retries_cannot_fill_each_others_room() {
        let mut lanes = Lanes::new(8, 1);
        let retry = || {
            let mut held = held();
            held.lease.attempts = 1;
            held
        };
        for _ in 0..8 {
            lanes.park(CallbackId::new(), retry());
        }
        assert_eq!(std::iter::from_fn(|| lanes.take()).count(), 4, "retries take half");
        for _ in 0..8 {
            lanes.park(CallbackId::new(), held());
        }
        let taken: Vec<_> = std::iter::from_fn(|| lanes.take().map(|(_, kind, _)| kind)).collect();
        assert_eq!(taken, [Kind::First; 4], "and leave the rest");

        let mut lanes = Lanes::new(8, 1);
        for _ in 0..8 {
            lanes.park(CallbackId::new(), held());
        }
        assert_eq!(std::iter::from_fn(|| lanes.take()).count(), 6, "first attempts take three quarters");
        lanes.park(CallbackId::new(), retry());
        assert_eq!(lanes.take().map(|(_, kind, _)| kind), Some(Kind::Retry));
    }

    #[test]
    fn rule_21_what_was_held_takes_a_quarter() {
        let mut lanes = Lanes::new(8, 1);
        for place in 0..8 {
            let mut held = held();
            (held.lease.draining, held.lease.attempts) = (true, place % 2);
            lanes.park(CallbackId::new(), held);
        }
        let taken: Vec<_> = std::iter::from_fn(|| lanes.take().map(|(_, kind, _)| kind)).collect();
        assert_eq!(taken, [Kind::Drain; 2]);
    }

    #[test]
    fn both_kinds_of_a_lane_share_its_cap() {
        let callback = CallbackId::new();
        let mut lanes = Lanes::new(100, 2);
        for attempts in [0, 1, 0, 1] {
            let mut held = held();
            held.lease.attempts = attempts;
            lanes.park(callback, held);
        }
        let taken: Vec<_> = std::iter::from_fn(|| lanes.take().map(|(_, kind, _)| kind)).collect();
        assert_eq!(taken, [Kind::First, Kind::Retry]);
        lanes.landed(callback, Kind::First);
        assert!(lanes.take().is_some() && lanes.take().is_none());
    }
}
