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

/// Every wrong field of a request at once, one entry per field, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    pub fn one(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![Violation::new(field, message)])
    }

    /// Adds a violation, unless the field has one already: a partner mends one thing per field at a time.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let field = field.into();
        if !self.0.iter().any(|known| known.field == field) {
            self.0.push(Violation { field, message: message.into() });
        }
    }

    /// Adds the violations of another part of the same request.
    pub fn extend(&mut self, others: Violations) {
        for other in others.0 {
            self.add(other.field, other.message);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
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
        for (place, one) in self.0.iter().enumerate() {
            let before = if place == 0 { "" } else { "; " };
            write!(f, "{before}{} {}", one.field, one.message)?;
        }
        Ok(())
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
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}
