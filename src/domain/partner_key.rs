//! The API keys that partners present, and what such a key may do.
//!
//! A key is shown once, when it is made. What is kept is a prefix to look it up by and a hash to compare it with: the
//! keys have 256 random bits, so a plain SHA-256 is enough and costs a request nothing. The one exception is the
//! development key, which a developer may choose; its rows all have the prefix [`DEVELOPMENT_PREFIX`], which no key
//! of a partner can have, so that all of them can be ended. Expiry, revocation and the rows themselves are the store's.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, rand};
use zeroize::Zeroizing;

use super::secret::Secret;

/// The lookup prefix of every key that was not made by [`PartnerKey::generate`].
pub const DEVELOPMENT_PREFIX: &str = "dev";

const BRAND: &str = "hk_";
const PREFIX_CHARS: usize = 12;
/// 62⁴³ is just above 2²⁵⁶.
const SECRET_CHARS: usize = 43;
const CHOSEN_CHARS_MIN: usize = 16;
const CHOSEN_CHARS_MAX: usize = 128;

/// Letters and digits only: a double click selects the whole key, and no header, URL or shell needs it quoted.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What is kept of an API key, and what is computed from one that a request presents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartnerKey {
    pub prefix: String,
    pub hash: KeyHash,
}

/// Why a text cannot be an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartnerKeyError {
    #[error("an API key has {CHOSEN_CHARS_MIN} to {CHOSEN_CHARS_MAX} characters, this has {chars}")]
    WrongLength { chars: usize },
    #[error("an API key consists of printable ASCII characters and neither starts nor ends with a space")]
    NotPrintable,
}

impl PartnerKey {
    /// A fresh key and its text, `hk_<prefix>_<secret>`, which cannot be had again later.
    pub fn generate() -> (PartnerKey, Secret) {
        let prefix = random_base62::<PREFIX_CHARS>();
        let secret = random_base62::<SECRET_CHARS>();
        let text = Zeroizing::new([BRAND.as_bytes(), prefix.as_slice(), b"_", secret.as_slice()].concat());
        let key = PartnerKey {
            prefix: prefix.iter().map(|byte| char::from(*byte)).collect(),
            hash: KeyHash::of(&text),
        };
        (key, Secret::new(text.as_slice()))
    }

    /// The text of a fresh development key, for those who choose none. As random as a partner's, but to be told from one.
    pub fn generate_for_development() -> Secret {
        let secret = random_base62::<SECRET_CHARS>();
        let text = [BRAND.as_bytes(), DEVELOPMENT_PREFIX.as_bytes(), b"_", secret.as_slice()];
        Secret::new(Zeroizing::new(text.concat()).as_slice())
    }

    /// Reads a key as a request or a setting gives it: where to look it up, and the hash it must match there.
    ///
    /// # Errors
    /// A text that no key can be. It need not be looked up.
    pub fn parse(text: &str) -> Result<PartnerKey, PartnerKeyError> {
        let chars = text.chars().count();
        if !(CHOSEN_CHARS_MIN..=CHOSEN_CHARS_MAX).contains(&chars) {
            return Err(PartnerKeyError::WrongLength { chars });
        }
        // A space at either end would be cut off by the HTTP header that carries the key.
        if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) || text.trim() != text {
            return Err(PartnerKeyError::NotPrintable);
        }
        let prefix = generated_prefix(text).unwrap_or(DEVELOPMENT_PREFIX);
        Ok(PartnerKey { prefix: prefix.to_owned(), hash: KeyHash::of(text.as_bytes()) })
    }
}

/// The SHA-256 of a key's text. Comparing goes through [`KeyHash::matches`], in constant time.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// As the store kept it.
    pub fn from_bytes(bytes: [u8; 32]) -> KeyHash {
        KeyHash(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn matches(&self, other: &KeyHash) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// The tag keeps the hash apart from any other SHA-256 that somebody may have taken of the same text.
    fn of(text: &[u8]) -> KeyHash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"herald api key v1\0");
        context.update(text);
        KeyHash(context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &KeyHash) -> bool {
        self.matches(other)
    }
}

impl Eq for KeyHash {}

/// The hash of a chosen development key can be guessed at, so it is not printed either.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

fn generated_prefix(text: &str) -> Option<&str> {
    let (prefix, secret) = text.strip_prefix(BRAND)?.split_once('_')?;
    let base62 =
        |part: &str, chars: usize| part.len() == chars && part.bytes().all(|b| b.is_ascii_alphanumeric());
    (base62(prefix, PREFIX_CHARS) && base62(secret, SECRET_CHARS)).then_some(prefix)
}

/// Characters drawn evenly: bytes from 248 (4 × 62) up are drawn again, else the first ones would come up more often.
fn random_base62<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut chars = Zeroizing::new([0; N]);
    for place in chars.iter_mut() {
        *place = loop {
            let mut byte = [0];
            rand::fill(&mut byte).expect("the operating system always has random bytes");
            if byte[0] < 248 {
                break BASE62[usize::from(byte[0] % 62)];
            }
        };
    }
    chars
}

/// What a key may do. No scope includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Own subscriptions, callbacks, sessions and deliveries.
    Partner,
    /// Publish events.
    Producer,
    /// Make partners and keys, complete sessions.
    Operator,
}

impl Scope {
    pub const ALL: [Scope; 3] = [Scope::Partner, Scope::Producer, Scope::Operator];

