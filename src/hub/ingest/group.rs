//! One group's transaction: claim the request ids, lock the sessions, decide in memory, write everything at once. Begins the transaction and
//! leaves the COMMIT to the writer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::super::once::{self, Answer};
use super::super::sessions::expect_written;
use super::super::{Handed, Handoff};
use super::{LeaseTerms, Request};
use crate::domain::delivery::Lease;
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::PartnerId;
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::{RedirectSession, SessionState};
use crate::domain::{Error, Noun};
use crate::store::events::{BirthLease, Born};
use crate::store::idempotency::Entry;
use crate::store::redirect_ids::{self, ClaimKind};
use crate::store::redirect_sessions::Found;
use crate::store::{self, events, idempotency, partitions, redirect_sessions};

/// Room asked for before it is known how many subscriptions match; what is not needed is given back at once.
pub(super) const ROOM_WANTED: usize = 2_000;

/// What a group wrote, still to be committed.
pub(super) struct Written {
    /// One for each request, in order.
    pub answers: Vec<Answer>,
    pub events: Vec<NewEvent>,
    pub born: Vec<Born>,
}

pub(super) async fn write(
    db: &mut PgConnection,
    keys: &KeyRing,
    lease: LeaseTerms,
    room: usize,
    group: &[Request],
) -> Result<Written, Error> {
    sqlx::query("begin").execute(&mut *db).await?;
    let repeats = claim_ids(db, keys, group).await?;
    let mut sessions = lock_sessions(db, group, &repeats).await?;
    let now = store::now(db).await?;
    let mut answers = Vec::with_capacity(group.len());
    let (mut ended, mut happened) = (Vec::new(), Vec::new());
    for (place, request) in group.iter().enumerate() {
        if let Some(answer) = repeats.get(&place) {
            answers.push(answer.clone());
            continue;
        }
        let result = decide(&mut sessions, request, now);
        if let Ok(session) = &result {
            happened.push((request.cancel.announce)(session));
            ended.push(session.clone());
        }
        answers.push((request.render)(result));
    }
    let mut born = Vec::new();
    if !ended.is_empty() {
        expect_written(redirect_sessions::end(db, &ended).await?, ended.len())?;
        born = insert_events(db, &happened, lease, room).await?;
    }
    keep_answers(db, keys, group, &repeats, &answers).await?;
    Ok(Written { answers, events: happened, born })
}

/// Claims the request ids of a group; returns the answers of those that had been asked before, by their place in the group.
async fn claim_ids(
    db: &mut PgConnection,
    keys: &KeyRing,
    group: &[Request],
) -> Result<HashMap<usize, Answer>, Error> {
    let asked: Vec<(usize, &Request, &once::Once)> = group
        .iter()
        .enumerate()
        .filter_map(|(place, request)| request.once.as_ref().map(|once| (place, request, once)))
        .collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let entry = |(_, request, once): &(usize, &Request, &once::Once)| {
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

/// Locks the callers' sessions; for ids that are not theirs, finds out whether they are another's.
async fn lock_sessions(
    db: &mut PgConnection,
    group: &[Request],
    repeats: &HashMap<usize, Answer>,
) -> Result<Sessions, Error> {
    let wanted: HashSet<(PartnerId, Uuid)> = group
        .iter()
        .enumerate()
        .filter(|(place, _)| !repeats.contains_key(place))
        .map(|(_, request)| (request.partner, request.cancel.session))
        .collect();
    let list: Vec<_> = wanted.iter().copied().collect();
    let mut sessions: Sessions = redirect_sessions::lock(db, &list)
        .await?
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
    Ok(sessions)
}

/// Cancels a session in memory; the next request of the group sees it cancelled.
fn decide(
    sessions: &mut Sessions,
    request: &Request,
    now: chrono::DateTime<chrono::Utc>,
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

/// Inserts the events; a day whose partition nobody has made yet is made here, and the insert tried again.
async fn insert_events(
    db: &mut PgConnection,
    happened: &[NewEvent],
    lease: LeaseTerms,
    room: usize,
) -> Result<Vec<Born>, Error> {
    let terms = BirthLease {
        owner: lease.node,
        lease_ms: i64::try_from(lease.duration.as_millis()).map_err(Error::internal)?,
        rows_max: i64::try_from(room).map_err(Error::internal)?,
    };
    sqlx::query("savepoint events").execute(&mut *db).await?;
    match events::insert(db, happened, terms).await {
        Err(error) if partitions::is_missing(&error) => {
            sqlx::query("rollback to savepoint events").execute(&mut *db).await?;
            partitions::make_ahead(db).await?;
            Ok(events::insert(db, happened, terms).await?)
        }
        inserted => Ok(inserted?),
    }
}

/// Stores the answers that a repeat shall get again, and releases the ids of the others.
async fn keep_answers(
    db: &mut PgConnection,
    keys: &KeyRing,
    group: &[Request],
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

/// Gives the engine what was born leased, each with its share of the room.
pub(super) fn hand_over(
    handoff: &Handoff,
    written: &Written,
    room: Option<OwnedSemaphorePermit>,
    until: Instant,
) {
    let events: HashMap<_, _> =
        written.events.iter().map(|event| (event.id, Arc::new(stored(event)))).collect();
    let mut room = room;
    let mut left_to_others = false;
    for born in &written.born {
        let share = room.as_mut().and_then(|room| room.split(1));
        match (born.leased, share, events.get(&born.event)) {
            (true, Some(share), Some(event)) => {
                handoff.hand(Handed { lease: lease(born, event.clone(), until), room: share })
            }
            _ => left_to_others = true,
        }
    }
    if left_to_others {
        handoff.ring();
    }
}

fn lease(born: &Born, event: Arc<Event>, until: Instant) -> Lease {
    Lease {
        partner: born.partner,
        delivery: born.delivery,
        subscription: born.subscription,
        event,
        attempts: 0,
        // The epoch that rows are born with; see queries/events/insert.sql.
        epoch: 1,
        probe: false,
        crashes: 0,
        until,
    }
}

fn stored(event: &NewEvent) -> Event {
    Event {
        id: event.id,
        kind: event.kind.clone(),
        source: event.source.clone(),
        payload: event.payload.clone(),
        occurred_at: event.occurred_at,
    }
}
