//! One group's commit: what is to be changed is remembered or read, then all of it is decided in memory, then written at once, as far as it
//! still is so. That takes one or two round trips to the database, and no transaction around them: one statement writes. Only where producers chose
//! ids, which have to be claimed first, or where there is too much for one statement, is there a transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::PgConnection;

use super::super::SetAside;
use super::super::once::Answer;
use super::super::open_sessions::OpenSessions;
use super::birth::Born;
use super::cancels::Cancels;
use super::matching::{KnownRoutes, Matched, match_all};
use super::publications::{Publications, Receipt, Settled};
use super::{LeaseTerms, Request};
use crate::domain::Error;
use crate::domain::event::NewEvent;
use crate::domain::id::{DeliveryId, IdMap, PartnerId};
use crate::domain::key_ring::KeyRing;
use crate::domain::publication::OrderingKey;
use crate::domain::route::Routes;
use crate::store::events::{Alongside, BirthLease, Insert, Stored};
use crate::store::idempotency::Entry;
use crate::store::redirect_sessions::Ended;
use crate::store::sessions::Watch;
use crate::store::{self, events, fanouts, partitions, routes};

/// Room asked for before it is known how many subscriptions match; what is not needed is given back at once.
pub(super) const ROOM_WANTED: usize = 4_000;
/// Events, and bytes of their data, that one statement inserts; of the bytes a last event may be beyond.
const STATEMENT_EVENTS_MAX: usize = 1_000;
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Matches that one statement writes down for those whose deliveries follow in chunks; those of a last event may be beyond.
const STATEMENT_MATCHES_MAX: usize = 20_000;

/// What deliveries are born with.
pub(super) struct Birth {
    pub lease: LeaseTerms,
    /// In memory; what finds none is left to the database.
    pub room: usize,
    /// Whose deliveries are left to the database in any case.
    pub set_aside: SetAside,
}

/// What a group is decided by, beside what is read for it.
pub(super) struct Ground<'a> {
    pub keys: &'a KeyRing,
    pub open_sessions: &'a OpenSessions,
    pub routes: &'a mut KnownRoutes,
    /// Whether sessions may be remembered instead of read.
    pub remembers: bool,
}

/// Has a session plan what most groups take, by asking for nothing: otherwise the first group waits for it.
pub(super) async fn plan_ahead(db: &mut PgConnection, terms: LeaseTerms) -> Result<(), Error> {
    store::redirect_sessions::read(db, &[]).await?;
    routes::read(db, &[]).await?;
    Ok(events::plan_inserts(db, BirthLease { owner: terms.node, duration: terms.duration }).await?)
}

/// What a group comes to, still to be written.
pub(super) struct Plan {
    /// One for each cancel of the group, in order.
    cancelled: Vec<Answer>,
    /// What was cancelled, and which answers are to be kept.
    sessions: Vec<Ended>,
    kept: Vec<Entry>,
    /// One for each publishing request of the group, in order.
    settled: Vec<Settled>,
    pub events: Vec<NewEvent>,
    /// How many of the events were published; the others are cancelled sessions.
    published_count: usize,
    /// Who takes each event, and what that comes to.
    routes: Vec<Arc<Routes>>,
    matched: Matched,
}

/// What a group wrote.
pub(super) struct Written {
    /// One for each cancel of the group, in order.
    pub cancelled: Vec<Answer>,
    /// One for each publishing request of the group, in order.
    pub published: Vec<Result<Vec<Receipt>, Error>>,
    pub events: Vec<NewEvent>,
    /// How many of the events were published; the others are cancelled sessions.
    pub published_count: usize,
    /// Whether deliveries that could be sent at once found no room and were left to whoever has some.
    pub overflow: bool,
    /// What all deliveries that could be sent at once would take of the room.
    pub room_wanted: usize,
    /// Whether deliveries of large fan-outs are still to be put into the queue.
    pub fanned_out: bool,
    pub born: Vec<Born>,
    /// Whose deliveries were left to the database.
    pub set_aside: SetAside,
}

/// Why a group was not written.
pub(super) enum Trouble {
    /// Nothing of it happened.
    Undone(Error),
    /// Nothing of it happened, for somebody has a lock that it needs.
    Held(Error),
    /// It may have been committed: the answer that would say so never came.
    InDoubt(Box<Plan>, sqlx::Error),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Undone(error.into())
    }
}

