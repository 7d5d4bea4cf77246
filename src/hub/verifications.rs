//! Callbacks that are being tried out. A callback that hangs is tried for a long time, so only a few of each partner are at once: nobody
//! waits for what another partner's callbacks do not answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::domain::Error;
use crate::domain::error::Limit;
use crate::domain::id::{CallbackId, PartnerId};

/// At once, at most.
pub(super) const TRIALS_MAX: usize = 64;
/// Of one partner.
const OF_A_PARTNER_MAX: usize = 4;
/// When a place may be free again: most callbacks answer at once, or not for long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A callback that its owner wants tried out now.
pub struct Verification {
    pub callback: CallbackId,
    /// Told whether it took what was posted.
    pub reply: oneshot::Sender<bool>,
    pub place: Place,
}

/// How many of each partner are under way: verifications, and test events whose end is waited for.
#[derive(Clone, Default)]
pub(super) struct Trials(Arc<Mutex<HashMap<PartnerId, usize>>>);

/// One of those, until it is dropped.
pub struct Place {
    of: Trials,
    partner: PartnerId,
}

impl Trials {
    /// Errors: `LimitExceeded` when too many of this partner are under way, `Unavailable` when too many of all.
    pub(super) fn begin(&self, partner: PartnerId) -> Result<Place, Error> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(&partner).copied().unwrap_or_default();
        if own >= OF_A_PARTNER_MAX {
            return Err(Error::LimitExceeded { limit: Limit::Trials, after: AGAIN_AFTER });
        }
        if counts.values().sum::<usize>() >= TRIALS_MAX {
            return Err(Error::unavailable("too many callbacks are being tried out"));
        }
        counts.insert(partner, own + 1);
        Ok(Place { of: self.clone(), partner })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.partner) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.partner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_has_a_few_places_and_all_have_a_bound() {
        let trials = Trials::default();
        let busy = PartnerId::new();
        let mut places: Vec<Place> = (0..OF_A_PARTNER_MAX).map(|_| trials.begin(busy).unwrap()).collect();
        assert!(matches!(trials.begin(busy), Err(Error::LimitExceeded { limit: Limit::Trials, .. })));
        places.extend((OF_A_PARTNER_MAX..TRIALS_MAX).map(|_| trials.begin(PartnerId::new()).unwrap()));
        assert!(matches!(trials.begin(PartnerId::new()), Err(Error::Unavailable(_))));
        places.remove(0);
        places.push(trials.begin(busy).unwrap());
        drop(places);
        assert!(trials.0.lock().unwrap().is_empty(), "nothing is kept of who has none");
    }
}
