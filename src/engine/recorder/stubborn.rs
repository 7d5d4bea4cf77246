//! What nobody waits for: results that the database did not take although it was there, and notes about subscriptions that somebody has locked.
//!
//! A row that is locked, a statement that takes longer than it may, a page that cannot be read: in one batch with others such results would be in
//! everybody's way for as long as that lasts. Here they are tried again in groups, each half as large as the last that was not taken and twice as
//! large as the last that was. So few statements tell those that are why from the rest, and few write them all once the cause is gone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::writer::{Failure, Writer};
use super::{BATCH_MAX, Concerned, Finished, Known, TRY_AGAIN_AFTER, part};
use crate::domain::Error;
use crate::hub::handoff::Bells;
use crate::store::sessions::Bounds;

/// Others wait behind what fails.
pub(super) const BOUNDS: Bounds =
    Bounds { statement: Duration::from_secs(5), lock: Duration::from_millis(200) };
/// Between tries at what failed alone.
const BAD_EVERY: Duration = Duration::from_millis(500);
/// Between tries to note that subscriptions are well.
const NOTE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Stubborn {
    writer: Writer,
    bells: Bells,
    known: Known,
    arriving: mpsc::UnboundedReceiver<Finished>,
    /// Most of these were in bad company.
    mixed: Line,
    /// Each of these was not taken by itself.
    bad: Line,
    bad_again_at: Instant,
    note_again_at: Instant,
    /// What had been written when one was tried alone the last time, and failed.
    failed_at: Option<u64>,
    /// Where there is one there may be hundreds, and each is tried again and again.
    is_said: bool,
}

struct Waiting {
    finished: Finished,
    /// What had been written when it failed alone for the first time.
    failed_at: Option<u64>,
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
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

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

/// Whether a result is given up that failed alone: it is sent again anyway, and it is not the database that has to be waited for, because something
/// was written since it failed for the first time and others fail all the same.
fn is_given_up(lease_is_over: bool, failed_at: Option<u64>, others_failed_at: u64) -> bool {
    lease_is_over && failed_at.is_some_and(|failed_at| failed_at < others_failed_at)
}

impl Stubborn {
    pub(super) fn new(
        writer: Writer,
        bells: Bells,
        known: Known,
        arriving: mpsc::UnboundedReceiver<Finished>,
    ) -> Self {
        let (mixed, bad, now) = (Line::default(), Line::default(), Instant::now());
        Self {
            writer,
            bells,
            known,
            arriving,
            mixed,
            bad,
            bad_again_at: now,
            note_again_at: now,
            failed_at: None,
            is_said: false,
        }
    }

    /// Until nobody brings any more, and each is written or was tried once more by itself.
    pub(super) async fn run(mut self) {
        while self.wait().await {
            if self.note_again_at <= Instant::now() {
                self.writer.note_well().await;
                self.note_again_at = Instant::now() + NOTE_EVERY;
            }
            self.try_some(|lines| &mut lines.mixed).await;
            self.give_up().await;
            // At the end nobody waits for the next time.
            if self.bad_again_at <= Instant::now() || self.arriving.is_closed() {
                self.try_some(|lines| &mut lines.bad).await;
            }
            if self.is_said && self.mixed.is_empty() && self.bad.is_empty() {
                self.is_said = false;
                tracing::info!("there are no results left that were not taken");
            }
        }
        self.writer.note_well().await;
    }

    /// Waits until there is something to do. False when there is nothing, and will be nothing.
    async fn wait(&mut self) -> bool {
        while let Ok(finished) = self.arriving.try_recv() {
            self.mixed.waiting.push_back(Waiting { finished, failed_at: None });
        }
        if !self.mixed.is_empty() {
            return true;
        }
        if self.arriving.is_closed() {
            return !self.bad.is_empty();
        }
        let bad_at = (!self.bad.is_empty()).then_some(self.bad_again_at);
        let note_at = (!self.known.well.borrow().is_empty()).then_some(self.note_again_at);
        let again_at = bad_at.into_iter().chain(note_at).min();
        let more_are_well = self.known.more_are_well.clone();
        tokio::select! {
            next = self.arriving.recv() => {
                self.mixed.waiting.extend(next.map(|finished| Waiting { finished, failed_at: None }));
            }
            () = more_are_well.notified() => self.note_again_at = Instant::now(),
            () = at(again_at) => {}
        }
        true
    }