/// Commits a group. Makes the partition of a day that nobody has made yet, and begins again where others changed meanwhile what the group had
/// read. No transaction is left open on a connection that is still good.
pub(super) async fn write(
    db: &mut PgConnection,
    watch: &Watch,
    ground: &mut Ground<'_>,
    birth: &Birth,
    group: &[Request],
) -> Result<Written, Trouble> {
    let mut has_made_partitions = false;
    let mut overtaken = 0;
    for _ in 0..TRIES_MAX {
        let mut transaction = Begun(false);
        let planned = plan(db, &mut transaction, ground, birth, group, overtaken);
        let tried = match watch.answered(planned).await {
            Ok(plan) => store(db, watch, &mut transaction, plan, birth).await,
            Err(stop) => Err(stop),
        };
        let stop = match tried {
            Ok(written) => return Ok(written),
            Err(stop) => stop,
        };
        if transaction.0 {
            watch.answered(sqlx::query("rollback").execute(&mut *db)).await?;
        }
        match stop {
            Stop::NoPartition if has_made_partitions => {
                let missing = "a day's partition is missing although it was just made";
                return Err(Trouble::Undone(Error::internal(missing)));
            }
            Stop::NoPartition => {
                watch.answered(partitions::make_ahead(db)).await?;
                has_made_partitions = true;
            }
            Stop::Overtaken => overtaken += 1,
            Stop::InDoubt(plan, error) => return Err(Trouble::InDoubt(plan, error)),
            Stop::Held(error) => return Err(Trouble::Held(error)),
            Stop::Failed(error) => return Err(Trouble::Undone(error)),
        }
    }
    Err(Trouble::Undone(Error::unavailable("others kept changing what was to be changed")))
}

/// How often a group begins before it is given up.
const TRIES_MAX: usize = 5;
/// After so many of them, routes are locked before they are read: whoever keeps changing them shall not keep others from being written.
const OVERTAKEN_MAX: usize = 2;

/// Whether a transaction was begun and is not over. One statement is a transaction by itself, and most groups are written by one.
struct Begun(bool);

impl Begun {
    async fn begin(&mut self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.0 {
            // Before it is answered: who gives up waiting for that has a transaction to undo all the same.
            self.0 = true;
            sqlx::query("begin").execute(db).await?;
        }
        Ok(())
    }
}

