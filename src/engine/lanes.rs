//! Fairness in memory: a lane for each callback, with few posts under way and few waiting, so that one that hangs occupies its own lane and
//! nobody else's. Lanes take turns. First attempts and retries have rooms of their own, so that neither can fill the process. Pure
//! bookkeeping: it starts nothing, and knows no time but the ticks that it is told.
//!
//! Many that hang at once (everybody behind one gateway) must not fill those rooms either: see [`rooms`].

mod rooms;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use self::rooms::{Age, Rooms, UnderWay};
pub use self::rooms::{Kind, Place, under_way_max};
use super::Held;
use super::pace::Paces;
use crate::domain::id::{CallbackId, IdMap};

/// How many leases may wait in one lane at most. What is beyond that waits in the queue, see `backlogs`.
pub const PARKED_MAX: usize = 512;

#[derive(Default)]
struct Lane {
    under_way: UnderWay,
    /// Whether a post has been under way for long, and none has landed soon since.
    slow: bool,
    /// How many posts of all lanes had landed when the last of this one did, or when it was made.
    landed_at: u64,
    parked: VecDeque<Held>,
    /// What the last lease that came took of its room.
    size: usize,
    /// Whether its last post arrived.
    proven: bool,
    /// Whether the lane stands in the line of those that could start one.
    in_line: bool,
}

/// A room in memory of which each lane that moves has its share.
pub struct SharedRoom {
    pub room: Arc<Semaphore>,
    pub size: usize,
    /// Of what is free, so much is not for lanes to reckon with.
    pub reserve: usize,
    /// Whether a lane's last post must have arrived. Else lanes that turn out to hang could take all of the room before anybody knows.
    pub of_proven_lanes: bool,
}

pub struct Lanes {
    /// The rooms in memory that leases share.
    shared: Vec<SharedRoom>,
    pub paces: Paces,
    rooms: Rooms,
    lanes: IdMap<CallbackId, Lane>,
    /// Who could start a post, those that are not slow and those that are.
    lines: [VecDeque<CallbackId>; 2],
    /// Whether the slow ones are asked first the next time.
    slow_first: bool,
    /// Posts of all lanes that have landed.
    landings: u64,
}

/// So many times in turn all lanes may land one while a lane that lands none still counts as moving; and a few times more, where lanes are few.
const MOVES_WITHIN_TURNS: usize = 4;
const MOVES_WITHIN_LANDINGS: usize = 256;

impl Lanes {
    /// With so many posts under way, those that take long not counted, and so many of one callback.
    pub fn new(in_flight_max: usize, callback_in_flight_max: usize) -> Self {
        Self {
            shared: Vec::new(),
            paces: Paces::new(callback_in_flight_max),
            rooms: Rooms::new(in_flight_max),
            lanes: IdMap::default(),
            lines: Default::default(),
            slow_first: false,
            landings: 0,
        }
    }

    /// Has each lane keep its share of a room, see [`Lanes::park`].
    pub fn sharing(mut self, room: SharedRoom) -> Self {
        self.shared.push(room);
        self
    }

    /// Puts a lease in its callback's lane; gives it back when the lane is full. A lane may take as much as is still free of the room that the
    /// lease came with: lanes that do not move share the room with each other and always leave some for the next one. One that does move may have
    /// its share of the room in any case: else all lanes would seem full when there simply is much to do. A test ping, which somebody waits for,
    /// is next in any lane; so is a lease that others wait behind because it is sent alone.
    pub fn park(&mut self, callback: CallbackId, held: Held) -> Option<Held> {
        let capacity = self.capacity(callback, held.room.semaphore(), held.room.num_permits());
        let landed_at = self.landings;
        let lane = self.lanes.entry(callback).or_insert_with(|| Lane { landed_at, ..Lane::default() });
        lane.size = held.room.num_permits();
        match held.lease.probe || held.alone.is_some() {
            true => lane.parked.push_front(held),
            false if lane.parked.len() >= capacity => return Some(held),
            false => lane.parked.push_back(held),
        }
        self.line_up(callback);
        None
    }

    /// Whether a lane lands posts as others do.
    fn moves(&self, callback: CallbackId) -> bool {
        let landed_at = self.lanes.get(&callback).map_or(self.landings, |lane| lane.landed_at);
        self.landings - landed_at <= self.moves_within()
    }

    fn moves_within(&self) -> u64 {
        (MOVES_WITHIN_TURNS * self.lanes.len() + MOVES_WITHIN_LANDINGS) as u64
    }

    /// A lane's share of a room, in leases that take so much of it.
    fn share(&self, callback: CallbackId, of: &Arc<Semaphore>, size: usize) -> usize {
        let proven = self.lanes.get(&callback).is_some_and(|lane| lane.proven);
        match self.shared.iter().find(|shared| Arc::ptr_eq(&shared.room, of)) {
            Some(shared) if proven || !shared.of_proven_lanes => {
                shared.size / self.lanes.len().max(1) / size.max(1)
            }
            _ => 0,
        }
    }

