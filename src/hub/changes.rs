//! Whose subscriptions this process has changed of late: what was read of them before is stale. Of others nothing is, however often somebody
//! changes theirs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::id::PartnerId;

/// More than what was read is ever believed for.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Beyond so many, those that need not be kept are looked for.
const LOOKED_THROUGH_FROM: usize = 1_000;

#[derive(Clone, Default)]
pub struct Changes {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    count: AtomicU64,
    last: Mutex<HashMap<PartnerId, Last>>,
}

struct Last {
    count: u64,
    at: Instant,
}

impl Changes {
    /// A change to a subscription or a callback of this partner was committed.
    pub fn note(&self, partner: PartnerId) {
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.len() >= LOOKED_THROUGH_FROM {
            last.retain(|_, last| now.duration_since(last.at) < KEPT_FOR);
        }
        let count = self.count() + 1;
        last.insert(partner, Last { count, at: now });
        // With the lock held: whoever sees the count finds whose it is.
        self.shared.count.store(count, Ordering::Release);
    }

    /// How many there were of everybody.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Acquire)
    }

    /// Whether there was one of this partner after so many of everybody, if that was lately.
    pub fn is_there_one_of(&self, partner: PartnerId, after: u64) -> bool {
        let last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&partner).is_some_and(|last| last.count > after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_of_its_partner_alone() {
        let (changes, one, other) = (Changes::default(), PartnerId::new(), PartnerId::new());
        changes.note(one);
        assert_eq!(changes.count(), 1);
        assert!(changes.is_there_one_of(one, 0));
        assert!(!changes.is_there_one_of(one, 1), "what was read since knows of it");
        assert!(!changes.is_there_one_of(other, 0));
        changes.note(other);
        assert!(changes.is_there_one_of(other, 1) && !changes.is_there_one_of(one, 1));
    }

    #[test]
    fn what_nobody_needs_any_more_is_forgotten_and_nothing_else() {
        let changes = Changes::default();
        let partners: Vec<_> = (0..LOOKED_THROUGH_FROM).map(|_| PartnerId::new()).collect();
        partners.iter().for_each(|partner| changes.note(*partner));
        {
            let mut last = changes.shared.last.lock().unwrap();
            for partner in &partners[1..] {
                last.get_mut(partner).unwrap().at -= KEPT_FOR;
            }
        }
        changes.note(PartnerId::new());
        assert_eq!(changes.shared.last.lock().unwrap().len(), 2);
        assert!(changes.is_there_one_of(partners[0], 0));
    }
}