/// What ends a try.
pub(super) enum Stop {
    NoPartition,
    Overtaken,
    InDoubt(Box<Plan>, sqlx::Error),
    Held(Error),
    Failed(Error),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        if partitions::is_missing(&error) {
            Self::NoPartition
        } else if store::is_overtaken(&error) {
            Self::Overtaken
        } else if store::is_locked(&error) {
            Self::Held(error.into())
        } else {
            Self::Failed(error.into())
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads, claims and decides. Begins a transaction if something has to be claimed or locked.
async fn plan(
    db: &mut PgConnection,
    transaction: &mut Begun,
    ground: &mut Ground<'_>,
    birth: &Birth,
    group: &[Request],
    overtaken: usize,
) -> Result<Plan, Stop> {
    let cancels = group.iter().filter_map(Request::cancel).collect();
    let cancels = Cancels::read(db, ground, cancels).await?;
    let publishing: Vec<_> = group.iter().filter_map(Request::publish).collect();
    if publishing.iter().any(|request| request.has_chosen_ids()) {
        transaction.begin(db).await?;
    }
    let publications = Publications::lock(db, ground.routes, publishing).await?;
    let now = match cancels.now() {
        Some(now) => now,
        None => store::now(db).await?,
    };
    let cancels = cancels.decide(ground.keys, now)?;
    let publications = publications.decide(db, now).await?;
    let published_count = publications.events.len();
    let mut events = cancels.events;
    events.extend(publications.events);
    in_order_of_locking(&mut events);
    if overtaken > 0 {
        let partners: BTreeSet<_> = events.iter().map(|event| event.partner).collect();
        let partners: Vec<_> = partners.into_iter().collect();
        ground.routes.forget(&partners);
        if overtaken > OVERTAKEN_MAX {
            transaction.begin(db).await?;
            routes::lock(db, &partners).await?;
        }
    }
    let routes = ground.routes.find(db, &events).await?;
    let matched = match_all(&events, &routes, birth);
    publications.claims.put_right(db, &events, &matched.counts).await?;
    Ok(Plan {
        cancelled: cancels.answers,
        sessions: cancels.cancelled,
        kept: cancels.kept,
        settled: publications.settled,
        events,
        published_count,
        routes,
        matched,
    })
}

/// Writes what was planned, and commits it.
async fn store(
    db: &mut PgConnection,
    watch: &Watch,
    transaction: &mut Begun,
    plan: Plan,
    birth: &Birth,
) -> Result<Written, Stop> {
    if !plan.writes_anything() && !transaction.0 {
        return Ok(plan.written(IdMap::default(), birth));
    }
    if statements(&plan.events).nth(1).is_some() || !plan.matched.large.is_empty() {
        watch.answered(transaction.begin(db)).await?;
    }
    let stored = match watch.answered(insert_events(db, &plan, birth)).await {
        Err(error) if !transaction.0 && store::is_in_doubt(&error) => {
            return Err(Stop::InDoubt(Box::new(plan), error));
        }
        stored => stored?,
    };
    if transaction.0 {
        transaction.0 = false;
        if let Err(error) = watch.answered(sqlx::query("commit").execute(db)).await {
            return Err(Stop::InDoubt(Box::new(plan), error));
        }
    }
    Ok(plan.written(stored, birth))
}

impl Plan {
    fn writes_anything(&self) -> bool {
        !(self.events.is_empty() && self.sessions.is_empty() && self.kept.is_empty())
    }

    pub(super) fn written(self, stored: IdMap<DeliveryId, Stored>, birth: &Birth) -> Written {
        let counts = self.events.iter().map(|event| event.id).zip(self.matched.counts.iter().copied());
        let matched: IdMap<_, _> = match self.published_count {
            0 => IdMap::default(),
            _ => counts.collect(),
        };
        let receipts = |settled: Settled| settled.receipts(&matched);
        let born = |delivery| Some(Born::new(delivery, stored.get(&delivery.id)?));
        Written {
            cancelled: self.cancelled,
            published: self.settled.into_iter().map(receipts).collect(),
            overflow: self.matched.overflow,
            room_wanted: self.matched.room_wanted,
            fanned_out: !self.matched.large.is_empty(),
            born: self.matched.deliveries.iter().filter_map(born).collect(),
            events: self.events,
            published_count: self.published_count,
            set_aside: birth.set_aside.clone(),
        }
    }
}

/// Lines of ordering keys are locked in the order of their digests, also when it takes several statements. Events of one key stay in theirs.
fn in_order_of_locking(events: &mut [NewEvent]) {
    if events.iter().any(|event| event.ordering_key.is_some()) {
        events.sort_by_cached_key(|event| event.ordering_key.as_ref().map(OrderingKey::digest));
    }
}

/// Inserts the events with their deliveries, a statement's worth at a time, and what goes along with the first of them.
async fn insert_events(
    db: &mut PgConnection,
    plan: &Plan,
    birth: &Birth,
) -> Result<IdMap<DeliveryId, Stored>, sqlx::Error> {
    let lease = BirthLease { owner: birth.lease.node, duration: birth.lease.duration };
    let mut alongside = Alongside { cancelled: &plan.sessions, answers: &plan.kept };
    let (matched, mut first, mut first_delivery) = (&plan.matched, 0, 0);
    let mut stored = IdMap::default();
    // Without events there may still be answers to keep.
    let none = plan.events.is_empty().then_some(&plan.events[..]);
    for events in statements(&plan.events).chain(none) {
        let end = first + events.len();
        let end_delivery = end.checked_sub(1).map_or(0, |last| matched.ends[last]);
        let insert = Insert {
            events,
            matched: &matched.counts[first..end],
            deliveries: &matched.deliveries[first_delivery..end_delivery],
            versions: &versions(events, &plan.routes[first..end]),
            alongside: std::mem::take(&mut alongside),
        };
        (first, first_delivery) = (end, end_delivery);
        let part = events::insert(db, lease, insert).await?;
        match stored.is_empty() {
            true => stored = part,
            false => stored.extend(part),
        }
    }
    // Each event whole, and many of them at once.
    let mut chunk = Vec::new();
    for (place, large) in plan.matched.large.iter().enumerate() {
        let event = &plan.events[large.event];
        chunk.extend(large.subscriptions.iter().map(|subscription| (event.partner, event.id, *subscription)));
        if chunk.len() >= STATEMENT_MATCHES_MAX || place + 1 == plan.matched.large.len() {
            fanouts::insert(db, &chunk).await?;
            chunk.clear();
        }
    }
    Ok(stored)
}

/// By which versions of the partners' routes these events were matched; two of one partner never hold together.
fn versions(events: &[NewEvent], routes: &[Arc<Routes>]) -> Vec<(PartnerId, i64)> {
    let versions = events.iter().zip(routes).map(|(event, routes)| (event.partner, routes.version));
    let distinct: BTreeSet<_> = versions.collect();
    distinct.into_iter().collect()
}

fn statements(events: &[NewEvent]) -> impl Iterator<Item = &[NewEvent]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |event: &&NewEvent| {
            let room_left = bytes < STATEMENT_BYTES_MAX;
            bytes += event.payload.len();
            room_left
        };
        let count = rest.iter().take(STATEMENT_EVENTS_MAX).take_while(fits).count();
        let (part, after) = rest.split_at(count);
        rest = after;
        (count > 0).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::super::birth::tests::event;
    use super::*;

    #[test]
    fn a_statement_is_bounded_in_events_and_in_bytes() {
        let sizes = |events: &[NewEvent]| statements(events).map(<[_]>::len).collect::<Vec<_>>();
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&vec![event(1); 2_500]), [1_000, 1_000, 500]);
        assert_eq!(sizes(&vec![event(1024 * 1024); 9]), [4, 4, 1]);
        assert_eq!(sizes(&[event(STATEMENT_BYTES_MAX * 2), event(0)]), [1, 1]);
    }
}
