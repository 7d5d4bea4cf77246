//! What people call a partner. Never used to find one.

const CHARS_MAX: usize = 100;

/// A name for people to read: one line, not empty, not endless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartnerName(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {CHARS_MAX} characters, none of them a control character")]
pub struct NotAPartnerName;

impl PartnerName {
    /// Errors: what a name must be.
    pub fn parse(text: &str) -> Result<Self, NotAPartnerName> {
        let fits = (1..=CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAPartnerName) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_of_some_length() {
        for good in ["x", "Example Shop", &"é".repeat(100)] {
            assert_eq!(PartnerName::parse(good).map(|name| name.0).as_deref(), Ok(good));
        }
        for bad in ["", "a\nb", "a\0", "a\u{9b}b", &"é".repeat(101)] {
            assert_eq!(PartnerName::parse(bad), Err(NotAPartnerName), "{bad:?}");
        }
    }
}
