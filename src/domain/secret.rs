//! Bytes that must not be seen: api keys, passwords, signing keys, connection strings.
//!
//! A [`Secret`] says nothing when it is printed, cannot be serialised, compares in constant time, and overwrites its
//! memory when it is dropped (best effort: copies made by whoever called [`Secret::expose`] are theirs to mind). What
//! the bytes mean, and where they are kept, this module does not know.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

/// Owned secret bytes. `Debug` and `Display` both print `[secret]`.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves. Every call is a place where the secret can leak, so search for it in reviews.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, or `None` if it is not UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Constant time for secrets of equal length; that the lengths differ may show.
impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        verify_slices_are_equal(self.expose(), other.expose()).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret::new(text)
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Secret {
        Secret::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_10_printing_says_nothing() {
        let secret = Secret::new("canary");
        for printed in [
            format!("{secret:?}"),
            format!("{secret:#?}"),
            format!("{secret}"),
            format!("{:?}", Some(&secret)),
        ] {
            assert!(printed.contains("[secret]"));
            assert!(!printed.contains("canary"));
        }
    }

    #[test]
    fn rule_10_a_panic_with_a_secret_in_hand_says_nothing_of_it() {
        let told = |panics: fn(Secret)| {
            let panicked = std::panic::catch_unwind(|| panics(Secret::new("canary"))).unwrap_err();
            *panicked.downcast::<String>().unwrap()
        };
        for told in [
            told(|secret| assert_eq!(secret, Secret::new("another"))),
            told(|secret| std::convert::identity(Err::<(), _>(secret)).unwrap()),
            told(|secret| panic!("{secret} of no use")),
        ] {
            assert!(told.contains("[secret]") && !told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn rule_11_equality_is_of_the_whole_value() {
        for (left, right, equal) in [
            ("", "", true),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("abc", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(Secret::new(left) == Secret::new(right), equal, "{left} {right}");
        }
    }

    #[test]
    fn text_only_when_it_is_text() {
        assert_eq!(Secret::new("é").expose_str(), Some("é"));
        assert_eq!(Secret::new([0xff, 0xfe]).expose_str(), None);
    }
}
