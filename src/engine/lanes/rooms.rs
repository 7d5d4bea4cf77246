//! How many posts are under way, by kind and by how long they have been, and how many may be.
//!
//! A post that has no answer soon may get none before its time is up, and places that such posts keep are nobody else's. Where hundreds of
//! callbacks hang at once, because they are all behind one gateway, they would take every place there is. So what takes long gives its place
//! up to others, is counted by itself, and there may be a few times as many of it. And a lane whose posts take long starts more only while
//! these are not too many, so that there always is room for those that answer soon.

use std::ops::{AddAssign, SubAssign};

use super::Held;
use crate::domain::id::CallbackId;

/// Of all posts under way there may be so many times those that have not been for long.
const WHOLE: usize = 4;

/// How many posts may be under way, those that take long counted.
pub fn under_way_max(in_flight_max: usize) -> usize {
    WHOLE * in_flight_max
}

/// Which room a post takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    First,
    Retry,
    /// What was held and is brought back.
    Drain,
}

impl Kind {
    pub(super) fn of(held: &Held) -> Self {
        match &held.lease {
            lease if lease.draining => Self::Drain,
            lease if lease.attempts == 0 => Self::First,
            _ => Self::Retry,
        }
    }
}

/// Where a post stands in the lanes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub callback: CallbackId,
    pub(super) kind: Kind,
    /// The tick after which it started.
    pub(super) since: u64,
}

/// For how long a post has been under way, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    SinceTheLast,
    SinceTheOneBefore,
    Long,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnderWay {
    since_the_last: usize,
    since_the_one_before: usize,
    pub(super) long: usize,
}

impl UnderWay {
    pub(super) fn all(&self) -> usize {
        self.soon() + self.long
    }

    /// Those that may still be answered soon.
    fn soon(&self) -> usize {
        self.since_the_last + self.since_the_one_before
    }

    pub(super) fn tick(&mut self) {
        self.long += self.since_the_one_before;
        self.since_the_one_before = std::mem::take(&mut self.since_the_last);
    }

    fn of(&mut self, age: Age) -> &mut usize {
        match age {
            Age::SinceTheLast => &mut self.since_the_last,
            Age::SinceTheOneBefore => &mut self.since_the_one_before,
            Age::Long => &mut self.long,
        }
    }
}

impl AddAssign for UnderWay {
    fn add_assign(&mut self, more: Self) {
        self.since_the_last += more.since_the_last;
        self.since_the_one_before += more.since_the_one_before;
        self.long += more.long;
    }
}

impl SubAssign for UnderWay {
    fn sub_assign(&mut self, less: Self) {
        self.since_the_last -= less.since_the_last;
        self.since_the_one_before -= less.since_the_one_before;
        self.long -= less.long;
    }
}

pub(super) struct Rooms {
    in_flight_max: usize,
    /// By kind.
    max: [usize; 3],
    under_way: [UnderWay; 3],
    /// Of slow lanes, whatever their kind.
    pub(super) slow: UnderWay,
    ticks: u64,
}

impl Rooms {
    /// First attempts may take three quarters of the whole, retries half, and what was held a quarter.
    pub(super) fn new(in_flight_max: usize) -> Self {
        let max = [in_flight_max - in_flight_max / 4, in_flight_max / 2, in_flight_max / 4];
        Self {
            in_flight_max,
            max: max.map(|max| max.max(1)),
            under_way: Default::default(),
            slow: UnderWay::default(),
            ticks: 0,
        }
    }

    pub(super) fn all(&self) -> UnderWay {
        self.under_way.into_iter().fold(UnderWay::default(), |mut all, kind| {
            all += kind;
            all
        })
    }

    /// Whether no post may start, or none of a lane that is slow: these leave half of the room for what is answered soon, and as much as that
    /// room of all there is.
    pub(super) fn are_full(&self, slow: bool) -> bool {
        let all = self.all();
        let is_full = all.soon() >= self.in_flight_max || all.all() >= under_way_max(self.in_flight_max);
        let slow_max = under_way_max(self.in_flight_max) - self.in_flight_max;
        is_full
            || slow && (self.slow.soon() >= (self.in_flight_max / 2).max(1) || self.slow.all() >= slow_max)
    }

    pub(super) fn has_room_for(&self, kind: Kind) -> bool {
        let under_way = self.under_way[kind as usize];
        let counted = match kind {
            Kind::First | Kind::Retry => under_way.soon(),
            // Whoever is brought back to life shall not be overrun, least of all if it is slow (rule 21).
            Kind::Drain => under_way.all(),
        };
        counted < self.max[kind as usize]
    }

    /// One more is under way of a lane. Returns since which tick.
    pub(super) fn started(&mut self, kind: Kind, of_lane: &mut UnderWay, slow: bool) -> u64 {
        self.each(kind, of_lane, slow, |under_way| under_way.since_the_last += 1);
        self.ticks
    }

    /// One less.
    pub(super) fn landed(&mut self, place: &Place, of_lane: &mut UnderWay, slow: bool) {
        let age = self.age(place);
        self.each(place.kind, of_lane, slow, |under_way| *under_way.of(age) -= 1);
    }

    pub(super) fn age(&self, place: &Place) -> Age {
        match self.ticks - place.since {
            0 => Age::SinceTheLast,
            1 => Age::SinceTheOneBefore,
            _ => Age::Long,
        }
    }

    fn each(&mut self, kind: Kind, of_lane: &mut UnderWay, slow: bool, change: impl Fn(&mut UnderWay)) {
        change(&mut self.under_way[kind as usize]);
        change(of_lane);
        if slow {
            change(&mut self.slow);
        }
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.under_way.iter_mut().chain([&mut self.slow]).for_each(UnderWay::tick);
    }
}