    /// How many leases may wait in a lane that are of this room and take so much of it.
    fn capacity(&self, callback: CallbackId, room: &Arc<Semaphore>, size: usize) -> usize {
        let share = if self.moves(callback) { self.share(callback, room, size) } else { 0 };
        let reserve =
            self.shared.iter().find(|shared| Arc::ptr_eq(&shared.room, room)).map_or(0, |of| of.reserve);
        let free = room.available_permits().saturating_sub(reserve) / size.max(1);
        free.max(share).max(self.paces.widest()).min(PARKED_MAX)
    }

    /// How many leases of this room may wait in a lane, if they take as much of it as the last one that came.
    pub fn capacity_for_more(&self, callback: CallbackId, room: &Arc<Semaphore>) -> usize {
        let size = self.lanes.get(&callback).map_or(1, |lane| lane.size);
        self.capacity(callback, room, size)
    }

    /// How many leases wait in a lane.
    pub fn parked(&self, callback: CallbackId) -> usize {
        self.lanes.get(&callback).map_or(0, |lane| lane.parked.len())
    }

    /// Takes the next lease to send, if there is room for one more post. It counts as under way until [`Lanes::landed`].
    ///
    /// A lane sends in the order of arrival; only when the room of one kind is full do those of the other kind overtake.
    pub fn take(&mut self) -> Option<(Place, Held)> {
        // By turns: where there is too much to do for either, each gets something done.
        self.slow_first = !self.slow_first;
        self.take_from(self.slow_first).or_else(|| self.take_from(!self.slow_first))
    }

    fn take_from(&mut self, slow: bool) -> Option<(Place, Held)> {
        for _ in 0..self.lines[usize::from(slow)].len() {
            if self.rooms.are_full(slow) {
                return None;
            }
            let callback = self.lines[usize::from(slow)].pop_front()?;
            let width = self.paces.width(callback);
            let Some(lane) = self.lanes.get_mut(&callback) else { continue };
            // A lane in line may have been shed of everything since, or made narrower, or be another's by now.
            if lane.parked.is_empty() || lane.under_way.all() >= width || lane.slow != slow {
                lane.in_line = false;
                self.line_up(callback);
                self.forget_if_idle(callback);
                continue;
            }
            let fits = |held: &Held| self.rooms.has_room_for(Kind::of(held));
            let Some(held) = lane.parked.iter().position(fits).and_then(|place| lane.parked.remove(place))
            else {
                self.lines[usize::from(slow)].push_back(callback);
                continue;
            };
            lane.in_line = false;
            let kind = Kind::of(&held);
            let since = self.rooms.started(kind, &mut lane.under_way, slow);
            self.line_up(callback);
            return Some((Place { callback, kind, since }, held));
        }
        None
    }

    /// A while has passed: what has been under way for one already takes long. Returns how many do.
    pub fn tick(&mut self) -> usize {
        self.rooms.tick();
        for lane in self.lanes.values_mut() {
            lane.under_way.tick();
            if lane.under_way.long > 0 && !lane.slow {
                lane.slow = true;
                self.rooms.slow += lane.under_way;
            }
        }
        self.rooms.all().long
    }

    /// What a post has shown of its callback.
    pub fn proven(&mut self, callback: CallbackId, arrived: bool) {
        if let Some(lane) = self.lanes.get_mut(&callback) {
            lane.proven = arrived;
        }
    }

    /// A lease that was taken is no longer under way.
    pub fn landed(&mut self, place: Place) {
        if let Some(lane) = self.lanes.get_mut(&place.callback)
            && lane.slow
            && self.rooms.age(&place) != Age::Long
        {
            lane.slow = false;
            self.rooms.slow -= lane.under_way;
        }
        self.vacated(place);
    }

    /// A lease that was taken was not sent after all.
    pub fn vacated(&mut self, place: Place) {
        self.landings += 1;
        if let Some(lane) = self.lanes.get_mut(&place.callback) {
            self.rooms.landed(&place, &mut lane.under_way, lane.slow);
            lane.landed_at = self.landings;
        }
        self.line_up(place.callback);
        self.forget_if_idle(place.callback);
    }

    /// A lane that still stands in line is forgotten when its turn comes: it must not get a second place.
    fn forget_if_idle(&mut self, callback: CallbackId) {
        let idle = |lane: &Lane| lane.under_way.all() == 0 && lane.parked.is_empty() && !lane.in_line;
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
        self.lines.iter_mut().for_each(VecDeque::clear);
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
            && lane.under_way.all() < self.paces.width(callback)
        {
            lane.in_line = true;
            self.lines[usize::from(lane.slow)].push_back(callback);
        }
    }
}

#[cfg(test)]
mod slow_tests;
#[cfg(test)]
pub(super) mod tests;
