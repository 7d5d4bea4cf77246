//! Keys that were looked up lately. While a key is in use it is read again before it ceases to be believed, together with all others that are,
//! so that no request has to wait for that: keys that came into use together would otherwise all be looked up at the same moment, every second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Hub;
use crate::domain::Error;
use crate::domain::caller::Caller;
use crate::domain::id::{ApiKeyId, PartnerId};
use crate::domain::partner_key::{KeyHash, PartnerKey, Scopes};
use crate::store::api_keys::{self, ApiKeyRow};

/// How long a key that was read is believed: a revocation is known everywhere after this.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// A key in use that was read so long ago is read again, meanwhile.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Keys remembered at most; the whole memory is dropped when it is full, which costs one look-up each.
const REMEMBERED_MAX: usize = 10_000;

/// What proves a key, and what it opens. As in the database, the key itself is not in here.
struct KnownKey {
    hash: KeyHash,
    opens: Caller,
}

impl TryFrom<ApiKeyRow> for KnownKey {
    type Error = Error;

    fn try_from(row: ApiKeyRow) -> Result<Self, Error> {
        let hash = <[u8; 32]>::try_from(row.hash.as_slice()).map_err(Error::internal)?;
        let scopes = Scopes::parse(&row.scopes.join(",")).map_err(Error::internal)?;
        let opens = Caller { partner: PartnerId(row.partner_id), key: ApiKeyId(row.id), scopes };
        Ok(Self { hash: KeyHash::from_bytes(hash), opens })
    }
}

/// The keys with one prefix.
struct Known {
    read_at: Instant,
    /// Whether somebody came with one of them since.
    in_use: bool,
    keys: Arc<[KnownKey]>,
}

/// By prefix.
#[derive(Default)]
pub(super) struct KnownKeys {
    known: Mutex<HashMap<String, Known>>,
    reading_again: AtomicBool,
}

/// What is known of a prefix.
struct Found {
    keys: Arc<[KnownKey]>,
    /// Whether it is time to read again what is in use.
    is_old: bool,
}

impl KnownKeys {
    fn find(&self, prefix: &str, now: Instant) -> Option<Found> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get_mut(prefix)?;
        let age = now.saturating_duration_since(found.read_at);
        if age >= BELIEVED_FOR {
            return None;
        }
        found.in_use = true;
        Some(Found { keys: found.keys.clone(), is_old: age >= READ_AGAIN_AFTER })
    }

    fn remember(&self, prefix: String, read_at: Instant, keys: Arc<[KnownKey]>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(prefix, Known { read_at, in_use: false, keys });
    }

    /// The prefixes of all that are in use and are still believed. What is neither is forgotten.
    fn in_use(&self, now: Instant) -> Vec<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| now.saturating_duration_since(known.read_at) < BELIEVED_FOR);
        known.iter().filter(|(_, known)| known.in_use).map(|(prefix, _)| prefix.clone()).collect()
    }

    /// Takes over what was read of these prefixes. One of which there is no key any more is forgotten.
    fn renew(&self, prefixes: Vec<String>, read_at: Instant, mut keys: HashMap<String, Vec<KnownKey>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for prefix in prefixes {
            // Reading them all can take so long that somebody has looked this one up since.
            if known.get(&prefix).is_some_and(|known| known.read_at > read_at) {
                continue;
            }
            match keys.remove(&prefix) {
                Some(keys) => known.insert(prefix, Known { read_at, in_use: false, keys: keys.into() }),
                None => known.remove(&prefix),
            };
        }
    }
}

impl Hub {
    /// What a key opens. Errors: `Unauthorized` when it opens nothing.
    pub(super) async fn caller_with(&self, key: &PartnerKey) -> Result<Caller, Error> {
        let keys = match self.known_keys.find(&key.prefix, Instant::now()) {
            Some(Found { keys, is_old }) => {
                if is_old {
                    self.read_again();
                }
                keys
            }
            None => self.look_up(&key.prefix).await?,
        };
        let proven = keys.iter().find(|known| known.hash.matches(&key.hash));
        Ok(proven.ok_or(Error::Unauthorized)?.opens.clone())
    }

