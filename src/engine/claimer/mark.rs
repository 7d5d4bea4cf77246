//! How far claims have come: a low-water mark of due times, below which next to nothing is left to be claimed.
//!
//! Claimed and finished rows leave dead entries at the low end of the index, which stay for as long as the oldest snapshot anywhere in the
//! cluster might see them. A claim that begins at the mark does not wade through them. What is committed late, with a due time below the
//! mark, is found by looking back: a little each time, further every few seconds, and everywhere once a minute.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// How far below the mark a claim looks that follows one which found all there was.
const STEP_BACK: TimeDelta = TimeDelta::seconds(2);
const LOOK_BACK: TimeDelta = TimeDelta::seconds(60);
const LOOK_BACK_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERYWHERE_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Mark {
    reached: Option<Reached>,
    looked_back_at: Option<Instant>,
    looked_everywhere_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Reached {
    at: DateTime<Utc>,
    /// Whether something with an earlier due time may have come since.
    step_back: bool,
}

impl Mark {
    /// The due time that the next claim begins with; `None` is the very first.
    pub fn due_from(&mut self, now: Instant) -> Option<DateTime<Utc>> {
        let over = |since: Option<Instant>, every| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= every)
        };
        let reached = self.reached.filter(|_| !over(self.looked_everywhere_at, LOOK_EVERYWHERE_EVERY));
        let Some(reached) = reached else {
            self.looked_everywhere_at = Some(now);
            self.looked_back_at = Some(now);
            return None;
        };
        if over(self.looked_back_at, LOOK_BACK_EVERY) {
            self.looked_back_at = Some(now);
            return Some(reached.at - LOOK_BACK);
        }
        Some(if reached.step_back { reached.at - STEP_BACK } else { reached.at })
    }

    /// A claim took the oldest there were, the last of them due at this moment, and there may be more.
    pub fn took_up_to(&mut self, at: DateTime<Utc>) {
        self.reached = Some(Reached { at, step_back: false });
    }

    /// A claim took all that was due at this moment.
    pub fn took_all(&mut self, at: DateTime<Utc>) {
        self.reached = Some(Reached { at, step_back: true });
    }

    /// Something that claims had left out is theirs again.
    pub fn step_back(&mut self) {
        if let Some(reached) = &mut self.reached {
            reached.step_back = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    #[test]
    fn a_claim_begins_where_the_last_one_came_to() {
        let (mut mark, now) = (Mark::default(), Instant::now());
        assert_eq!(mark.due_from(now), None, "nothing is known");
        mark.took_up_to(at(100));
        assert_eq!(mark.due_from(now), Some(at(100)), "the rest of the same");
        mark.took_all(at(200));
        assert_eq!(mark.due_from(now), Some(at(198)), "what was being committed meanwhile");
        mark.took_up_to(at(300));
        mark.step_back();
        assert_eq!(mark.due_from(now), Some(at(298)));
    }

    #[test]
    fn what_was_committed_late_is_found_within_seconds_and_anything_within_a_minute() {
        let (mut mark, now) = (Mark::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        mark.due_from(now);
        let mut looks = Vec::new();
        for second in 1..=70 {
            mark.took_up_to(at(1_000));
            let from = mark.due_from(after(second));
            if from != Some(at(1_000)) {
                looks.push((second, from));
            }
        }
        let back = Some(at(940));
        assert_eq!(
            looks,
            [(10, back), (20, back), (30, back), (40, back), (50, back), (60, None), (70, back)]
        );
    }
}
