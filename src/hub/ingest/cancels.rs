//! The cancels of a group: look up their request ids and those of their sessions that are not remembered, decide in memory. Nothing is locked:
//! what is written says what it was read or remembered as, and if that is not so any more the group begins again.

use std::collections::HashMap;
use std::time::Instant;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::once::{self, Answer};
use super::super::open_sessions::OpenSessions;
use super::CancelRequest;
use super::group::Ground;
use crate::domain::event::NewEvent;
use crate::domain::id::PartnerId;
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::{RedirectSession, SessionState};
use crate::domain::{Error, Noun};
use crate::store::idempotency::Entry;
use crate::store::redirect_ids::{self, ClaimKind};
use crate::store::redirect_sessions::{Ended, Found};
use crate::store::{idempotency, redirect_sessions};

/// Cancels with what was found about them.
pub(super) struct Cancels<'a> {
    requests: Vec<&'a CancelRequest>,
    /// The answers of those that had been asked before, by their place among the requests.
    repeats: HashMap<usize, Answer>,
    sessions: Sessions,
    /// By database time; none if no session was found.
    now: Option<DateTime<Utc>>,
}

/// What cancels come to, all of it still to be written.
pub(super) struct Decided {
    /// One for each request, in order.
    pub answers: Vec<Answer>,
    pub cancelled: Vec<Ended>,
    pub events: Vec<NewEvent>,
    /// The answers that a repeat shall get again.
    pub kept: Vec<Entry>,
}

impl<'a> Cancels<'a> {
    pub(super) async fn read(
        db: &mut PgConnection,
        ground: &Ground<'_>,
        requests: Vec<&'a CancelRequest>,
    ) -> Result<Self, Error> {
        let repeats = find_repeats(db, ground.keys, &requests).await?;
        let mut wanted: HashMap<_, Vec<&CancelRequest>> = HashMap::new();
        for (_, request) in requests.iter().enumerate().filter(|(place, _)| !repeats.contains_key(place)) {
            wanted.entry((request.partner, request.cancel.session)).or_default().push(request);
        }
        let (mut sessions, mut now) = match ground.remembers && !wanted.is_empty() {
            true => recall(ground.open_sessions, &mut wanted),
            false => (Sessions::new(), None),
        };
        if !wanted.is_empty() {
            let wanted = wanted.into_keys().collect();
            now = read_sessions(db, ground.open_sessions, wanted, &mut sessions).await?.or(now);
        }
        Ok(Self { requests, repeats, sessions, now })
    }

    /// By database time; none where it was not asked.
    pub(super) fn now(&self) -> Option<DateTime<Utc>> {
        self.now
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
            if let Ok(ended) = &result {
                decided.events.push((request.cancel.announce)(&ended.session));
                decided.cancelled.push(ended.clone());
            }
            let answer = (request.render)(result.map(|ended| ended.session));
            decided.kept.extend(kept(keys, request, &answer)?);
            decided.answers.push(answer);
        }
        decided.cancelled.sort_unstable_by_key(|ended| (ended.session.partner, ended.session.id));
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
enum Whose {
    Own { found: Found, remembered: bool },
    Another,
}

type Sessions = HashMap<(PartnerId, Uuid), Whose>;

/// Takes the sessions that are remembered out of those wanted, and what time it is there. Only where every request for a session would come out
/// well: what is refused shall be refused for how the session stands, not for how it is remembered.
fn recall(
    open_sessions: &OpenSessions,
    wanted: &mut HashMap<(PartnerId, Uuid), Vec<&CancelRequest>>,
) -> (Sessions, Option<DateTime<Utc>>) {
    let mut sessions = Sessions::new();
    let Some(now) = open_sessions.database_time(Instant::now()) else { return (sessions, None) };
    wanted.retain(|(partner, id), requests| {
        let suits = |session: &RedirectSession| {
            let ends = |request: &&CancelRequest| end(session, request, now).is_ok();
            session.partner == *partner && requests.iter().all(ends)
        };
        let Some((session, row_at)) = open_sessions.take_if(*id, suits) else { return true };
        let found = Found { session, customer_erased: false, read_at: now, row_at };
        sessions.insert((*partner, *id), Whose::Own { found, remembered: true });
        false
    });
    (sessions, Some(now))
}

/// How the callers' sessions stand, and when they were read; for ids that are not theirs, finds out whether they are another's.
async fn read_sessions(
    db: &mut PgConnection,
    open_sessions: &OpenSessions,
    wanted: Vec<(PartnerId, Uuid)>,
    sessions: &mut Sessions,
) -> Result<Option<DateTime<Utc>>, Error> {
    let asked = Instant::now();
    let found = redirect_sessions::read(db, &wanted).await?;
    let read_at = found.first().map(|found| found.read_at);
    if let Some(read_at) = read_at {
        open_sessions.set_clock(read_at, asked);
    }
    let own =
        |found: Found| ((found.session.partner, found.session.id), Whose::Own { found, remembered: false });
    sessions.extend(found.into_iter().map(own));
    for key in wanted {
        if !sessions.contains_key(&key)
            && let Some(owner) = redirect_ids::owner(db, ClaimKind::Session, key.1).await?
            && owner != key.0
        {
            sessions.insert(key, Whose::Another);
        }
    }
    Ok(read_at)
}

/// Cancels a session in memory; the next request of the group sees it cancelled.
fn cancel(sessions: &mut Sessions, request: &CancelRequest, now: DateTime<Utc>) -> Result<Ended, Error> {
    let (found, remembered) = match sessions.get_mut(&(request.partner, request.cancel.session)) {
        None => return Err(Error::NotFound(Noun::Session)),
        Some(Whose::Another) => return Err(Error::NotYours(Noun::Session)),
        Some(Whose::Own { found, remembered }) => (found, *remembered),
    };
    if found.customer_erased {
        return Err(Error::NotFound(Noun::Customer));
    }
    let session = end(&found.session, request, now)?;
    found.session = session.clone();
    Ok(Ended { session, row_at: found.row_at, remembered })
}

fn end(
    session: &RedirectSession,
    request: &CancelRequest,
    now: DateTime<Utc>,
) -> Result<RedirectSession, Error> {
    session.clone().end(SessionState::Cancelled, &request.cancel.condition, now)
}
