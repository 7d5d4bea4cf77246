//! How far claims have come: a low-water mark of due times, below which next to nothing is left to be claimed.
//!
//! Claimed and finished rows leave dead entries at the low end of the index, which stay for as long as the oldest snapshot anywhere in the
//! cluster might see them; and what is set aside stays there while it is. A claim that begins at the mark does not wade through them. What is
//! committed late, with a due time below the mark, is found by looking back: a little each time, further now and then, and everywhere once
//! a minute. The little is less while something is set aside, since that is where it stays.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// How far below the mark a claim looks that follows one which found all there was: as long as what is being committed takes, and as long as
/// it usually takes.
const STEP_BACK: TimeDelta = TimeDelta::seconds(2);
const SHORT_STEP_BACK: TimeDelta = TimeDelta::milliseconds(100);
/// How often a claim looks how much further, the furthest first; nothing is everywhere.
const LOOK_BACK: [(Duration, Option<TimeDelta>); 3] = [
    (Duration::from_secs(60), None),
    (Duration::from_secs(10), Some(TimeDelta::seconds(60))),
    (Duration::from_millis(500), Some(STEP_BACK)),
];

#[derive(Debug, Default)]
pub struct Mark {
    reached: Option<Reached>,
    /// When a claim looked back last, for each of [`LOOK_BACK`].
    looked_back_at: [Option<Instant>; LOOK_BACK.len()],
}

#[derive(Debug, Clone, Copy)]
struct Reached {
    at: DateTime<Utc>,
    /// How far below something may have come since.
    back: TimeDelta,
}

impl Mark {
    /// The due time that the next claim begins with; `None` is the very first.
    pub fn due_from(&mut self, now: Instant) -> Option<DateTime<Utc>> {
        let is_time = |(looked_at, (every, _)): (&Option<Instant>, &(Duration, _))| {
            looked_at.is_none_or(|at| now.saturating_duration_since(at) >= *every)
        };
        let furthest = self.looked_back_at.iter().zip(&LOOK_BACK).position(is_time);
        let furthest = if self.reached.is_none() { Some(0) } else { furthest };
        if let Some(furthest) = furthest {
            // Whoever looks that far has looked less far as well.
            self.looked_back_at[furthest..].fill(Some(now));
        }
        let Reached { at, back: little } = self.reached?;
        match furthest.and_then(|furthest| LOOK_BACK.get(furthest)) {
            Some((_, back)) => back.map(|back| at - back),
            None => Some(at - little),
        }
    }

    /// A claim took the oldest there were, the last of them due at this moment, and there may be more.
    pub fn took_up_to(&mut self, at: DateTime<Utc>) {
        self.reached = Some(Reached { at, back: TimeDelta::zero() });
    }

    /// A claim took all that was due at this moment, but for what is set aside, if anything is.
    pub fn took_all(&mut self, at: DateTime<Utc>, is_set_aside: bool) {
        self.reached = Some(Reached { at, back: step(is_set_aside) });
    }

    /// Something that claims had left out is theirs again.
    pub fn step_back(&mut self, is_set_aside: bool) {
        if let Some(reached) = &mut self.reached {
            reached.back = reached.back.max(step(is_set_aside));
        }
    }
}

fn step(is_set_aside: bool) -> TimeDelta {
    if is_set_aside { SHORT_STEP_BACK } else { STEP_BACK }
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
        mark.took_all(at(200), false);
        assert_eq!(mark.due_from(now), Some(at(198)), "what was being committed meanwhile");
        mark.took_all(at(200), true);
        assert_eq!(mark.due_from(now), Some(at(200) - SHORT_STEP_BACK), "and not what is set aside");
        mark.took_up_to(at(300));
        mark.step_back(false);
        assert_eq!(mark.due_from(now), Some(at(298)));
    }

    #[test]
    fn what_was_committed_late_is_found_soon_and_anything_within_a_minute() {
        let (mut mark, now) = (Mark::default(), Instant::now());
        let after = |tenths: u64| now + Duration::from_millis(tenths * 100);
        mark.due_from(now);
        let mut looks = Vec::new();
        for tenth in 1..=1_100 {
            mark.took_up_to(at(1_000));
            let from = mark.due_from(after(tenth));
            if from != Some(at(1_000)) {
                looks.push((tenth, from));
            }
        }
        let (a_little, further, everywhere) = (Some(at(998)), Some(at(940)), None);
        let expected: Vec<_> = (5..=1_100)
            .step_by(5)
            .map(|tenth| match tenth {
                600 => (tenth, everywhere),
                _ if tenth % 100 == 0 => (tenth, further),
                _ => (tenth, a_little),
            })
            .collect();
        assert_eq!(looks, expected);
    }
}
