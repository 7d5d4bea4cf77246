//! Optimistic versions: entity tags, and the condition that `If-Match` puts on a change.

/// How often a row has changed, from 1. On the wire it is the strong entity tag `"<version>"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i64);

impl Version {
    pub fn etag(self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// A parsed `If-Match` header (RFC 9110, 13.1.1), or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IfMatch {
    #[default]
    Absent,
    /// `*`: any version, as long as the thing exists.
    Any,
    /// The opaque texts of the strong tags listed. Weak tags never match, so they are not kept.
    Tags(Vec<String>),
}

impl IfMatch {
    /// Reads the header's value; several header lines are joined by commas first.
    /// Errors: the text is not a list of entity tags.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const COMPLAINT: &str = "must be * or a comma-separated list of entity tags such as \"3\"";
        let mut rest = text.trim_matches([' ', '\t']);
        if rest == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        let mut seen = 0;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
            let (weak, opaque) = rest.strip_prefix("W/").map_or((false, rest), |opaque| (true, opaque));
            let opened = opaque.strip_prefix('"').ok_or(COMPLAINT)?;
            let (tag, after) = opened.split_once('"').ok_or(COMPLAINT)?;
            let after = after.trim_start_matches([' ', '\t']);
            if !(after.is_empty() || after.starts_with(',')) || tag.chars().any(|c| c <= ' ' || c == '\x7f') {
                return Err(COMPLAINT);
            }
            if !weak {
                tags.push(tag.to_owned());
            }
            seen += 1;
            rest = after;
        }
        if seen == 0 { Err(COMPLAINT) } else { Ok(Self::Tags(tags)) }
    }

    /// Whether a change may go ahead against the current version; `None` means that the thing does not exist.
    pub fn allows(&self, current: Option<Version>) -> bool {
        match (self, current) {
            (Self::Absent, _) => true,
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Tags(tags), Some(version)) => tags.contains(&version.0.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_read_as_rfc_9110_says() {
        let tags = |list: &[&str]| Ok(IfMatch::Tags(list.iter().map(|tag| tag.to_string()).collect()));
        let bad = |text| IfMatch::parse(text).is_err();
        assert_eq!(IfMatch::parse("*"), Ok(IfMatch::Any));
        assert_eq!(IfMatch::parse(" * "), Ok(IfMatch::Any));
        assert_eq!(IfMatch::parse("\"1\""), tags(&["1"]));
        assert_eq!(IfMatch::parse("\"1\", \"2\",,\"3\""), tags(&["1", "2", "3"]));
        assert_eq!(IfMatch::parse("W/\"1\", \"2\""), tags(&["2"]));
        assert_eq!(IfMatch::parse("W/\"1\""), tags(&[]));
        assert_eq!(IfMatch::parse("\"a,b\""), tags(&["a,b"]));
        assert!(
            bad("")
                && bad(",")
                && bad("1")
                && bad("\"1")
                && bad("\"1\" \"2\"")
                && bad("*,\"1\"")
                && bad("\"a b\"")
                && bad("W/W/\"1\", \"2\"")
        );
    }

    #[test]
    fn a_condition_needs_something_to_hold_against() {
        let current = Some(Version(2));
        assert!(IfMatch::Absent.allows(None) && IfMatch::Absent.allows(current));
        assert!(IfMatch::Any.allows(current) && !IfMatch::Any.allows(None));
        let tags = IfMatch::Tags(vec!["1".into(), "2".into()]);
        assert!(tags.allows(current) && !tags.allows(Some(Version(3))) && !tags.allows(None));
        assert!(!IfMatch::Tags(vec![]).allows(current), "a weak tag never matches");
        assert!(!IfMatch::Tags(vec!["02".into()]).allows(current), "tags are compared as texts");
    }
}
