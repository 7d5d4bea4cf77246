//! Standard Webhooks signatures (<https://www.standardwebhooks.com>), version `v1`: HMAC-SHA256 over
//! `id.timestamp.body`, so that a receiver can tell who sent a delivery, that it is whole, and that it is fresh.
//!
//! The bytes that are signed must be the bytes that are sent. Headers, retries and rotation windows are not known here:
//! the caller gives the keys that are valid now, newest first.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

use super::secret::Secret;

const KEY_PREFIX: &str = "whsec_";
const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 64;
const KEY_BYTES_GENERATED: usize = 32;
const VERSION: &str = "v1,";

/// Superseded keys that sign beside the present one at most, so that the header stays small whoever changes keys how often.
pub const SUPERSEDED_KEYS_MAX: i64 = 8;

/// How old, or how far ahead, a timestamp may be for a receiver: what the Standard Webhooks libraries use.
pub const TOLERANCE_S: i64 = 300;

/// A symmetric signing key. `Debug` says nothing; [`SigningKey::text`] is what the owner is shown, once.
#[derive(Clone)]
pub struct SigningKey {
    bytes: Secret,
    /// What signing begins from is worked out once, not for each delivery.
    hmac: hmac::Key,
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &SigningKey) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for SigningKey {}

/// Why a text is not a signing key. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    #[error("a signing key starts with `{KEY_PREFIX}`")]
    NoPrefix,
    #[error("what follows `{KEY_PREFIX}` is not base64")]
    NotBase64,
    #[error("a signing key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, this has {bytes}")]
    WrongLength { bytes: usize },
}

impl SigningKey {
    /// Parses `whsec_` and the base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// See [`SigningKeyError`].
    pub fn parse(text: &str) -> Result<SigningKey, SigningKeyError> {
        let encoded = text.strip_prefix(KEY_PREFIX).ok_or(SigningKeyError::NoPrefix)?;
        let bytes = STANDARD.decode(encoded).map(Secret::new).map_err(|_| SigningKeyError::NotBase64)?;
        SigningKey::from_bytes(bytes)
    }

    /// The key whose bytes the store kept.
    ///
    /// # Errors
    /// [`SigningKeyError::WrongLength`].
    pub fn from_bytes(bytes: Secret) -> Result<SigningKey, SigningKeyError> {
        let length = bytes.expose().len();
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&length) {
            return Err(SigningKeyError::WrongLength { bytes: length });
        }
        Ok(SigningKey::of(bytes))
    }

    /// The key of a subscription whose owner chose a secret of their own, as the webhooks surface has it: the UTF-8 of
    /// that secret, whatever its length.
    pub fn from_utf8_secret(secret: &str) -> SigningKey {
        SigningKey::of(Secret::new(secret))
    }

    fn of(bytes: Secret) -> SigningKey {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, bytes.expose());
        SigningKey { bytes, hmac }
    }

    /// A fresh key of 32 random bytes.
    pub fn generate() -> SigningKey {
        let mut bytes = Zeroizing::new([0; KEY_BYTES_GENERATED]);
        rand::fill(&mut *bytes).expect("the operating system always has random bytes");
        SigningKey::of(Secret::new(*bytes))
    }

    /// `whsec_…`, as the Standard Webhooks libraries take it.
    pub fn text(&self) -> Secret {
        let encoded = Zeroizing::new(STANDARD.encode(self.bytes.expose()));
        Secret::new([KEY_PREFIX.as_bytes(), encoded.as_bytes()].concat())
    }

    /// What a receiver could say back to us: what is in every text of the key, with its prefix and padding or without, and the secret that it was
    /// made of.
    pub fn spellings(&self) -> Vec<Secret> {
        let secret = Some(&self.bytes).filter(|bytes| bytes.expose_str().is_some());
        let encoded = Secret::from(STANDARD_NO_PAD.encode(self.bytes.expose()));
        [encoded].into_iter().chain(secret.cloned()).collect()
    }

    /// The key's bytes, for sealing.
    pub fn expose(&self) -> &[u8] {
        self.bytes.expose()
    }

    fn context(&self, id: &str, timestamp: i64, body: &[u8]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(id.as_bytes());
        context.update(format!(".{timestamp}.").as_bytes());
        context.update(body);
        context
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([secret])")
    }
}

/// The value of `webhook-signature`: one signature per key in the order given (newest first), separated by one space.
/// `timestamp` is in seconds since 1970 and goes into `webhook-timestamp`.
pub fn sign(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signature =
        |key: &SigningKey| format!("{VERSION}{}", STANDARD.encode(key.context(id, timestamp, body).sign()));
    keys.iter().map(signature).collect::<Vec<String>>().join(" ")
}

/// A delivery as its receiver sees it.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`, as sent
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signature: &'a str,
    pub body: &'a [u8],
}

/// Why a receiver should not believe a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("webhook-timestamp is not a number of seconds")]
    BadTimestamp,
    #[error("webhook-timestamp is too old")]
    TooOld,
    #[error("webhook-timestamp lies in the future")]
    TooNew,
    #[error("no signature fits the body, the id, the timestamp and the key")]
    NoMatch,
}

