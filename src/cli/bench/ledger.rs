//! Who asked for what and when, and what arrived: one entry for each delivery of a run. An event's id has the number of its first delivery in it, and
//! the callback that this is for; its others are for the callbacks that follow.
//! Its memory is fixed before the run begins, and entering something takes no lock.

use std::ops::{Add, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;
use uuid::Uuid;

/// Moments are nanoseconds since the run began, and at least 1: nought means "not yet".
#[derive(Default)]
struct Entry {
    asked: AtomicU64,
    accepted: AtomicU64,
    arrived: AtomicU64,
    /// What became of the `webhook-id`, so that a duplicate can be told from another delivery.
    webhook_id_hash: AtomicU64,
}

pub struct Ledger {
    run: u32,
    /// Runs of the same command before this one: what comes late from them is nobody's invention.
    first_run: u32,
    begun: Instant,
    /// Deliveries of one event.
    fan_out: u16,
    entries: Vec<Entry>,
    accepted: AtomicU64,
    refused: AtomicU64,
    arrived: AtomicU64,
    duplicated: AtomicU64,
    invented: AtomicU64,
}

/// What a run comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub accepted: u64,
    /// Asked, and answered with something else than success.
    pub refused: u64,
    pub arrived: u64,
    /// Arrivals beyond the first, all under the first one's `webhook-id`.
    pub duplicated: u64,
    /// Accepted and never arrived.
    pub lost: u64,
    /// Never asked for, at the wrong callback, or again under another `webhook-id`.
    pub invented: u64,
}

impl Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            accepted: self.accepted + other.accepted,
            refused: self.refused + other.refused,
            arrived: self.arrived + other.arrived,
            duplicated: self.duplicated + other.duplicated,
            lost: self.lost + other.lost,
            invented: self.invented + other.invented,
        }
    }
}

impl Tally {
    /// Every accepted event arrived, and nothing else did.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.invented == 0
    }
}

impl Ledger {
    pub fn new(first_run: u32, run: u32, deliveries: usize, fan_out: u16) -> Ledger {
        Ledger {
            run,
            first_run,
            begun: Instant::now(),
            fan_out,
            entries: std::iter::repeat_with(Entry::default).take(deliveries).collect(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
            invented: AtomicU64::new(0),
        }
    }

    pub fn deliveries(&self) -> usize {
        self.entries.len()
    }

    /// The id of one event, by the number of its first delivery and the callback that this is for. It says whose it is and yet is as unordered as a client's own random ids, which is what an index has to cope with.
    pub fn id(&self, number: usize, callback: u16) -> Uuid {
        let number = number as u32;
        let scattered =
            (number ^ self.run).wrapping_mul(0x9E37_79B1).rotate_left(15).wrapping_mul(0x85EB_CA77);
        let run = self.run.to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&scattered.to_be_bytes());
        bytes[4..6].copy_from_slice(&callback.to_be_bytes());
        bytes[6..8].copy_from_slice(&[0x40, run[0]]);
        bytes[8..12].copy_from_slice(&[0x80, run[1], run[2], run[3]]);
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        Uuid::from_bytes(bytes)
    }

    pub fn now_ns(&self) -> u64 {
        (self.begun.elapsed().as_nanos() as u64).max(1)
    }

    /// An event is asked for; `at_ns` is when it was due to be, which may be earlier than now.
    pub fn ask(&self, number: usize, at_ns: u64) {
        self.entries[number].asked.store(at_ns.max(1), Ordering::Release);
    }

