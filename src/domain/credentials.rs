//! What a callback asks of whoever calls it: the secret that Herald presents with each delivery.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

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

/// The user name and password of a notifications callback, sent with HTTP's Basic scheme.
#[derive(Debug, Clone)]
pub struct BasicCredentials(Secret);

impl BasicCredentials {
    /// In characters, of each part.
    pub const CHARS_MAX: usize = 1_000;

    /// The user name has no colon, which would end it, and neither has control characters (RFC 7617).
    pub fn check_user_name(text: String) -> Result<String, &'static str> {
        if text.contains(':') { Err("must not contain a colon") } else { Self::check_password(text) }
    }

    pub fn check_password(text: String) -> Result<String, &'static str> {
        let fits = (1..=Self::CHARS_MAX).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) {
            Ok(text)
        } else {
            Err("must have 1 to 1000 characters, none of them a control character")
        }
    }

    /// Of parts that passed their checks.
    pub fn new(user_name: String, password: String) -> Self {
        let (user_name, password) = (Zeroizing::new(user_name), Zeroizing::new(password));
        Self(Secret::new([user_name.as_bytes(), b":", password.as_bytes()].concat()))
    }

    /// As they are stored.
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// The value of an `Authorization` header from what was stored.
    pub fn header(stored: &Secret) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(stored.expose())).into_bytes()
    }

    /// Every form in which a receiver could say them back: both parts together, as they were sent, and the password alone.
    pub fn spellings(stored: &Secret) -> Vec<Secret> {
        let bytes = stored.expose();
        let password = bytes.iter().position(|byte| *byte == b':').map_or(bytes, |colon| &bytes[colon + 1..]);
        vec![stored.clone(), Secret::from(STANDARD.encode(bytes)), Secret::new(password)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_13_the_published_expression_is_followed_to_the_letter() {
        let longest = "k".repeat(128);
        for good in ["a", "AZaz09=+/-:_", "[\\]^_`", longest.as_str()] {
            assert!(CallbackKey::parse(good).is_ok(), "{good}");
        }
        let too_long = "k".repeat(129);
        for bad in ["", "a.b", "a~", "a,b", "a b", "a\n", "a\r\n", "é", "a\0", "{", "@", too_long.as_str()] {
            assert!(CallbackKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn basic_credentials_are_what_rfc_7617_makes_of_them() {
        let credentials = BasicCredentials::new("Aladdin".to_owned(), "open:sesame".to_owned());
        let header = BasicCredentials::header(credentials.secret());
        assert_eq!(String::from_utf8(header).unwrap(), "Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ==");
        let spellings = BasicCredentials::spellings(credentials.secret());
        let spellings: Vec<_> = spellings.iter().map(|one| one.expose_str().unwrap()).collect();
        assert_eq!(spellings, ["Aladdin:open:sesame", "QWxhZGRpbjpvcGVuOnNlc2FtZQ==", "open:sesame"]);
        assert!(!format!("{credentials:?}").contains("sesame"));
        for bad in ["", "a:b", "a\n", "a\0", "\u{7f}"] {
            assert!(BasicCredentials::check_user_name(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(BasicCredentials::check_password("p:é ü".to_owned()).is_ok());
        assert!(BasicCredentials::check_password("x".repeat(1_001)).is_err());
    }
}