/// Checks a delivery as its receiver would: any of its signatures may fit any of the keys. Signatures of other
/// versions are passed over. The comparison takes constant time.
///
/// # Errors
/// See [`SignatureError`].
pub fn verify(
    keys: &[SigningKey],
    received: Received<'_>,
    now: i64,
    tolerance_s: i64,
) -> Result<(), SignatureError> {
    let timestamp: i64 = received.timestamp.parse().map_err(|_| SignatureError::BadTimestamp)?;
    if timestamp < now.saturating_sub(tolerance_s) {
        return Err(SignatureError::TooOld);
    }
    if timestamp > now.saturating_add(tolerance_s) {
        return Err(SignatureError::TooNew);
    }
    let tags: Vec<Vec<u8>> = received
        .signature
        .split(' ')
        .filter_map(|part| STANDARD.decode(part.strip_prefix(VERSION)?).ok())
        .collect();
    let fits = |key: &SigningKey| {
        let tag = key.context(received.id, timestamp, received.body).sign();
        tags.iter()
            .any(|given| aws_lc_rs::constant_time::verify_slices_are_equal(tag.as_ref(), given).is_ok())
    };
    if keys.iter().any(fits) { Ok(()) } else { Err(SignatureError::NoMatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The published vector of the specification.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key() -> SigningKey {
        SigningKey::parse(KEY).unwrap()
    }

    #[test]
    fn rule_08_the_published_vector() {
        assert_eq!(sign(&[key()], ID, TIME, BODY), SIGNATURE);
        let received = Received { id: ID, timestamp: "1614265330", signature: SIGNATURE, body: BODY };
        assert_eq!(verify(&[key()], received, TIME, TOLERANCE_S), Ok(()));
    }

    #[test]
    fn rule_08_during_a_rotation_both_signatures_newest_first() {
        let new = SigningKey::generate();
        let both = sign(&[new.clone(), key()], ID, TIME, BODY);
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, sign(std::slice::from_ref(&new), ID, TIME, BODY));
        assert_eq!(second, SIGNATURE);
        let received = Received { id: ID, timestamp: "1614265330", signature: &both, body: BODY };
        for keys in [vec![new.clone()], vec![key()], vec![SigningKey::generate(), key()]] {
            assert_eq!(verify(&keys, received, TIME, TOLERANCE_S), Ok(()));
        }
        assert_eq!(
            verify(&[SigningKey::generate()], received, TIME, TOLERANCE_S),
            Err(SignatureError::NoMatch)
        );
        assert_eq!(verify(&[], received, TIME, TOLERANCE_S), Err(SignatureError::NoMatch));
    }

    #[test]
    fn what_a_receiver_must_refuse() {
        let good = Received { id: ID, timestamp: "1614265330", signature: SIGNATURE, body: BODY };
        use SignatureError::{BadTimestamp, NoMatch, TooNew, TooOld};
        let cut = &SIGNATURE[..SIGNATURE.len() - 4];
        let asymmetric = SIGNATURE.replace("v1,", "v1a,");
        for (received, now, expected) in [
            (good, TIME + TOLERANCE_S, Ok(())),
            (good, TIME + TOLERANCE_S + 1, Err(TooOld)),
            (good, TIME - TOLERANCE_S, Ok(())),
            (good, TIME - TOLERANCE_S - 1, Err(TooNew)),
            (Received { timestamp: "", ..good }, TIME, Err(BadTimestamp)),
            (Received { timestamp: "1614265330.0", ..good }, TIME, Err(BadTimestamp)),
            (Received { timestamp: "-9223372036854775808", ..good }, TIME, Err(TooOld)),
            (Received { timestamp: "1614265331", ..good }, TIME, Err(NoMatch)),
            (Received { id: "msg_other", ..good }, TIME, Err(NoMatch)),
            (Received { body: br#"{"test": 2432232315}"#, ..good }, TIME, Err(NoMatch)),
            (Received { signature: "", ..good }, TIME, Err(NoMatch)),
            (Received { signature: "v1,", ..good }, TIME, Err(NoMatch)),
            (Received { signature: cut, ..good }, TIME, Err(NoMatch)),
            (Received { signature: &SIGNATURE[3..], ..good }, TIME, Err(NoMatch)),
            (Received { signature: &asymmetric, ..good }, TIME, Err(NoMatch)),
        ] {
            assert_eq!(verify(&[key()], received, now, TOLERANCE_S), expected, "{received:?} at {now}");
        }
    }

    #[test]
    fn keys_are_told_by_their_text() {
        let generated = SigningKey::generate();
        assert_eq!(generated.expose().len(), 32);
        assert_eq!(SigningKey::parse(generated.text().expose_str().unwrap()), Ok(generated));
        assert_eq!(key().text().expose_str(), Some(KEY));
        let encode = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![1; bytes]));
        for (text, expected) in [
            (encode(24), Ok(())),
            (encode(64), Ok(())),
            (encode(23), Err(SigningKeyError::WrongLength { bytes: 23 })),
            (encode(65), Err(SigningKeyError::WrongLength { bytes: 65 })),
            ("whsec_".to_owned(), Err(SigningKeyError::WrongLength { bytes: 0 })),
            ("whsec_*".to_owned(), Err(SigningKeyError::NotBase64)),
            (KEY.replace("whsec_", ""), Err(SigningKeyError::NoPrefix)),
        ] {
            assert_eq!(SigningKey::parse(&text).map(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn a_chosen_secret_signs_by_its_utf8() {
        let chosen = SigningKey::from_utf8_secret("c2VjcmV0");
        let same = SigningKey::of(Secret::new(b"c2VjcmV0".to_vec()));
        assert_eq!(sign(std::slice::from_ref(&chosen), "id", 1, b"body"), sign(&[same], "id", 1, b"body"));
        assert_eq!(chosen.text().expose_str(), Some("whsec_YzJWamNtVjA="));
        assert_eq!(format!("{chosen:?}"), "SigningKey([secret])");
    }
}