    pub fn accept(&self, number: usize) {
        self.entries[number].accepted.store(self.now_ns(), Ordering::Release);
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Something arrived that cannot be read.
    pub fn invent(&self) {
        self.invented.fetch_add(1, Ordering::Relaxed);
    }

    /// Something arrived at a callback.
    pub fn arrive(&self, session: Uuid, callback: u16, webhook_id_hash: u64) {
        let now = self.now_ns();
        let bytes = session.as_bytes();
        let run = u32::from_be_bytes([bytes[7], bytes[9], bytes[10], bytes[11]]);
        if (self.first_run..self.run).contains(&run) {
            return;
        }
        let first = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
        let first_callback = u16::from_be_bytes([bytes[4], bytes[5]]);
        let place = callback.checked_sub(first_callback).filter(|place| *place < self.fan_out);
        let entry = place
            .filter(|_| session == self.id(first, first_callback))
            .and_then(|place| self.entries.get(first + usize::from(place)))
            .filter(|entry| entry.asked.load(Ordering::Acquire) > 0);
        let Some(entry) = entry else {
            return self.invent();
        };
        let hash = webhook_id_hash.max(1);
        match entry.webhook_id_hash.compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                entry.arrived.store(now, Ordering::Release);
                self.arrived.fetch_add(1, Ordering::Release);
            }
            Err(first) if first == hash => drop(self.duplicated.fetch_add(1, Ordering::Relaxed)),
            Err(_other) => self.invent(),
        }
    }

    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many were accepted and have not arrived. An answer may be lost on its way to us: what arrived unaccepted is no debt.
    pub fn missing(&self) -> u64 {
        self.missing_of(|_| true)
    }

    /// The same, of the deliveries whose number is one of these.
    pub fn missing_of(&self, chosen: impl Fn(usize) -> bool) -> u64 {
        let missing = |(number, entry): &(usize, &Entry)| {
            chosen(*number)
                && entry.accepted.load(Ordering::Acquire) > 0
                && entry.arrived.load(Ordering::Acquire) == 0
        };
        self.entries.iter().enumerate().filter(missing).count() as u64
    }

    pub fn tally(&self) -> Tally {
        Tally {
            accepted: self.accepted(),
            refused: self.refused.load(Ordering::Relaxed),
            arrived: self.arrived(),
            duplicated: self.duplicated.load(Ordering::Relaxed),
            lost: self.missing(),
            invented: self.invented.load(Ordering::Relaxed),
        }
    }

    /// From asked to accepted, ascending, in nanoseconds.
    pub fn accept_latencies_ns(&self) -> Vec<u64> {
        self.latencies(|entry| &entry.accepted)
    }

    /// From asked to arrived, ascending, in nanoseconds.
    pub fn arrival_latencies_ns(&self) -> Vec<u64> {
        self.latencies(|entry| &entry.arrived)
    }

    /// As [`Ledger::accept_latencies_ns`], of some events.
    pub fn accept_latencies_of(&self, numbers: Range<usize>) -> Vec<u64> {
        self.latencies_of(numbers, |entry| &entry.accepted)
    }

    /// As [`Ledger::arrival_latencies_ns`], of some events.
    pub fn arrival_latencies_of(&self, numbers: Range<usize>) -> Vec<u64> {
        self.latencies_of(numbers, |entry| &entry.arrived)
    }

    fn latencies(&self, to: impl Fn(&Entry) -> &AtomicU64) -> Vec<u64> {
        self.latencies_of(0..self.entries.len(), to)
    }

    fn latencies_of(&self, numbers: Range<usize>, to: impl Fn(&Entry) -> &AtomicU64) -> Vec<u64> {
        let both = |entry: &Entry| (entry.asked.load(Ordering::Acquire), to(entry).load(Ordering::Acquire));
        let mut latencies: Vec<u64> = self.entries[numbers]
            .iter()
            .map(both)
            .filter(|(asked, reached)| *asked > 0 && *reached > 0)
            .map(|(asked, reached)| reached.saturating_sub(asked))
            .collect();
        latencies.sort_unstable();
        latencies
    }

    /// When each delivery that arrived did, by number and in nanoseconds since the run began.
    pub fn arrivals_ns(&self) -> impl Iterator<Item = (usize, u64)> {
        let arrived = |(number, entry): (usize, &Entry)| (number, entry.arrived.load(Ordering::Acquire));
        self.entries.iter().enumerate().map(arrived).filter(|(_, arrived)| *arrived > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(events: usize) -> Ledger {
        let ledger = Ledger::new(70, 72, events, 1);
        for number in 0..events {
            ledger.ask(number, ledger.now_ns());
            ledger.accept(number);
        }
        ledger
    }

    #[test]
    fn what_arrives_where_it_belongs_is_counted_once() {
        let ledger = asked(2);
        ledger.arrive(ledger.id(0, 5), 5, 1);
        ledger.arrive(ledger.id(0, 5), 5, 1);
        assert_eq!(
            ledger.tally(),
            Tally { accepted: 2, arrived: 1, duplicated: 1, lost: 1, ..Tally::default() }
        );
        assert!(!ledger.tally().is_clean());
        ledger.arrive(ledger.id(1, 6), 6, 2);
        assert!(ledger.tally().is_clean());
        assert_eq!(ledger.arrival_latencies_ns().len(), 2);
    }

    #[test]
    fn a_loss_in_either_of_two_ledgers_is_one_in_both_together() {
        let (whole, lossy) = (asked(1), asked(3));
        whole.arrive(whole.id(0, 1), 1, 1);
        lossy.arrive(lossy.id(1, 1), 1, 1);
        assert_eq!((lossy.missing_of(|number| number > 0), lossy.missing_of(|number| number == 1)), (1, 0));
        for both in [whole.tally() + lossy.tally(), lossy.tally() + whole.tally()] {
            assert_eq!(both, Tally { accepted: 4, arrived: 2, lost: 2, ..Tally::default() });
            assert!(!both.is_clean());
        }
    }

    #[test]
    fn what_nobody_asked_for_is_invented() {
        let elsewhere = Ledger::new(70, 73, 1, 1);
        let unasked = Ledger::new(70, 72, 1, 1);
        assert!({
            unasked.arrive(unasked.id(0, 1), 1, 1);
            unasked.tally().invented == 1
        });
        type Arrival = fn(&Ledger, &Ledger);
        let arrivals: [(&str, Arrival); 4] = [
            ("another run's", |ledger, other| ledger.arrive(other.id(0, 1), 1, 1)),
            ("another callback's", |ledger, _| ledger.arrive(ledger.id(0, 1), 2, 1)),
            ("beyond the end", |ledger, _| ledger.arrive(ledger.id(9, 1), 1, 1)),
            ("a second delivery", |ledger, _| {
                ledger.arrive(ledger.id(0, 1), 1, 1);
                ledger.arrive(ledger.id(0, 1), 1, 2);
            }),
        ];
        for (what, arrival) in arrivals {
            let ledger = asked(1);
            arrival(&ledger, &elsewhere);
            assert_eq!(ledger.tally().invented, 1, "{what}");
        }
    }

    #[test]
    fn an_event_for_several_callbacks_has_to_arrive_at_each_of_them() {
        let ledger = Ledger::new(70, 72, 6, 3);
        (0..6).for_each(|number| {
            ledger.ask(number, ledger.now_ns());
            ledger.accept(number);
        });
        let arrive = |first, first_callback, at| ledger.arrive(ledger.id(first, first_callback), at, 9);
        // The second event is for callbacks 6 to 8.
        for callback in [8, 6, 6] {
            arrive(3, 6, callback);
        }
        assert_eq!(
            ledger.tally(),
            Tally { accepted: 6, arrived: 2, duplicated: 1, lost: 4, ..Tally::default() }
        );
        assert_eq!(ledger.missing_of(|number| number == 4), 1);
        for callback in [5, 9] {
            arrive(3, 6, callback);
        }
        assert_eq!((ledger.tally().arrived, ledger.tally().invented), (2, 2), "these are for others");
    }

    #[test]
    fn a_late_duplicate_from_the_run_before_is_nobodys_invention() {
        let (before, ledger) = (Ledger::new(70, 71, 1, 1), asked(1));
        ledger.arrive(before.id(0, 1), 1, 1);
        assert_eq!(ledger.tally().invented, 0);
    }

    #[test]
    fn ids_are_unlike_each_other_and_say_their_number() {
        let ledger = Ledger::new(70, 72, 0, 1);
        let ids: std::collections::HashSet<_> = (0..10_000).map(|number| ledger.id(number, 3)).collect();
        assert_eq!(ids.len(), 10_000);
        assert_eq!(
            (ledger.id(1, 3).get_version_num(), ledger.id(1, 3).get_variant()),
            (4, uuid::Variant::RFC4122)
        );
    }
}
