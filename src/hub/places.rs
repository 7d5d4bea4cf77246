//! Places for what is large: so much of it is in memory, and at work, at once. A place is taken before anything large is read, and what comes or
//! goes slowly keeps its place for as long as its request may take. Therefore nobody has more than a few: whoever is slow holds up themselves.
//!
//! Knows neither requests nor what is large.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::Error;
use crate::domain::id::PartnerId;

pub struct Places {
    all: Arc<Semaphore>,
    of_a_partner: usize,
    partners: Mutex<HashMap<PartnerId, Weak<Semaphore>>>,
}

/// Free again when it is dropped.
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_the_partner: OwnedSemaphorePermit,
}

impl Place {
    /// Does what takes as long as thousands of requests where it holds up nobody: apart from the runtime that all share. Whoever gives up waiting for
    /// that stops nothing, so that the place goes along with the work and is free once that is done.
    pub async fn apart<Done: Send + 'static>(
        self,
        work: impl FnOnce() -> Done + Send + 'static,
    ) -> Result<(Done, Self), Error> {
        let working = tokio::task::spawn_blocking(move || (work(), self));
        working.await.map_err(|error| match error.try_into_panic() {
            // As if it had happened here, for who catches those of handlers.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Error::unavailable(error),
        })
    }
}

impl Places {
    /// So many for all, and of these so many for one partner. What is beyond waits, unread, within the bound of its request.
    pub fn new(all: usize, of_a_partner: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_a_partner, partners: Mutex::default() }
    }

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
            let places = Arc::new(Semaphore::new(self.of_a_partner));
            partners.insert(partner, Arc::downgrade(&places));
            places
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    async fn taken(places: &Places, partner: PartnerId) -> Option<Place> {
        timeout(Duration::from_millis(50), places.take(partner))
            .await
            .ok()
            .map(|place| place.expect("it is open"))
    }

    #[tokio::test]
    async fn rule_14_a_partner_has_two_places_and_all_together_eight() {
        let (places, [one, other]) = (Places::new(8, 2), [PartnerId::new(), PartnerId::new()]);
        let mut held = vec![taken(&places, one).await.unwrap(), taken(&places, one).await.unwrap()];
        assert!(taken(&places, one).await.is_none());
        assert!(taken(&places, other).await.is_some(), "another's are free");
        held.pop();
        held.push(taken(&places, one).await.expect("one is free again"));
        for _ in held.len()..8 {
            held.push(taken(&places, PartnerId::new()).await.unwrap());
        }
        assert!(taken(&places, other).await.is_none());
        held.clear();
        assert!(taken(&places, other).await.is_some());
        places.of(other);
        assert_eq!(places.partners.lock().unwrap().len(), 1, "nobody is remembered for nothing");
    }

    #[tokio::test]
    async fn rule_14_what_is_large_holds_up_nobody_and_keeps_its_place_until_it_is_done() {
        let (places, partner) = (Places::new(2, 2), PartnerId::new());
        let place = places.take(partner).await.unwrap();
        let (go_on, told) = std::sync::mpsc::channel();
        let mut given_up = Box::pin(place.apart(move || told.recv().unwrap()));
        assert!(given_up.as_mut().now_or_never().is_none(), "the thread is free meanwhile");
        drop(given_up);
        let _other = places.take(partner).await.unwrap();
        let mut third = Box::pin(places.take(partner));
        assert!(third.as_mut().now_or_never().is_none(), "it is still at work");
        go_on.send(()).unwrap();
        let place = third.await.unwrap();
        assert_eq!(place.apart(|| 1).await.unwrap().0, 1);
    }
}
