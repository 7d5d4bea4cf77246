//! Tokens that stand for an API key for some hours: what a client of the notifications surface trades its key for. Lifetimes and rows are
//! the store's.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::secret::Secret;

const BRAND: &str = "ht_";
const RANDOM_BYTES: usize = 32;

/// What is kept of a token. Its 256 bits are random, so that to look the hash up is to prove it: how long that takes tells nothing of the
/// token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken([u8; 32]);

impl AccessToken {
    /// A fresh token and its text, which cannot be had again later.
    pub fn generate() -> (Self, Secret) {
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        rand::fill(random.as_mut_slice()).expect("the system has randomness, or nothing in here is safe");
        let text = Zeroizing::new(format!("{BRAND}{}", URL_SAFE_NO_PAD.encode(random.as_slice())));
        (Self::of(&text), Secret::new(text.as_bytes()))
    }

    /// `None` for a text that no token can be; it may be a key.
    pub fn parse(text: &str) -> Option<Self> {
        let random = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.strip_prefix(BRAND)?).ok()?);
        (random.len() == RANDOM_BYTES).then(|| Self::of(text))
    }

    pub fn hash(&self) -> &[u8; 32] {
        &self.0
    }

    /// The tag keeps the hash apart from those of keys.
    fn of(text: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"herald access token v1\0");
        context.update(text.as_bytes());
        Self(context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::partner_key::PartnerKey;

    #[test]
    fn rule_11_a_token_is_found_by_its_hash_and_is_no_key() {
        let (token, text) = AccessToken::generate();
        let text = text.expose_str().unwrap();
        assert!(AccessToken::parse(text).is_some_and(|read| read == token));
        let (_, key) = PartnerKey::generate();
        for other in ["", "ht_", &text[1..], &text[..text.len() - 1], key.expose_str().unwrap()] {
            assert!(AccessToken::parse(other).is_none());
        }
        assert!(
            AccessToken::parse(AccessToken::generate().1.expose_str().unwrap()).is_some_and(|it| it != token)
        );
        assert_ne!(token.hash(), AccessToken::generate().0.hash());
        assert_ne!(token.hash(), PartnerKey::parse(text).unwrap().hash.as_bytes());
    }
}
