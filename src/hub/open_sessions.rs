//! Redirect sessions that this process opened lately, as it opened them. What is remembered is a guess, which spares most cancels the reading: a
//! statement that writes by it looks at everything that reading would have shown, and changes nothing if it was wrong.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::database_clock::DatabaseClock;
use crate::domain::redirect_session::RedirectSession;
use crate::domain::row_hint::RowHint;

/// Sessions remembered at most, some 20 MB; the oldest go first.
const REMEMBERED_MAX: usize = 100_000;

#[derive(Clone, Default)]
pub(super) struct OpenSessions(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    sessions: HashMap<Uuid, (RedirectSession, RowHint)>,
    /// Oldest first; of those that were taken some may still stand here.
    order: VecDeque<Uuid>,
    clock: DatabaseClock,
}

impl OpenSessions {
    pub(super) fn remember(&self, session: RedirectSession, row_at: RowHint) {
        let mut memory = self.memory();
        let id = session.id;
        if memory.sessions.insert(id, (session, row_at)).is_none() {
            memory.order.push_back(id);
        }
        while memory.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = memory.order.pop_front() {
                memory.sessions.remove(&oldest);
            }
        }
    }

    /// Takes a session of which the caller makes something: what comes of it is written, or it is read next time.
    pub(super) fn take_if(
        &self,
        id: Uuid,
        is_right: impl FnOnce(&RedirectSession) -> bool,
    ) -> Option<(RedirectSession, RowHint)> {
        let mut memory = self.memory();
        memory.sessions.get(&id).filter(|(session, _)| is_right(session))?;
        memory.sessions.remove(&id)
    }

    /// Takes note of the database's time, see [`DatabaseClock`].
    pub(super) fn set_clock(&self, told: DateTime<Utc>, asked: Instant) {
        self.memory().clock.set(told, asked);
    }

    pub(super) fn database_time(&self, now: Instant) -> Option<DateTime<Utc>> {
        self.memory().clock.now(now)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::id::PartnerId;
    use crate::domain::redirect_session::{SessionKind, SessionState};
    use crate::domain::version::Version;

    fn session(number: usize) -> RedirectSession {
        let created_at = DateTime::UNIX_EPOCH;
        RedirectSession {
            id: Uuid::from_u128(number as u128),
            partner: PartnerId(Uuid::nil()),
            state: SessionState::Active,
            kind: SessionKind::NewCustomer,
            customer: None,
            version: Version(1),
            created_at,
            updated_at: created_at,
            expires_at: created_at + TimeDelta::minutes(15),
        }
    }

    #[test]
    fn a_session_is_taken_once_and_only_by_whom_it_suits() {
        let sessions = OpenSessions::default();
        sessions.remember(session(1), RowHint::default());
        let id = Uuid::from_u128(1);
        assert!(sessions.take_if(id, |_| false).is_none());
        assert!(sessions.take_if(id, |session| session.id == id).is_some());
        assert!(sessions.take_if(id, |_| true).is_none());
    }

    #[test]
    fn the_oldest_are_forgotten_also_where_most_were_taken() {
        let sessions = OpenSessions::default();
        (0..REMEMBERED_MAX * 3).for_each(|number| {
            sessions.remember(session(number), RowHint::default());
            if number > 0 && number % 2 == 0 {
                sessions.take_if(Uuid::from_u128(number as u128), |_| true);
            }
        });
        assert!(sessions.take_if(Uuid::nil(), |_| true).is_none());
        let memory = sessions.memory();
        assert_eq!((memory.order.len(), memory.sessions.len()), (REMEMBERED_MAX, REMEMBERED_MAX / 2));
        assert!(memory.sessions.contains_key(&Uuid::from_u128(REMEMBERED_MAX as u128 * 3 - 1)));
    }
}
