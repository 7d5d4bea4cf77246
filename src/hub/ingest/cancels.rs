//! The cancels of a group: look up their request ids and their sessions, decide in memory. Nothing is locked: what is written says what it was
//! read as, and if that is not so any more the group begins again.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::once::{self, Answer};
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

/// Cancels with what was found about them.
pub(super) struct Cancels<'a> {
    requests: Vec<&'a CancelRequest>,
    /// The answers of those that had been asked before, by their place among the requests.
    repeats: HashMap<usize, Answer>,
    sessions: Sessions,
    /// By database time; none if no session was found.
    read_at: Option<DateTime<Utc>>,
}

/// What cancels come to, all of it still to be written.
pub(super) struct Decided {
    /// One for each request, in order.
    pub answers: Vec<Answer>,
    pub cancelled: Vec<RedirectSession>,
    pub events: Vec<NewEvent>,
    /// The answers that a repeat shall get again.
    pub kept: Vec<Entry>,
}

impl<'a> Cancels<'a> {
    pub(super) async fn read(
        db: &mut PgConnection,
        keys: &KeyRing,
        requests: Vec<&'a CancelRequest>,
    ) -> Result<Self, Error> {
        let repeats = find_repeats(db, keys, &requests).await?;
        let (sessions, read_at) = read_sessions(db, &requests, &repeats).await?;
        Ok(Self { requests, repeats, sessions, read_at })
    }

    pub(super) fn read_at(&self) -> Option<DateTime<Utc>> {
        self.read_at
    }

    pub(super) fn decide(mut self, keys: &KeyRing, now: DateTime<Utc>) -> Result<Decided, Error> {
        let answers = Vec::with_capacity(self.requests.len());
        let mut decided = Decided { answers, cancelled: Vec::new(), events: Vec::new(), kept: Vec::new() };
        for (place, request) in self.requests.iter().enumerate() {
            if let Some(answer) = self.repeats.remove(&place) {
                decided.answers.push(answer);
                continue;
            }
            let result = cancel(&mut self.sessions, request, now);
            if let Ok(session) = &result {
                decided.events.push((request.cancel.announce)(session));
                decided.cancelled.push(session.clone());
            }
            let answer = (request.render)(result);
            decided.kept.extend(kept(keys, request, &answer)?);
            decided.answers.push(answer);
        }
        decided.cancelled.sort_unstable_by_key(|session| (session.partner, session.id));
        Ok(decided)
    }
}

/// The answers of those that have been asked before, by their place in the group.
async fn find_repeats(
    db: &mut PgConnection,
    keys: &KeyRing,
    group: &[&CancelRequest],
) -> Result<HashMap<usize, Answer>, Error> {
    let id = |request: &&CancelRequest| request.once.as_ref().map(|once| (request.partner, once.request_id));
    let asked: Vec<_> = group.iter().filter_map(id).collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let answered = idempotency::find_many(db, &asked).await?;
    let mut repeats = HashMap::new();
    for (place, request) in group.iter().enumerate() {
        let Some(once) = &request.once else { continue };
        let Some(first) = answered.get(&(request.partner, once.request_id)) else { continue };
        let answer = match once::first_answer(keys, request.partner, once, first) {
            Ok(answer) => answer,
            Err(error @ Error::Invalid(_)) => (request.render)(Err(error)),
            Err(error) => return Err(error),
        };
        repeats.insert(place, answer);
    }
    Ok(repeats)
}

/// The answer to a request as it is to be kept, if it has an id and a repeat shall get the same answer.
fn kept(keys: &KeyRing, request: &CancelRequest, answer: &Answer) -> Result<Option<Entry>, Error> {
    let Some(once) = request.once.as_ref().filter(|_| once::is_kept(answer.status)) else { return Ok(None) };
    Ok(Some(Entry {
        partner: request.partner,
        id: once.request_id,
        fingerprint: once::fingerprint_hash(keys, once),
        status: i16::try_from(answer.status).map_err(Error::internal)?,
        answer: once::seal(keys, request.partner, once.request_id, answer),
    }))
}

/// What a cancel finds under its session's id.
enum Standing {
    Own(Found),
    Another,
}

type Sessions = HashMap<(PartnerId, Uuid), Standing>;

/// How the callers' sessions stand, and when they were read; for ids that are not theirs, finds out whether they are another's.
async fn read_sessions(
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
    let found = redirect_sessions::read(db, &list).await?;
    let read_at = found.first().map(|found| found.read_at);
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
    Ok((sessions, read_at))
}

/// Cancels a session in memory; the next request of the group sees it cancelled.
fn cancel(
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