    pub fn name(self) -> &'static str {
        match self {
            Scope::Partner => "partner",
            Scope::Producer => "producer",
            Scope::Operator => "operator",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One or more scopes. Printed and parsed as `partner,producer`, in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scopes are a comma-separated list of partner, producer and operator")]
pub struct ScopesError;

impl Scopes {
    pub fn all() -> Scopes {
        Scopes(Scope::ALL.iter().fold(0, |bits, scope| bits | scope.bit()))
    }

    pub fn only(scope: Scope) -> Scopes {
        Scopes(scope.bit())
    }

    /// # Errors
    /// An unknown name, or no name at all: a key without a scope would be of no use to anybody.
    pub fn parse(text: &str) -> Result<Scopes, ScopesError> {
        let bit =
            |name: &str| Scope::ALL.iter().find(|scope| scope.name() == name.trim()).map(|scope| scope.bit());
        text.split(',').try_fold(0, |bits, name| Some(bits | bit(name)?)).map(Scopes).ok_or(ScopesError)
    }

    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Scope::ALL.iter().filter(|s| self.contains(**s)).map(|s| s.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_11_a_generated_key_parses_to_itself() {
        let (key, text) = PartnerKey::generate();
        let text = text.expose_str().unwrap();
        assert_eq!(text.len(), 3 + 12 + 1 + 43);
        assert!(text.starts_with(&format!("hk_{}_", key.prefix)));
        assert_eq!(PartnerKey::parse(text).unwrap(), key);
        let (other, _) = PartnerKey::generate();
        assert_ne!(other.prefix, key.prefix);
        assert!(!other.hash.matches(&key.hash) && other.hash != key.hash);
        assert_eq!(KeyHash::from_bytes(*key.hash.as_bytes()), key.hash, "it is kept as it is");
    }

    #[test]
    fn rule_11_a_development_key_can_be_told_from_a_partners() {
        let (one, other) = (PartnerKey::generate_for_development(), PartnerKey::generate_for_development());
        let read = |text: &Secret| PartnerKey::parse(text.expose_str().unwrap()).unwrap();
        assert_eq!((read(&one).prefix.as_str(), one.expose().len()), (DEVELOPMENT_PREFIX, 3 + 3 + 1 + 43));
        assert!(!read(&one).hash.matches(&read(&other).hash));
        assert_ne!(PartnerKey::generate().0.prefix, DEVELOPMENT_PREFIX);
    }

    #[test]
    fn rule_11_one_wrong_character_is_another_key() {
        let (key, text) = PartnerKey::generate();
        let mut altered = text.expose_str().unwrap().to_owned();
        let last = altered.pop().unwrap();
        altered.push(if last == 'a' { 'b' } else { 'a' });
        let presented = PartnerKey::parse(&altered).unwrap();
        assert_eq!(presented.prefix, key.prefix);
        assert!(!key.hash.matches(&presented.hash));
    }

    #[test]
    fn everything_else_is_a_development_key_or_none() {
        let secret = "a".repeat(43);
        let accepted = [
            "0123456789abcdef".to_owned(),
            "~".repeat(128),
            "with spaces inside".to_owned(),
            format!("hk_short_{secret}"),
            format!("hk_abcdefghijkl_{secret}x"),
            format!("hk_abcdefghijk-_{secret}"),
        ];
        for text in accepted {
            assert_eq!(PartnerKey::parse(&text).unwrap().prefix, DEVELOPMENT_PREFIX, "{text}");
        }
        for (text, error) in [
            ("", PartnerKeyError::WrongLength { chars: 0 }),
            ("0123456789abcde", PartnerKeyError::WrongLength { chars: 15 }),
            (&"a".repeat(129), PartnerKeyError::WrongLength { chars: 129 }),
            (" 0123456789abcdef", PartnerKeyError::NotPrintable),
            ("0123456789abcdef ", PartnerKeyError::NotPrintable),
            ("0123456789\tabcdef", PartnerKeyError::NotPrintable),
            ("0123456789\r\nabcdef", PartnerKeyError::NotPrintable),
            ("0123456789é-abcdef", PartnerKeyError::NotPrintable),
        ] {
            assert_eq!(PartnerKey::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn rule_10_debug_shows_no_hash() {
        let (key, _) = PartnerKey::generate();
        assert_eq!(format!("{key:?}"), format!("PartnerKey {{ prefix: \"{}\", hash: [hash] }}", key.prefix));
    }

    #[test]
    fn random_characters_come_up_evenly() {
        let mut counts = [0u32; 256];
        for _ in 0..2_000 {
            random_base62::<62>().iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        }
        // 2,000 of each are expected, give or take 45; one byte drawn that should be drawn again would make 2,500 of one.
        assert!(BASE62.iter().all(|byte| (1_700..2_300).contains(&counts[usize::from(*byte)])), "{counts:?}");
    }

    #[test]
    fn rule_11_scopes_by_name() {
        for (text, printed) in [
            ("partner", "partner"),
            ("producer, partner", "partner,producer"),
            ("operator,operator", "operator"),
            ("partner,producer,operator", "partner,producer,operator"),
        ] {
            let scopes = Scopes::parse(text).unwrap();
            assert_eq!(
                (scopes.to_string(), format!("{scopes:?}")),
                (printed.to_owned(), format!("Scopes({printed})"))
            );
        }
        for text in ["", ",", "partner,", "Partner", "admin", "partner;producer"] {
            assert_eq!(Scopes::parse(text), Err(ScopesError), "{text}");
        }
        let scopes = Scopes::parse("partner,operator").unwrap();
        assert!(scopes.contains(Scope::Partner) && scopes.contains(Scope::Operator));
        assert!(!scopes.contains(Scope::Producer) && !Scopes::only(Scope::Producer).contains(Scope::Partner));
        assert!(Scope::ALL.iter().all(|scope| Scopes::all().contains(*scope)));
    }
}
