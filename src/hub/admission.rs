//! How many requests a partner may send in a second: a count in this process's memory, so N processes admit N times as many.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::Hub;
use crate::domain::Error;
use crate::domain::error::Limit;
use crate::domain::id::PartnerId;
use crate::domain::throttle::Throttle;

/// Partners counted at most before those are forgotten who have not asked for a second.
const COUNTED_MAX: usize = 10_000;

pub(super) struct Admission {
    per_s: Option<u32>,
    counts: Mutex<HashMap<PartnerId, Throttle>>,
}

impl Admission {
    pub(super) fn new(per_s: Option<u32>) -> Self {
        Self { per_s, counts: Mutex::default() }
    }

    fn admit(&self, partner: PartnerId, now: Instant) -> Result<(), Error> {
        let Some(per_s) = self.per_s else { return Ok(()) };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED_MAX && !counts.contains_key(&partner) {
            counts.retain(|_, throttle| !throttle.is_full(now));
        }
        let throttle = counts.entry(partner).or_insert_with(|| Throttle::new(per_s, now));
        throttle.admit(now).map_err(|after| Error::LimitExceeded { limit: Limit::Requests, after })
    }
}

impl Hub {
    /// Counts a request of this partner. Errors: `LimitExceeded` when it has sent as many within a second as it may.
    pub fn admit(&self, partner: PartnerId) -> Result<(), Error> {
        self.admission.admit(partner, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rule_14_a_partner_may_ask_so_often_and_takes_nothing_from_another() {
        let (admission, now) = (Admission::new(Some(2)), Instant::now());
        let (one, other) = (PartnerId::new(), PartnerId::new());
        let admitted = |partner, now| admission.admit(partner, now).is_ok();
        assert_eq!([admitted(one, now), admitted(one, now), admitted(one, now)], [true, true, false]);
        let refused = admission.admit(one, now).unwrap_err();
        let after = Duration::from_millis(500);
        assert!(
            matches!(refused, Error::LimitExceeded { limit: Limit::Requests, after: told } if told == after)
        );
        assert!(admitted(other, now));
        assert!(admitted(one, now + after));
        let unlimited = Admission::new(None);
        assert!((0..10_000).all(|_| unlimited.admit(one, now).is_ok()));
    }

    #[test]
    fn rule_14_counting_partners_takes_bounded_memory_and_forgets_nobody_who_is_at_it() {
        let (admission, now) = (Admission::new(Some(1)), Instant::now());
        let busy = PartnerId::new();
        assert!(admission.admit(busy, now + Duration::from_secs(2)).is_ok());
        for _ in 0..COUNTED_MAX - 1 {
            admission.admit(PartnerId::new(), now).unwrap();
        }
        admission.admit(PartnerId::new(), now + Duration::from_secs(2)).unwrap();
        assert_eq!(admission.counts.lock().unwrap().len(), 2);
        assert!(admission.admit(busy, now + Duration::from_secs(2)).is_err());
    }
}
