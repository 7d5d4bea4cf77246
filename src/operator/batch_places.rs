//! Places for batches, which are large: so many are in memory at once. A place is taken before a batch is read, and one that is sent slowly keeps
//! its place for as long as its request may take. Therefore nobody has more than two: whoever sends slowly holds up themselves.
//!
//! Knows neither requests nor what is in a batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::Error;
use crate::domain::id::PartnerId;

/// Batches in memory at once: what is beyond waits, unread, within the bound of its request.
const ALL: usize = 8;
/// Of one partner: one is read while the other is being committed.
const OF_A_PARTNER: usize = 2;

pub struct BatchPlaces {
    all: Arc<Semaphore>,
    partners: Mutex<HashMap<PartnerId, Weak<Semaphore>>>,
}

/// Free again when it is dropped.
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_the_partner: OwnedSemaphorePermit,
}

impl Default for BatchPlaces {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), partners: Mutex::default() }
    }
}

impl BatchPlaces {
    /// Waits for a place: among the partner's own first, so that who waits for those takes none from others.
    pub async fn take(&self, partner: PartnerId) -> Result<Place, Error> {
        let of_the_partner = self.of(partner).acquire_owned().await.map_err(Error::internal)?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.map_err(Error::internal)?;
        Ok(Place { _of_all: of_all, _of_the_partner: of_the_partner })
    }

    /// Partners who are not at it are forgotten.
    fn of(&self, partner: PartnerId) -> Arc<Semaphore> {
        let mut partners = self.partners.lock().unwrap_or_else(PoisonError::into_inner);
        partners.retain(|_, places| places.strong_count() > 0);
        let known = partners.get(&partner).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let places = Arc::new(Semaphore::new(OF_A_PARTNER));
            partners.insert(partner, Arc::downgrade(&places));
            places
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn taken(places: &BatchPlaces, partner: PartnerId) -> Option<Place> {
        timeout(Duration::from_millis(50), places.take(partner))
            .await
            .ok()
            .map(|place| place.expect("it is open"))
    }

    #[tokio::test]
    async fn rule_14_a_partner_has_two_places_and_all_together_eight() {
        let (places, [one, other]) = (BatchPlaces::default(), [PartnerId::new(), PartnerId::new()]);
        let mut held = vec![taken(&places, one).await.unwrap(), taken(&places, one).await.unwrap()];
        assert!(taken(&places, one).await.is_none());
        assert!(taken(&places, other).await.is_some(), "another's are free");
        held.pop();
        held.push(taken(&places, one).await.expect("one is free again"));
        for _ in held.len()..ALL {
            held.push(taken(&places, PartnerId::new()).await.unwrap());
        }
        assert!(taken(&places, other).await.is_none());
        held.clear();
        assert!(taken(&places, other).await.is_some());
        places.of(other);
        assert_eq!(places.partners.lock().unwrap().len(), 1, "nobody is remembered for nothing");
    }
}
