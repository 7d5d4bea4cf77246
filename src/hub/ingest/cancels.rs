//! The cancels of a group: claim their request ids, lock their sessions, decide in memory.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::once::{self, Answer};
use super::super::sessions::expect_written;
use super::CancelRequest;
use crate::domain::event::NewEvent;
use crate::domain::id::PartnerId;
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::{RedirectSession, SessionState};
use crate::domain::{Error, Noun};
use crate::store::idempotency::Entry;
use crate::store::redirect_ids::{self, ClaimKind};
use crate::store::redirect_sessions::Found;
use crate::store::{idempotency, redirect_sessions};

/// Cancels whose request ids are claimed and whose sessions are locked.
pub(super) struct Cancels<'a> {
    requests: Vec<&'a CancelRequest>,
    /// The answers of those that had been asked before, by their place among the requests.
    repeats: HashMap<usize, Answer>,
    sessions: Sessions,
    /// By database time; none if there was nothing to lock.
    locked_at: Option<DateTime<Utc>>,
}

impl<'a> Cancels<'a> {
    pub(super) async fn lock(
        db: &mut PgConnection,
        keys: &KeyRing,
        requests: Vec<&'a CancelRequest>,
    ) -> Result<Self, Error> {
        let repeats = claim_ids(db, keys, &requests).await?;
        let (sessions, locked_at) = lock_sessions(db, &requests, &repeats).await?;
        Ok(Self { requests, repeats, sessions, locked_at })
    }

    pub(super) fn locked_at(&self) -> Option<DateTime<Utc>> {
        self.locked_at
    }

    /// Writes what was cancelled and remembers the answers. Returns an answer for each request, in order, and the events to store.
    pub(super) async fn write(
        mut self,
        db: &mut PgConnection,
        keys: &KeyRing,
        now: DateTime<Utc>,
    ) -> Result<(Vec<Answer>, Vec<NewEvent>), Error> {
        let mut answers = Vec::with_capacity(self.requests.len());
        let (mut ended, mut happened) = (Vec::new(), Vec::new());
        for (place, request) in self.requests.iter().enumerate() {
            if let Some(answer) = self.repeats.get(&place) {
                answers.push(answer.clone());
                continue;
            }
            let result = decide(&mut self.sessions, request, now);
            if let Ok(session) = &result {
                happened.push((request.cancel.announce)(session));
                ended.push(session.clone());
            }
            answers.push((request.render)(result));
        }
        if !ended.is_empty() {
            expect_written(redirect_sessions::end(db, &ended).await?, ended.len())?;
        }
        keep_answers(db, keys, &self.requests, &self.repeats, &answers).await?;
        Ok((answers, happened))
    }
}

/// Claims the request ids of a group; returns the answers of those that had been asked before, by their place in the group.
async fn claim_ids(
    db: &mut PgConnection,
    keys: &KeyRing,
    group: &[&CancelRequest],
) -> Result<HashMap<usize, Answer>, Error> {
    let asked: Vec<(usize, &CancelRequest, &once::Once)> = group
        .iter()
        .enumerate()
        .filter_map(|(place, request)| request.once.as_ref().map(|once| (place, *request, once)))
        .collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let entry = |(_, request, once): &(usize, &CancelRequest, &once::Once)| {
        Entry::claim(request.partner, once.request_id, once::fingerprint_hash(keys, once))
    };
    let claimed = idempotency::claim_many(db, &asked.iter().map(entry).collect::<Vec<_>>()).await?;
    let mut repeats = HashMap::new();
    for (place, request, once) in asked {
        if claimed.contains(&(request.partner, once.request_id)) {
            continue;
        }
        let answer = match once::first_answer(db, keys, request.partner, once).await {
            Ok(answer) => answer,
            Err(error @ Error::Invalid(_)) => (request.render)(Err(error)),
            Err(error) => return Err(error),
        };
        repeats.insert(place, answer);
    }
    Ok(repeats)
}

/// What a cancel finds under its session's id.
enum Standing {
    Own(Found),
    Another,
}

type Sessions = HashMap<(PartnerId, Uuid), Standing>;

/// Locks the callers' sessions, and says when; for ids that are not theirs, finds out whether they are another's.
async fn lock_sessions(
    db: &mut PgConnection,
    group: &[&CancelRequest],
    repeats: &HashMap<usize, Answer>,
) -> Result<(Sessions, Option<DateTime<Utc>>), Error> {
    let wanted: HashSet<(PartnerId, Uuid)> = group
        .iter()
        .enumerate()
        .filter(|(place, _)| !repeats.contains_key(place))
        .map(|(_, request)| (request.partner, request.cancel.session))
        .collect();
    if wanted.is_empty() {
        return Ok((HashMap::new(), None));
    }
    let list: Vec<_> = wanted.iter().copied().collect();
    let (found, locked_at) = redirect_sessions::lock(db, &list).await?;
    let mut sessions: Sessions = found
        .into_iter()
        .map(|found| ((found.session.partner, found.session.id), Standing::Own(found)))
        .collect();
    for key in wanted {
        if !sessions.contains_key(&key)
            && let Some(owner) = redirect_ids::owner(db, ClaimKind::Session, key.1).await?
            && owner != key.0
        {
            sessions.insert(key, Standing::Another);
        }
    }
    Ok((sessions, locked_at))
}

/// Cancels a session in memory; the next request of the group sees it cancelled.
fn decide(
    sessions: &mut Sessions,
    request: &CancelRequest,
    now: DateTime<Utc>,
) -> Result<RedirectSession, Error> {
    let found = match sessions.get_mut(&(request.partner, request.cancel.session)) {
        None => return Err(Error::NotFound(Noun::Session)),
        Some(Standing::Another) => return Err(Error::NotYours(Noun::Session)),
        Some(Standing::Own(found)) => found,
    };
    if found.customer_erased {
        return Err(Error::NotFound(Noun::Customer));
    }
    let cancelled = found.session.clone().end(SessionState::Cancelled, &request.cancel.condition, now)?;
    found.session = cancelled.clone();
    Ok(cancelled)
}

/// Stores the answers that a repeat shall get again, and releases the ids of the others.
async fn keep_answers(
    db: &mut PgConnection,
    keys: &KeyRing,
    group: &[&CancelRequest],
    repeats: &HashMap<usize, Answer>,
    answers: &[Answer],
) -> Result<(), Error> {
    let mut kept = Vec::new();
    for (place, (request, answer)) in group.iter().zip(answers).enumerate() {
        let Some(once) = &request.once else { continue };
        if repeats.contains_key(&place) {
            continue;
        }
        if once::is_kept(answer.status) {
            let sealed = once::seal(keys, request.partner, once.request_id, answer);
            let status = i16::try_from(answer.status).map_err(Error::internal)?;
            let claim = Entry::claim(request.partner, once.request_id, Vec::new());
            kept.push(Entry { status, answer: sealed, ..claim });
        } else {
            idempotency::release(db, request.partner, once.request_id).await?;
        }
    }
    if !kept.is_empty() {
        idempotency::answer_many(db, &kept).await?;
    }
    Ok(())
}