    async fn look_up(&self, prefix: &str) -> Result<Arc<[KnownKey]>, Error> {
        let read_at = Instant::now();
        let rows = api_keys::find_usable(&mut *self.connection().await?, prefix).await?;
        let keys: Arc<[KnownKey]> = rows.into_iter().map(KnownKey::try_from).collect::<Result<_, _>>()?;
        // An unknown prefix is not remembered: a flood of guesses shall not push the real keys out.
        if !keys.is_empty() {
            self.known_keys.remember(prefix.to_owned(), read_at, keys.clone());
        }
        Ok(keys)
    }

    /// Reads all keys that are in use once more, beside the requests that use them.
    fn read_again(&self) {
        if self.known_keys.reading_again.swap(true, Ordering::AcqRel) {
            return;
        }
        let hub = self.clone();
        tokio::spawn(async move {
            // What cannot be read now ceases to be believed, and whoever looks it up then is told why it cannot be.
            if let Err(error) = hub.renew_known_keys().await {
                tracing::debug!(error = %error.chain(), "keys in use cannot be read again now");
            }
            hub.known_keys.reading_again.store(false, Ordering::Release);
        });
    }

    async fn renew_known_keys(&self) -> Result<(), Error> {
        let read_at = Instant::now();
        let prefixes = self.known_keys.in_use(read_at);
        let rows = api_keys::find_usable_among(&mut *self.connection().await?, &prefixes).await?;
        let mut keys: HashMap<String, Vec<KnownKey>> = HashMap::new();
        for (prefix, row) in rows {
            keys.entry(prefix).or_default().push(row.try_into()?);
        }
        self.known_keys.renew(prefixes, read_at, keys);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: u8) -> Vec<KnownKey> {
        let opens = Caller { partner: PartnerId::new(), key: ApiKeyId::new(), scopes: Scopes::all() };
        vec![KnownKey { hash: KeyHash::from_bytes([of; 32]), opens }]
    }

    #[test]
    fn rule_11_a_key_is_believed_for_a_second_after_it_was_read() {
        let (known, now) = (KnownKeys::default(), Instant::now());
        let is_old =
            |after: u64| known.find("a", now + Duration::from_millis(after)).map(|found| found.is_old);
        assert_eq!(is_old(0), None);
        known.remember("a".to_owned(), now, keys(1).into());
        assert_eq!(
            [0, 499, 500, 999, 1_000].map(is_old),
            [Some(false), Some(false), Some(true), Some(true), None]
        );
    }

    #[test]
    fn what_is_in_use_is_read_again_and_what_is_gone_is_forgotten() {
        let (known, now) = (KnownKeys::default(), Instant::now());
        for prefix in ["used", "gone", "unused"] {
            known.remember(prefix.to_owned(), now, keys(1).into());
        }
        let later = now + Duration::from_millis(600);
        assert!(known.find("used", later).is_some() && known.find("gone", later).is_some());
        let mut prefixes = known.in_use(later);
        prefixes.sort_unstable();
        assert_eq!(prefixes, ["gone", "used"]);
        known.renew(prefixes, later, HashMap::from([("used".to_owned(), keys(2))]));
        let end = now + Duration::from_millis(1_500);
        let hash = |found: Found| *found.keys[0].hash.as_bytes();
        assert_eq!(known.find("used", end).map(hash), Some([2; 32]));
        assert!(known.find("gone", later).is_none(), "its last key was revoked");
        assert!(known.find("unused", end).is_none() && known.in_use(end).len() == 1);
        known.renew(vec!["used".to_owned()], now, HashMap::from([("used".to_owned(), keys(3))]));
        assert_eq!(known.find("used", end).map(hash), Some([2; 32]), "what was read earlier is older");
    }
}
