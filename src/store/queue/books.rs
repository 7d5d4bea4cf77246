//! What the recorder knows by itself: which members of its bundles have ended or have a row of their own already, so that nothing need be written
//! of it as long as something is left in the bundle.

use std::time::{Duration, Instant};

use crate::domain::database_clock::DatabaseClock;
use crate::domain::delivery::{Bundle, Lease, Whereabouts};
use crate::domain::id::{BundleId, DeliveryId, IdMap, IdSet};

/// A bundle is for what arrives at once. What is left in it after that is better off with rows of its own: others look into bundles whole.
const BUNDLED_FOR: Duration = Duration::from_secs(1);

/// Kept by the one who records what comes of a node's leases, all of it.
#[derive(Default)]
pub struct Books {
    pub(super) clock: DatabaseClock,
    open: IdMap<BundleId, Open>,
}

struct Open {
    settled: IdSet<DeliveryId>,
    since: Instant,
}

impl Books {
    /// The bundle that a delivery stands in, as far as is known.
    pub(super) fn bundle_of(&self, lease: &Lease) -> Option<Bundle> {
        let Whereabouts::Bundle(bundle) = lease.at else { return None };
        let settled = self.open.get(&bundle.id).is_some_and(|open| open.settled.contains(&lease.delivery));
        (!settled).then_some(bundle)
    }

    /// The bundles in which nothing is left once these are settled.
    pub(super) fn used_up_by<'a>(&self, members: impl Iterator<Item = &'a Bundle>) -> Vec<BundleId> {
        let mut left: IdMap<BundleId, usize> = IdMap::default();
        for bundle in members {
            let settled = || self.open.get(&bundle.id).map_or(0, |open| open.settled.len());
            let left = left.entry(bundle.id).or_insert_with(|| bundle.size.saturating_sub(settled()));
            *left = left.saturating_sub(1);
        }
        left.into_iter().filter(|(_, left)| *left == 0).map(|(id, _)| id).collect()
    }

    pub(super) fn settle(&mut self, delivery: DeliveryId, bundle: Bundle) {
        let open = || Open { settled: IdSet::default(), since: Instant::now() };
        let of_bundle = self.open.entry(bundle.id).or_insert_with(open);
        of_bundle.settled.insert(delivery);
        if of_bundle.settled.len() >= bundle.size {
            self.open.remove(&bundle.id);
        }
    }

    /// The bundles that should not be any more.
    pub fn overdue(&self, now: Instant) -> Vec<BundleId> {
        let is_over = |open: &Open| now.duration_since(open.since) >= BUNDLED_FOR;
        self.open.iter().filter(|(_, open)| is_over(open)).map(|(id, _)| *id).collect()
    }

    /// When there may be something overdue.
    pub fn overdue_at(&self) -> Option<Instant> {
        self.open.values().map(|open| open.since).min().map(|since| since + BUNDLED_FOR)
    }

    /// These were taken apart.
    pub fn forget(&mut self, bundles: &[BundleId]) {
        bundles.iter().for_each(|id| drop(self.open.remove(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_used_up_by_the_last_of_its_members_and_not_known_after_that() {
        let mut books = Books::default();
        let [bundle, other] = [3, 1].map(|size| Bundle { id: BundleId::new(), size });
        let members = [(); 3].map(|()| DeliveryId::new());
        assert_eq!(books.used_up_by([bundle, bundle, other].iter()), [other.id]);
        assert_eq!(books.overdue_at(), None);
        books.settle(members[0], bundle);
        // The same again counts once.
        books.settle(members[0], bundle);
        let since = books.overdue_at().unwrap() - BUNDLED_FOR;
        assert_eq!(books.used_up_by([bundle].iter()), []);
        assert_eq!(books.used_up_by([bundle, bundle].iter()), [bundle.id]);
        books.settle(members[1], bundle);
        assert_eq!(books.overdue_at(), Some(since + BUNDLED_FOR), "since the first of them");
        assert_eq!(books.overdue(since), []);
        assert_eq!(books.overdue(since + BUNDLED_FOR), [bundle.id]);
        books.settle(members[2], bundle);
        assert_eq!(books.overdue_at(), None);

        books.settle(members[0], bundle);
        books.forget(&[bundle.id, other.id]);
        assert_eq!(books.overdue_at(), None);
    }
}
