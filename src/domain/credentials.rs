//! What a callback asks of whoever calls it: the secret that Herald presents with each delivery.

use super::secret::Secret;

/// The `apiKey` of a redirect subscription: sent back in the callback's `x-api-key` header and shown to nobody else.
#[derive(Debug, Clone)]
pub struct CallbackKey(Secret);

impl CallbackKey {
    /// The whole value must match `^[A-z0-9=+\/\-:_]{1,128}$`. `A-z` is as published and spans the six characters between `Z` and `a`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |byte: u8| matches!(byte, b'A'..=b'z' | b'0'..=b'9' | b'=' | b'+' | b'/' | b'-' | b':');
        match text.len() {
            1..=128 if text.bytes().all(allowed) => Ok(Self(Secret::from(text.as_bytes().to_vec()))),
            _ => Err("must match ^[A-z0-9=+\\/\\-:_]{1,128}$"),
        }
    }

    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_expression_is_followed_to_the_letter() {
        let longest = "k".repeat(128);
        for good in ["a", "AZaz09=+/-:_", "[\\]^_`", longest.as_str()] {
            assert!(CallbackKey::parse(good).is_ok(), "{good}");
        }
        let too_long = "k".repeat(129);
        for bad in ["", "a.b", "a~", "a,b", "a b", "a\n", "a\r\n", "é", "a\0", "{", "@", too_long.as_str()] {
            assert!(CallbackKey::parse(bad).is_err(), "{bad:?}");
        }
    }
}
