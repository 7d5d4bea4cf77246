//! Results that the database did not take although it was there: a row that somebody has locked, a statement that takes longer than it may, a page
//! that cannot be read. In one batch with others they would be in everybody's way for as long as that lasts.
//!
//! Here nobody waits for them. They are tried again in groups, each half as large as the last that was not taken and twice as large as the last
//! that was: so few statements tell those that are why from the rest, and few write them all once the cause is gone.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::writer::{Failure, Writer};
use super::{BATCH_MAX, Bells, Concerned, Finished, TRY_AGAIN_AFTER, part};
use crate::domain::Error;
use crate::store::sessions::Bounds;

pub(super) const BOUNDS: Bounds = Bounds { statement: Duration::from_secs(5), lock: Duration::from_secs(1) };

pub(super) struct Stubborn {
    writer: Writer,
    bells: Bells,
    /// See [`super::Known`].
    written: Rc<Cell<u64>>,
    arriving: mpsc::UnboundedReceiver<Finished>,
    lines: Lines,
}

#[derive(Default)]
struct Lines {
    /// Most of these were in bad company.
    mixed: Line,
    /// Each of these was not taken by itself.
    bad: Line,
}

struct Waiting {
    finished: Finished,
    /// What had been written when it failed alone, or came.
    written: u64,
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
        written: Rc<Cell<u64>>,
        arriving: mpsc::UnboundedReceiver<Finished>,
    ) -> Self {
        Self { writer, bells, written, arriving, lines: Lines::default() }
    }

    /// Until nobody brings any more, and each is written or was tried once more by itself.
    pub(super) async fn run(mut self) {
        while self.take_in().await {
            // By turns, so that neither line waits for the other to come to an end.
            self.try_some(|lines| &mut lines.mixed).await;
            self.give_up();
            self.try_some(|lines| &mut lines.bad).await;
        }
    }

    /// Waits for one if there is none. False when there will be none.
    async fn take_in(&mut self) -> bool {
        if self.lines.mixed.waiting.is_empty() && self.lines.bad.waiting.is_empty() {
            let Some(first) = self.arriving.recv().await else { return false };
            self.sort_in(first);
        }
        while let Ok(next) = self.arriving.try_recv() {
            self.sort_in(next);
        }
        true
    }

    fn sort_in(&mut self, finished: Finished) {
        self.lines.mixed.waiting.push_back(Waiting { finished, written: self.written.get() });
    }

    async fn try_some(&mut self, line: fn(&mut Lines) -> &mut Line) {
        let group = line(&mut self.lines).next_group();
        if group.is_empty() {
            return;
        }
        let results: Vec<_> = group.iter().map(|waiting| &waiting.finished).collect();
        match self.writer.write(&results, true).await {
            Ok(()) => {
                line(&mut self.lines).grow();
                return self.be_done_with(group);
            }
            Err(Failure::Lost(_) | Failure::NotTaken(_)) if group.len() > 1 => {
                return line(&mut self.lines).halve(group);
            }
            Err(Failure::Lost(error) | Failure::NotTaken(error)) => {
                group.into_iter().for_each(|one| self.failed_alone(one, &error));
            }
            Err(Failure::NoSession(_away)) => line(&mut self.lines).put_back(group),
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }

    fn failed_alone(&mut self, mut one: Waiting, error: &Error) {
        one.written = self.written.get();
        let lease = &one.finished.held.lease;
        let (delivery, subscription) = (lease.delivery, lease.subscription);
        let is_passing = matches!(error, Error::Unavailable(_));
        if !is_passing || self.arriving.is_closed() {
            tracing::error!(error = %error.chain(), %delivery, %subscription, "a result was not taken; its delivery is sent again when its lease is over");
            return self.be_done_with(vec![one]);
        }
        let bad = &mut self.lines.bad;
        if bad.waiting.is_empty() {
            // Where there is one there may be hundreds.
            tracing::error!(error = %error.chain(), %delivery, %subscription, "results are not taken, this one and maybe others; they are tried again until their leases are over");
        }
        bad.at_once = 1;
        bad.waiting.push_back(one);
    }

    /// Drops those that are sent again anyway, if it is not the database that has to be waited for.
    fn give_up(&mut self) {
        let (now, written) = (Instant::now(), self.written.get());
        let is_over = |one: &Waiting| one.finished.held.lease.until <= now && one.written < written;
        let (over, rest): (VecDeque<_>, _) = self.lines.bad.waiting.drain(..).partition(is_over);
        self.lines.bad.waiting = rest;
        if let Some(first) = over.front() {
            let delivery = first.finished.held.lease.delivery;
            tracing::error!(results = over.len(), first_delivery = %delivery, "results were not taken while their leases lasted; their deliveries are sent again");
            self.be_done_with(over);
        }
    }

    fn be_done_with(&mut self, results: impl Into<Vec<Waiting>>) {
        let results = results.into();
        let concerned = Concerned::by(results.iter().map(|waiting| &waiting.finished));
        drop(results);
        self.bells.ring_for(concerned);
    }
}
