//! Cursors of lists: opaque, bounded, and good only for the partner and the list they were given for (SECURITY rule 16).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::domain::id::PartnerId;
use crate::domain::key_ring::KeyRing;
use crate::domain::{Error, Violations};

const HASH_DOMAIN: &str = "cursor";
const TEXT_BYTES_MAX: usize = 256;
/// Entries of a page when nothing is said.
pub const LIMIT_DEFAULT: i64 = 50;
pub const LIMIT_MAX: i64 = 100;

/// A cursor that stands at an entry of a partner's list. `list` names the list and everything that narrows it.
pub fn write(keys: &KeyRing, partner: PartnerId, list: &str, at: Uuid) -> String {
    let mut bytes = at.as_bytes().to_vec();
    bytes.extend(keys.keyed_hash(HASH_DOMAIN, &material(partner, list, at)));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Where a cursor stands. Errors: `Invalid` on `cursor` when it was made for something else, or altered.
pub fn read(keys: &KeyRing, partner: PartnerId, list: &str, text: &str) -> Result<Uuid, Error> {
    let refused = || {
        Error::invalid("cursor", "is not a cursor of this list; use the nextCursor of its last page, or none")
    };
    if text.len() > TEXT_BYTES_MAX {
        return Err(refused());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
    let (at, hash) = bytes.split_at_checked(16).ok_or_else(refused)?;
    let at = Uuid::from_slice(at).map_err(|_| refused())?;
    if keys.verify_keyed_hash(HASH_DOMAIN, &material(partner, list, at), hash) {
        Ok(at)
    } else {
        Err(refused())
    }
}

fn material(partner: PartnerId, list: &str, at: Uuid) -> Vec<u8> {
    format!("{partner}\n{at}\n{list}").into_bytes()
}

/// How many entries a page shall have. Adds a violation on `limit` when it is not 1 to 100.
pub fn limit(text: Option<&str>, violations: &mut Violations) -> i64 {
    let parsed = text.map_or(Ok(LIMIT_DEFAULT), str::parse::<i64>);
    match parsed {
        Ok(limit @ 1..=LIMIT_MAX) => limit,
        _ => {
            violations.add("limit", format!("must be a whole number from 1 to {LIMIT_MAX}"));
            LIMIT_DEFAULT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_16_a_foreign_or_altered_cursor_is_refused() {
        let (keys, _) = KeyRing::generate();
        let (partner, at) = (PartnerId::new(), Uuid::now_v7());
        let cursor = write(&keys, partner, "list", at);
        assert_eq!(read(&keys, partner, "list", &cursor).unwrap(), at);
        assert!(read(&keys, PartnerId::new(), "list", &cursor).is_err(), "another partner's");
        assert!(read(&keys, partner, "other list", &cursor).is_err(), "another list's");
        assert!(read(&KeyRing::generate().0, partner, "list", &cursor).is_err(), "another server's");
        for place in 0..cursor.len() {
            let mut altered = cursor.clone().into_bytes();
            altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
            // The last character of unpadded base64 holds spare bits: some of its alterations do not decode, none verifies.
            assert!(
                read(&keys, partner, "list", &String::from_utf8(altered).unwrap()).is_err(),
                "altered at {place}"
            );
        }
        for text in ["", "A", "%", "-1", &"A".repeat(TEXT_BYTES_MAX + 1)] {
            assert!(read(&keys, partner, "list", text).is_err(), "{text}");
        }
    }
}
