//! Partners that were found to exist. None ever ceases to, so that nobody has to look a second time.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::domain::id::{IdSet, PartnerId};

/// Partners remembered at most, 16 bytes each; the whole memory is dropped when it is full, which costs one look each.
const REMEMBERED_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct KnownPartners(Mutex<IdSet<PartnerId>>);

impl KnownPartners {
    /// Those of the partners that are not remembered.
    pub fn unknown_of(&self, mut partners: HashSet<PartnerId>) -> Vec<PartnerId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        partners.retain(|partner| !known.contains(partner));
        partners.into_iter().collect()
    }

    pub fn remember(&self, partners: &HashSet<PartnerId>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + partners.len() > REMEMBERED_MAX {
            known.clear();
        }
        known.extend(partners);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_found_once_is_not_looked_for_again() {
        let known = KnownPartners::default();
        let (found, other) = (PartnerId::new(), PartnerId::new());
        assert_eq!(known.unknown_of([found].into()), [found]);
        known.remember(&[found].into());
        assert_eq!(known.unknown_of([found, other].into()), [other]);
        assert!(known.unknown_of([found].into()).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let known = KnownPartners::default();
        let first = PartnerId::new();
        known.remember(&[first].into());
        known.remember(&(0..REMEMBERED_MAX).map(|_| PartnerId::new()).collect());
        assert_eq!(known.unknown_of([first].into()), [first]);
        assert_eq!(known.0.lock().unwrap().len(), REMEMBERED_MAX);
    }
}
