//! What can go wrong, as a closed set that knows no HTTP. Each surface maps it with an exhaustive match, so that a new variant has to be
//! thought about once for every dialect.

use std::fmt;
use std::time::Duration;

/// The noun an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    Subscription,
    Session,
    Customer,
    Callback,
    Event,
    Delivery,
    Partner,
    Key,
    Replay,
}

/// What a partner may have only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests a second.
    Requests,
    /// Deliveries that are not finished.
    Backlog,
    /// Callbacks that are tried out at once.
    Trials,
}

/// One wrong field of a request: which, and what to do about it. `message` is for the partner and never repeats a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub message: String,
}

impl Violation {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Wrong fields of one request that are told at most: whoever sends ten thousand has one thing to mend. Nor may looking for a field among
/// those that are known take ever longer.
pub const VIOLATIONS_MAX: usize = 100;

/// Every wrong field of a request at once, one entry per field, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    all: Vec<Violation>,
    has_more: bool,
}

impl Violations {
    pub fn one(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { all: vec![Violation::new(field, message)], has_more: false }
    }

    /// Adds a violation, unless the field has one already: a partner mends one thing per field at a time.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let field = field.into();
        if self.has_more || self.all.iter().any(|known| known.field == field) {
            return;
        }
        if self.all.len() == VIOLATIONS_MAX {
            self.has_more = true;
        } else {
            self.all.push(Violation { field, message: message.into() });
        }
    }

    /// Adds the violations of another part of the same request.
    pub fn extend(&mut self, others: Violations) {
        for other in others.all {
            self.add(other.field, other.message);
        }
        self.has_more |= others.has_more;
    }

    /// The same of fields that are called otherwise.
    #[must_use]
    pub fn renamed(self, name: impl Fn(&str) -> String) -> Self {
        let rename = |one: Violation| Violation { field: name(&one.field), message: one.message };
        Self { all: self.all.into_iter().map(rename).collect(), has_more: self.has_more }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether there were more than are kept. From then on nobody need look for further ones.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.all.iter()
    }

    /// Keeps the value of a check, or its complaint under the field's name.
    pub fn check<T>(&mut self, field: &str, checked: Result<T, impl std::fmt::Display>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.add(field, complaint.to_string());
                None
            }
        }
    }
}

/// All of them in one line.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, one) in self.all.iter().enumerate() {
            let before = if place == 0 { "" } else { "; " };
            write!(f, "{before}{} {}", one.field, one.message)?;
        }
        if self.has_more { f.write_str("; and more") } else { Ok(()) }
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong.
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    /// No key, or one that opens nothing.
    #[error("no valid API key was given")]
    Unauthorized,
    /// The key is good but its scopes do not reach this far.
    #[error("the API key's scopes do not allow this")]
    Forbidden,
    /// The scopes do not allow what some fields ask for.
    #[error("the API key's scopes do not allow this: {0}")]
    ForbiddenFields(Violations),
    #[error("{0:?} not found")]
    NotFound(Noun),
    /// It exists, and belongs to another partner.
    #[error("{0:?} belongs to another partner")]
    NotYours(Noun),
    /// It was changed since the caller (or this request) read it.
    #[error("{0:?} was updated in the meantime")]
    VersionMismatch(Noun),
    /// The same thing exists already.
    #[error("{0:?} exists already")]
    Duplicate(Noun),
    /// The partner asks for more than it may.
    #[error("{limit:?} exceeded; again in {} ms", .after.as_millis())]
    LimitExceeded { limit: Limit, after: Duration },
    /// Fields of the request contradict what they named before.
    #[error("the request contradicts an earlier one: {0}")]
    Conflict(Violations),
    /// The state it is in does not lead where the caller wants it.
    #[error("{noun:?} is {from}, which does not lead to {to}")]
    Transition { noun: Noun, from: &'static str, to: &'static str },
    /// We cannot do this right now; the same request may succeed later.
    #[error("temporarily unavailable")]
    Unavailable(#[source] Cause),
    /// We are wrong, not the caller.
    #[error("unexpected failure")]
    Internal(#[source] Cause),
}

impl Error {
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(Violations::one(field, message))
    }

    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }

    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// The whole chain of causes in one line, for the log.
    pub fn chain(&self) -> String {
        with_causes(self)
    }
}

/// An error with its causes, in one line. Some say themselves what their cause says; that is not said again.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
    }
    text
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_says_of_its_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the row is wrong: {0}")]
        struct Row(#[source] std::num::ParseIntError);
        #[derive(Debug, thiserror::Error)]
        #[error("no number")]
        struct Number(#[source] Row);
        let odd = || Row("x".parse::<u8>().unwrap_err());
        let told = "the row is wrong: invalid digit found in string";
        assert_eq!(Error::internal(odd()).chain(), format!("unexpected failure: {told}"));
        assert_eq!(Error::internal(Number(odd())).chain(), format!("unexpected failure: no number: {told}"));
    }

    #[test]
    fn rule_14_of_wrong_fields_without_number_a_hundred_are_kept() {
        let told = |count: usize| {
            let mut violations = Violations::default();
            for number in (0..count).chain(0..count) {
                violations.add(format!("f{number}"), "is wrong");
            }
            (violations.iter().count(), violations.has_more(), violations.to_string().ends_with("; and more"))
        };
        assert_eq!(told(VIOLATIONS_MAX), (VIOLATIONS_MAX, false, false));
        assert_eq!(told(VIOLATIONS_MAX + 1), (VIOLATIONS_MAX, true, true));
        let mut parts = Violations::default();
        for part in 0..VIOLATIONS_MAX {
            parts.extend(Violations::one(format!("{part}.a"), "is wrong"));
            parts.extend(Violations::one(format!("{part}.b"), "is wrong"));
        }
        let renamed = parts.renamed(|field| format!("line 1: {field}"));
        assert_eq!((renamed.iter().count(), renamed.has_more()), (VIOLATIONS_MAX, true));
        assert_eq!(renamed.iter().last().map(|one| one.field.as_str()), Some("line 1: 49.b"));
    }
}
