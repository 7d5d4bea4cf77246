//! Results that the database does not take although it is there: a statement that takes longer than it may, a page that cannot be read. As a
//! batch they would be in everybody's way for ever, so each is tried by itself, between the batches of the others. One that still fails while
//! others are written is left to its lease.

use std::slice;
use std::time::{Duration, Instant};

use super::{Finished, Recorder, part, refused};
use crate::domain::Error;

/// While nothing else is to be written.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A failure may take all of the time that a statement has, and others are waiting.
const FAILURES_AT_ONCE: usize = 2;
/// Failures that others were written after, or beside.
const STRIKES_MAX: u32 = 5;

pub(super) struct Stubborn {
    finished: Finished,
    strikes: u32,
}

impl Stubborn {
    pub(super) fn new(finished: Finished) -> Self {
        Self { finished, strikes: 0 }
    }
}

impl Recorder {
    /// Writes results, a statement's worth at a time. Those that would not be written are taken out. Whether any were written.
    pub(super) async fn record_all(&mut self, results: &mut Vec<Finished>) -> bool {
        let mut written = 0;
        while written < results.len() {
            let end = written + part(&results[written..]);
            if self.record(&results[written..end]).await {
                written = end;
            } else {
                self.stubborn.extend(results.drain(written..end).map(Stubborn::new));
            }
        }
        written > 0
    }

    /// When to try again at the latest.
    pub(super) fn stubborn_at(&self) -> Option<Instant> {
        (!self.stubborn.is_empty()).then(|| Instant::now() + TRY_AGAIN_AFTER)
    }

    /// Tries each, or some of them. `others_were_written` since they were tried last: then it is them, and not the database.
    pub(super) async fn try_stubborn(&mut self, mut others_were_written: bool) {
        let (mut failures, mut written) = (0, false);
        for _ in 0..self.stubborn.len() {
            let Some(mut one) = self.stubborn.pop_front() else { break };
            match self.write(slice::from_ref(&one.finished)).await {
                Ok(()) => {
                    self.count(slice::from_ref(&one.finished));
                    (others_were_written, written) = (true, true);
                }
                Err(error @ Error::Unavailable(_)) => {
                    one.strikes += u32::from(others_were_written);
                    match one.strikes {
                        STRIKES_MAX.. => refused(&one.finished, &error),
                        _ => self.stubborn.push_back(one),
                    }
                    failures += 1;
                    if failures == FAILURES_AT_ONCE {
                        break;
                    }
                }
                Err(error) => refused(&one.finished, &error),
            }
        }
        if written {
            // Some of it may be due again, and some may have kept others from being sent.
            self.due.notify_one();
            self.gather.notify_one();
        }
    }

    /// Nobody comes any more: what still fails is left to its lease.
    pub(super) async fn try_stubborn_to_the_end(&mut self) {
        while !self.stubborn.is_empty() {
            self.try_stubborn(true).await;
        }
    }
}
