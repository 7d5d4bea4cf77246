//! Redirect sessions: Active → Cancelled | Completed | Expired, and nothing leads out of an end.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::id::{CustomerId, PartnerId};
use super::version::{IfMatch, Version};
use super::{Error, Noun};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    Active,
    Cancelled,
    Completed,
    Expired,
}

impl SessionState {
    pub const ALL: [Self; 4] = [Self::Active, Self::Cancelled, Self::Completed, Self::Expired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Cancelled => "Cancelled",
            Self::Completed => "Completed",
            Self::Expired => "Expired",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    NewTransactionIntent,
    ExistingTransactionIntent,
    NewCustomer,
}

impl SessionKind {
    pub const ALL: [Self; 3] =
        [Self::NewTransactionIntent, Self::ExistingTransactionIntent, Self::NewCustomer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewTransactionIntent => "NewTransactionIntent",
            Self::ExistingTransactionIntent => "ExistingTransactionIntent",
            Self::NewCustomer => "NewCustomer",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A session as it stands. What was asked of it is kept beside it: most that is done to a session needs nothing of that.
#[derive(Debug, Clone)]
pub struct RedirectSession {
    pub id: Uuid,
    pub partner: PartnerId,
    pub state: SessionState,
    pub kind: SessionKind,
    pub customer: Option<CustomerId>,
    pub version: Version,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

impl RedirectSession {
    /// The session as it stands at `now`: one that nobody ended in time expired by itself, which counts as a change.
    #[must_use]
    pub fn at(mut self, now: DateTime<Utc>) -> Self {
        if self.state == SessionState::Active && now >= self.expires_at {
            self.state = SessionState::Expired;
            self.updated_at = self.expires_at;
            self.version = Version(self.version.0 + 1);
        }
        self
    }

    /// Ends an active session at `now`.
    /// Errors: `VersionMismatch` when the condition fails, `Transition` when it is not active.
    pub fn end(self, into: SessionState, condition: &IfMatch, now: DateTime<Utc>) -> Result<Self, Error> {
        let current = self.at(now);
        if !condition.allows(Some(current.version)) {
            return Err(Error::VersionMismatch(Noun::Session));
        }
        if current.state != SessionState::Active {
            return Err(Error::Transition {
                noun: Noun::Session,
                from: current.state.as_str(),
                to: into.as_str(),
            });
        }
        Ok(Self { state: into, version: Version(current.version.0 + 1), updated_at: now, ..current })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn session(state: SessionState) -> RedirectSession {
        let created_at = DateTime::UNIX_EPOCH;
        RedirectSession {
            id: Uuid::nil(),
            partner: PartnerId(Uuid::nil()),
            state,
            kind: SessionKind::NewCustomer,
            customer: None,
            version: Version(1),
            created_at,
            updated_at: created_at,
            expires_at: created_at + TimeDelta::minutes(15),
        }
    }

    #[test]
    fn only_an_active_session_ends_and_only_once() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(1);
        for into in [SessionState::Cancelled, SessionState::Completed] {
            let ended = session(SessionState::Active).end(into, &IfMatch::Absent, now).unwrap();
            assert_eq!((ended.state, ended.version, ended.updated_at), (into, Version(2), now));
            for again in [SessionState::Cancelled, SessionState::Completed] {
                let refused = ended.clone().end(again, &IfMatch::Absent, now);
                assert!(matches!(refused, Err(Error::Transition { noun: Noun::Session, .. })));
            }
        }
    }

    #[test]
    fn a_session_expires_at_its_time_and_not_before() {
        let end = session(SessionState::Active).expires_at;
        assert_eq!(
            session(SessionState::Active).at(end - TimeDelta::nanoseconds(1)).state,
            SessionState::Active
        );
        let expired = session(SessionState::Active).at(end + TimeDelta::hours(1));
        assert_eq!(
            (expired.state, expired.updated_at, expired.version),
            (SessionState::Expired, end, Version(2))
        );
        let refused = session(SessionState::Active).end(SessionState::Cancelled, &IfMatch::Absent, end);
        assert!(matches!(refused, Err(Error::Transition { from: "Expired", .. })));
        assert_eq!(session(SessionState::Cancelled).at(end).state, SessionState::Cancelled);
    }

    #[test]
    fn the_condition_is_looked_at_before_the_state() {
        let now = DateTime::UNIX_EPOCH;
        let stale = IfMatch::Tags(vec!["7".into()]);
        for state in [SessionState::Active, SessionState::Cancelled] {
            let refused = session(state).end(SessionState::Cancelled, &stale, now);
            assert!(matches!(refused, Err(Error::VersionMismatch(Noun::Session))));
        }
        assert!(session(SessionState::Active).end(SessionState::Cancelled, &IfMatch::Any, now).is_ok());
    }
}
