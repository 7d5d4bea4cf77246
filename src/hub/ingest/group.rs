//! One group's transaction: everything that can make a request wait or fail is locked first, then all of it is decided in memory, then
//! written at once. Begins the transaction and leaves the COMMIT to the writer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::super::once::Answer;
use super::super::{Handed, Handoff};
use super::cancels::Cancels;
use super::publications::{Publications, Receipt};
use super::{LeaseTerms, Request};
use crate::domain::Error;
use crate::domain::delivery::Lease;
use crate::domain::event::{Event, NewEvent};
use crate::domain::key_ring::KeyRing;
use crate::store::events::{BirthLease, Born, Inserted};
use crate::store::{self, events, partitions};

/// Room asked for before it is known how many subscriptions match; what is not needed is given back at once.
pub(super) const ROOM_WANTED: usize = 2_000;
/// Events, and bytes of their data, that one statement inserts; of the bytes a last event may be beyond.
const STATEMENT_EVENTS_MAX: usize = 1_000;
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a group wrote, still to be committed.
pub(super) struct Written {
    /// One for each cancel of the group, in order.
    pub cancelled: Vec<Answer>,
    /// One for each publishing request of the group, in order.
    pub published: Vec<Result<Vec<Receipt>, Error>>,
    pub events: Vec<NewEvent>,
    /// How many of the events were published; the others are cancelled sessions.
    pub published_count: usize,
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
    let cancels = Cancels::lock(db, keys, group.iter().filter_map(Request::cancel).collect()).await?;
    let publications = Publications::lock(db, group.iter().filter_map(Request::publish).collect()).await?;
    let now = store::now(db).await?;
    let (cancelled, mut events) = cancels.write(db, keys, now).await?;
    let decided = publications.decide(db, now).await?;
    let published_count = decided.events.len();
    events.extend(decided.events);
    let inserted = insert_events(db, &events, lease, room).await?;
    let published = decided.settled.into_iter().map(|settled| settled.receipts(&inserted.matched)).collect();
    Ok(Written { cancelled, published, events, published_count, born: inserted.born })
}

/// Inserts the events, a statement's worth at a time; the first of them get the room.
async fn insert_events(
    db: &mut PgConnection,
    happened: &[NewEvent],
    lease: LeaseTerms,
    room: usize,
) -> Result<Inserted, Error> {
    let (mut all, mut room) = (Inserted::default(), room);
    for part in statements(happened) {
        let inserted = insert_part(db, part, lease, room).await?;
        room = room.saturating_sub(inserted.born.iter().filter(|born| born.leased).count());
        all.born.extend(inserted.born);
        all.matched.extend(inserted.matched);
    }
    Ok(all)
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

/// A day whose partition nobody has made yet is made here, and the insert tried again.
async fn insert_part(
    db: &mut PgConnection,
    happened: &[NewEvent],
    lease: LeaseTerms,
    room: usize,
) -> Result<Inserted, Error> {
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

/// Gives the engine what was born leased, each with its share of the room.
pub(super) fn hand_over(
    handoff: &Handoff,
    written: &Written,
    room: Option<OwnedSemaphorePermit>,
    until: Instant,
) {
    let leased: HashSet<_> = written.born.iter().filter(|born| born.leased).map(|born| born.event).collect();
    let sent_from_here = written.events.iter().filter(|event| leased.contains(&event.id));
    let events: HashMap<_, _> = sent_from_here.map(|event| (event.id, Arc::new(stored(event)))).collect();
    let mut room = room;
    let mut left_to_others = false;
    for born in &written.born {
        let share = room.as_mut().filter(|_| born.leased).and_then(|room| room.split(1));
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

#[cfg(test)]
mod tests {
    use super::super::super::handoff::handoff;
    use super::*;
    use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};
    use crate::domain::publication::Attributes;

    fn event(bytes: usize) -> NewEvent {
        NewEvent {
            id: EventId::new(),
            partner: PartnerId::new(),
            kind: "a".to_owned(),
            source: "/b".to_owned(),
            payload: vec![b'1'; bytes],
            occurred_at: chrono::DateTime::UNIX_EPOCH,
            attributes: Attributes::default(),
            ordering_key: None,
        }
    }

    #[test]
    fn a_statement_is_bounded_in_events_and_in_bytes() {
        let sizes = |events: &[NewEvent]| statements(events).map(<[_]>::len).collect::<Vec<_>>();
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&vec![event(1); 2_500]), [1_000, 1_000, 500]);
        assert_eq!(sizes(&vec![event(1024 * 1024); 9]), [4, 4, 1]);
        assert_eq!(sizes(&[event(STATEMENT_BYTES_MAX * 2), event(0)]), [1, 1]);
    }

    #[test]
    fn what_was_not_leased_takes_no_room_from_what_was() {
        let (handoff, mut intake) = handoff(2);
        let event = event(2);
        let born = |leased| Born {
            partner: event.partner,
            delivery: DeliveryId::new(),
            event: event.id,
            subscription: SubscriptionId::new(),
            leased,
        };
        let written = Written {
            cancelled: vec![],
            published: vec![],
            published_count: 1,
            born: vec![born(false), born(false), born(true), born(false), born(true)],
            events: vec![event.clone()],
        };
        hand_over(&handoff, &written, handoff.reserve(2), Instant::now());
        let handed: Vec<_> = std::iter::from_fn(|| intake.leases.try_recv().ok())
            .map(|handed| handed.lease.delivery)
            .collect();
        assert_eq!(handed, [written.born[2].delivery, written.born[4].delivery]);
    }
}
