//! How many posts a callback may get at a time: as many as any, or fewer after it has asked us to slow down. Each time it asks it gets half as
//! many, down to one by one; as long as it takes what it gets, it gets one more at a time, until it is back among the others. Pure bookkeeping.

use std::time::{Duration, Instant};

use crate::domain::id::{CallbackId, IdMap};

pub struct Paces {
    /// Of a callback that has asked for nothing.
    widest: usize,
    narrowed: IdMap<CallbackId, Pace>,
}

/// Who has not asked again for so long is not known to be slow any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

struct Pace {
    asked_at: Instant,
    width: usize,
    /// Posts that it has taken at this width.
    taken: usize,
}

impl Paces {
    pub fn new(widest: usize) -> Self {
        Self { widest, narrowed: IdMap::default() }
    }

    pub fn widest(&self) -> usize {
        self.widest
    }

    /// How many posts this callback may get at a time.
    pub fn width(&self, callback: CallbackId) -> usize {
        self.narrowed.get(&callback).map_or(self.widest, |pace| pace.width)
    }

    /// It asked us to slow down.
    pub fn slow_down(&mut self, callback: CallbackId, now: Instant) {
        let width = (self.width(callback) / 2).max(1);
        self.narrowed.insert(callback, Pace { asked_at: now, width, taken: 0 });
    }

    /// Forgets those that have not asked for long.
    pub fn forget(&mut self, now: Instant) {
        self.narrowed.retain(|_, pace| now.saturating_duration_since(pace.asked_at) < FORGOTTEN_AFTER);
    }

    /// It took a post.
    pub fn took(&mut self, callback: CallbackId) {
        let Some(pace) = self.narrowed.get_mut(&callback) else { return };
        pace.taken += 1;
        if pace.taken < pace.width {
            return;
        }
        if pace.width + 1 >= self.widest {
            self.narrowed.remove(&callback);
        } else {
            *pace = Pace { width: pace.width + 1, taken: 0, ..*pace };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_21_who_asks_for_less_gets_half_and_then_one_more_at_a_time() {
        let (mut paces, busy, other) = (Paces::new(8), CallbackId::new(), CallbackId::new());
        paces.took(busy);
        let narrower: Vec<_> = (0..5)
            .map(|_| {
                paces.slow_down(busy, Instant::now());
                paces.width(busy)
            })
            .collect();
        assert_eq!(narrower, [4, 2, 1, 1, 1]);
        assert_eq!(paces.width(other), 8);
        let wider: Vec<_> = (0..10)
            .map(|_| {
                paces.took(busy);
                paces.width(busy)
            })
            .collect();
        assert_eq!(wider, [2, 2, 3, 3, 3, 4, 4, 4, 4, 5]);
        (0..30).for_each(|_| paces.took(busy));
        assert_eq!(paces.width(busy), 8);
        assert!(paces.narrowed.is_empty(), "nothing is remembered of who is well");
        paces.slow_down(busy, Instant::now());
        paces.forget(Instant::now());
        assert_eq!(paces.width(busy), 4);
        paces.forget(Instant::now() + FORGOTTEN_AFTER);
        assert!(paces.narrowed.is_empty(), "nor of who is not called any more");
    }

    #[test]
    fn one_at_a_time_is_as_slow_as_it_gets() {
        let (mut paces, callback) = (Paces::new(1), CallbackId::new());
        paces.slow_down(callback, Instant::now());
        assert_eq!(paces.width(callback), 1);
        paces.took(callback);
        assert!(paces.narrowed.is_empty());
    }
}
