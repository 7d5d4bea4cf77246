//! Results that the database did not take although it was there: a row that somebody has locked, a statement that takes longer than it may, a page
//! that cannot be read. In one batch with others they would be in everybody's way for as long as that lasts.
//!
//! Here nobody waits for them. They are tried again in groups, each half as large as the last that was not taken and twice as large as the last
//! that was: so few statements tell those that are why from the rest, and few write them all once the cause is gone.
//!
//! What is not taken by itself is tried as long as nothing else is written either, for then it is the database that has to be waited for. While
//! others are written it is left to its lease, once that is over: the delivery is sent again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::writer::{Failure, Writer};
use super::{BATCH_MAX, Bells, Concerned, Finished, Known, TRY_AGAIN_AFTER, part};
use crate::domain::Error;
use crate::store::sessions::Bounds;

pub(super) const BOUNDS: Bounds = Bounds { statement: Duration::from_secs(5), lock: Duration::from_secs(2) };
/// Failures alone, with others written before each of them.
const STRIKES_MAX: u32 = 5;

pub(super) struct Stubborn {
    writer: Writer,
    bells: Bells,
    known: Known,
    arriving: mpsc::UnboundedReceiver<Finished>,
    /// Most of these were in bad company.
    mixed: Line,
    /// Each of these was not taken by itself, or needs a row that others may have locked.
    suspects: Line,
}

struct Waiting {
    finished: Finished,
    strikes: Strikes,
}

/// How often a result was not taken by itself although others were written since it was tried last.
#[derive(Debug, Clone, Copy)]
struct Strikes {
    count: u32,
    /// What had been written then.
    written: u64,
}

impl Strikes {
    /// Counts a failure, unless it says nothing. Whether it is the last.
    fn are_up(&mut self, written: u64) -> bool {
        self.count += u32::from(written > self.written);
        self.written = written;
        self.count >= STRIKES_MAX
    }
}

/// Results that are tried one group after another.
struct Line {
    waiting: VecDeque<Waiting>,
    at_once: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), at_once: BATCH_MAX }
    }
}

impl Line {
    fn next_group(&mut self) -> Vec<Waiting> {
        let first = self.waiting.iter().take(self.at_once).map(|waiting| &waiting.finished);
        self.waiting.drain(..part(first)).collect()
    }

    fn put_back(&mut self, group: Vec<Waiting>) {
        group.into_iter().rev().for_each(|one| self.waiting.push_front(one));
    }

    /// A group was taken, so that twice as many may be.
    fn grow(&mut self) {
        self.at_once = (2 * self.at_once).min(BATCH_MAX);
    }

    /// Puts a group that was not taken behind the others, to be tried in halves.
    fn halve(&mut self, group: Vec<Waiting>) {
        self.at_once = group.len().div_ceil(2);
        self.waiting.extend(group);
    }
}

impl Stubborn {
    pub(super) fn new(
        writer: Writer,
        bells: Bells,
        known: Known,
        arriving: mpsc::UnboundedReceiver<Finished>,
    ) -> Self {
        let (mixed, suspects) = (Line::default(), Line::default());
        Self { writer, bells, known, arriving, mixed, suspects }
    }

    /// Until nobody brings any more, and each is written or was tried once more by itself.
    pub(super) async fn run(mut self) {
        while self.take_in().await {
            let line = if self.mixed.waiting.is_empty() { &mut self.suspects } else { &mut self.mixed };
            let group = line.next_group();
            let results: Vec<_> = group.iter().map(|waiting| &waiting.finished).collect();
            match self.writer.write(&results, true).await {
                Ok(()) => {
                    line.grow();
                    let concerned = Concerned::by(results);
                    drop(group);
                    self.bells.ring_for(concerned);
                    continue;
                }
                Err(Failure::NoSession(_away)) => line.put_back(group),
                Err(Failure::Lost(_) | Failure::NotTaken(_)) if group.len() > 1 => line.halve(group),
                Err(Failure::Lost(error) | Failure::NotTaken(error)) => {
                    group.into_iter().for_each(|one| self.failed_alone(one, &error));
                }
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// Waits for one if there is none. False when there is none, and will be none.
    async fn take_in(&mut self) -> bool {
        if self.mixed.waiting.is_empty() && self.suspects.waiting.is_empty() {
            self.known.out_of_reach.take();
            let Some(first) = self.arriving.recv().await else { return false };
            self.sort_in(first);
        }
        while let Ok(next) = self.arriving.try_recv() {
            self.sort_in(next);
        }
        self.tell_what_is_out_of_reach();
        true
    }

    fn sort_in(&mut self, finished: Finished) {
        let line = if finished.needs_its_subscription() { &mut self.suspects } else { &mut self.mixed };
        let strikes = Strikes { count: 0, written: self.known.written.get() };
        line.waiting.push_back(Waiting { finished, strikes });
    }

    fn failed_alone(&mut self, mut one: Waiting, error: &Error) {
        let lease = &one.finished.held.lease;
        let (delivery, is_over) = (lease.delivery, lease.until <= Instant::now());
        let strikes_are_up = one.strikes.are_up(self.known.written.get());
        let is_passing = matches!(error, Error::Unavailable(_));
        if !is_passing || is_over && strikes_are_up || self.arriving.is_closed() {
            tracing::error!(error = %error.chain(), %delivery, "a result was not taken; its lease passes, and the delivery is sent again");
            let concerned = Concerned::by([&one.finished]);
            drop(one);
            self.bells.ring_for(concerned);
        } else {
            if is_over && one.finished.held.alone.take().is_some() {
                self.bells.ring_for(Concerned { due: true, gather: true });
            }
            self.suspects.waiting.push_back(one);
        }
    }

    /// So that batches need not find out each time.
    fn tell_what_is_out_of_reach(&self) {
        let suspects = self.suspects.waiting.iter().map(|waiting| &waiting.finished);
        let in_need = suspects.filter(|finished| finished.needs_its_subscription());
        self.known.out_of_reach.replace(in_need.map(|finished| finished.held.lease.subscription).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_18_failures_speak_against_a_result_only_while_others_are_written() {
        let mut strikes = Strikes { count: 0, written: 7 };
        for _ in 0..100 {
            assert!(!strikes.are_up(7), "nothing is written: it is the database");
        }
        for written in 8..7 + u64::from(STRIKES_MAX) {
            assert!(!strikes.are_up(written) && !strikes.are_up(written));
        }
        assert!(strikes.are_up(100));
    }
}