    async fn try_some(&mut self, line: fn(&mut Self) -> &mut Line) {
        let group = line(self).next_group();
        if group.is_empty() {
            return;
        }
        let results: Vec<_> = group.iter().map(|waiting| &waiting.finished).collect();
        match self.writer.write(&results, true).await {
            Ok(()) => {
                self.known.pulse.well();
                line(self).grow();
                self.be_done_with(group);
            }
            Err(Failure::Lost(_) | Failure::NotTaken(_)) if group.len() > 1 => line(self).halve(group),
            Err(Failure::Lost(error) | Failure::NotTaken(error)) => {
                let nothing_was_written = self.failed_at == Some(self.known.written.get());
                for one in group {
                    self.failed_alone(one, &error).await;
                }
                if nothing_was_written {
                    self.known.pulse.failed(&error, "results are not taken, and are kept");
                    // The next will not be either.
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
            }
            Err(Failure::NoSession(error)) => {
                self.known.pulse.failed(&error, "results cannot be written now, and are kept");
                line(self).put_back(group);
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        }
    }

    async fn failed_alone(&mut self, mut one: Waiting, error: &Error) {
        let written = self.known.written.get();
        self.failed_at = Some(written);
        // What comes from the other line must not keep these from being tried.
        if one.failed_at.is_some() || self.bad.is_empty() {
            self.bad_again_at = Instant::now() + BAD_EVERY;
            self.bad.at_once = 1;
        }
        one.failed_at.get_or_insert(written);
        let lease = &one.finished.held.lease;
        let (delivery, subscription) = (lease.delivery, lease.subscription);
        if !matches!(error, Error::Unavailable(_)) || self.arriving.is_closed() {
            tracing::error!(error = %error.chain(), %delivery, %subscription, "a result was not taken; its delivery is sent again when its lease is over");
            self.writer.count_crashes(&[&one.finished]).await;
            return self.be_done_with([one]);
        }
        if !self.is_said {
            self.is_said = true;
            tracing::error!(error = %error.chain(), %delivery, %subscription, "results are not taken, this one and maybe others; they are tried again until their leases are over");
        }
        self.bad.waiting.push_back(one);
    }

    async fn give_up(&mut self) {
        let (now, failed_at) = (Instant::now(), self.failed_at.unwrap_or_default());
        let lease_is_over = |one: &Waiting| one.finished.held.lease.until <= now;
        let (over, rest): (VecDeque<_>, _) = self
            .bad
            .waiting
            .drain(..)
            .partition(|one| is_given_up(lease_is_over(one), one.failed_at, failed_at));
        self.bad.waiting = rest;
        if let Some(first) = over.front() {
            let delivery = first.finished.held.lease.delivery;
            tracing::error!(results = over.len(), first_delivery = %delivery, "results were not taken while their leases lasted; their deliveries are sent again");
            let results: Vec<_> = over.iter().map(|one| &one.finished).collect();
            self.writer.count_crashes(&results).await;
            self.be_done_with(over);
        }
        // Who is left may keep others from being sent no longer than its lease lasts.
        let rest =
            self.bad.waiting.iter_mut().chain(&mut self.mixed.waiting).filter(|one| lease_is_over(one));
        if rest.filter_map(|one| one.finished.held.alone.take()).count() > 0 {
            self.bells.ring_here();
        }
    }

    fn be_done_with(&mut self, results: impl Into<Vec<Waiting>>) {
        let results = results.into();
        let concerned = Concerned::by(results.iter().map(|waiting| &waiting.finished));
        drop(results);
        if self.mixed.is_empty() && self.bad.is_empty() {
            self.known.pulse.well();
        }
        concerned.told_by(&self.bells);
    }
}

/// Then, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_18_a_result_is_given_up_when_its_lease_is_over_and_others_were_written_without_it() {
        assert!(!is_given_up(true, Some(7), 7), "nothing was written: it is the database");
        assert!(!is_given_up(false, Some(7), 9), "it may still be written in time");
        assert!(!is_given_up(true, None, 9), "it was in bad company only");
        assert!(is_given_up(true, Some(7), 8));
    }
}
