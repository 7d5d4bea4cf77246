//! One group's transaction: everything that can make a request wait or fail is locked first, then all of it is decided in memory, then
//! written at once. Begins the transaction and leaves the COMMIT to the writer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::super::handoff::room_for;
use super::super::once::Answer;
use super::super::{Handed, Handoff, SetAside};
use super::cancels::Cancels;
use super::publications::{Publications, Receipt};
use super::{LeaseTerms, Request};
use crate::domain::Error;
use crate::domain::delivery::Lease;
use crate::domain::event::{Event, NewEvent};
use crate::domain::key_ring::KeyRing;
use crate::domain::publication::OrderingKey;
use crate::store::events::{BirthLease, Born, Inserted, Standing};
use crate::store::{self, events, partitions};

/// Room asked for before it is known how many subscriptions match; what is not needed is given back at once.
pub(super) const ROOM_WANTED: usize = 4_000;
/// Events, and bytes of their data, that one statement inserts; of the bytes a last event may be beyond.
const STATEMENT_EVENTS_MAX: usize = 1_000;
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What deliveries are born with.
pub(super) struct Birth {
    pub lease: LeaseTerms,
    /// In memory; what finds none is left to the database.
    pub room: usize,
    /// Whose deliveries are left to the database in any case.
    pub set_aside: SetAside,
}

/// What a group wrote, still to be committed.
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
    /// Whether deliveries of large fan-outs are still to be put into the queue.
    pub fanned_out: bool,
    pub born: Vec<Born>,
    /// Whose deliveries were left to the database.
    pub set_aside: SetAside,
}

/// Writes a group, and makes the partition of a day that nobody has made yet. Errors leave a transaction behind that has to be rolled back.
pub(super) async fn write(
    db: &mut PgConnection,
    keys: &KeyRing,
    birth: Birth,
    group: &[Request],
) -> Result<Written, Error> {
    match try_write(db, keys, &birth, group).await {
        Err(Trouble::NoPartition) => {
            sqlx::query("rollback").execute(&mut *db).await?;
            partitions::make_ahead(db).await?;
            Ok(try_write(db, keys, &birth, group).await?)
        }
        written => Ok(written?),
    }
}

/// What keeps a group from being written.
enum Trouble {
    /// So rare that a group rather begins again than carries a savepoint.
    NoPartition,
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        if partitions::is_missing(&error) { Self::NoPartition } else { Self::Failed(error.into()) }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NoPartition => Self::internal("a day's partition is missing although it was just made"),
            Trouble::Failed(error) => error,
        }
    }
}

async fn try_write(
    db: &mut PgConnection,
    keys: &KeyRing,
    birth: &Birth,
    group: &[Request],
) -> Result<Written, Trouble> {
    sqlx::query("begin").execute(&mut *db).await?;
    let cancels = Cancels::lock(db, keys, group.iter().filter_map(Request::cancel).collect()).await?;
    let publications = Publications::lock(db, group.iter().filter_map(Request::publish).collect()).await?;
    let now = match cancels.locked_at() {
        Some(now) => now,
        None => store::now(db).await?,
    };
    let (cancelled, mut events) = cancels.write(db, keys, now).await?;
    let decided = publications.decide(db, now).await?;
    let published_count = decided.events.len();
    events.extend(decided.events);
    in_order_of_locking(&mut events);
    let (inserted, overflow) = insert_events(db, &events, birth).await?;
    let fanned_out = inserted.fanned_out;
    let published = decided.settled.into_iter().map(|settled| settled.receipts(&inserted.matched)).collect();
    let set_aside = birth.set_aside.clone();
    Ok(Written {
        cancelled,
        published,
        events,
        published_count,
        overflow,
        fanned_out,
        born: inserted.born,
        set_aside,
    })
}

/// Lines of ordering keys are locked in the order of their digests, also when it takes several statements. Events of one key stay in theirs.
fn in_order_of_locking(events: &mut [NewEvent]) {
    if events.iter().any(|event| event.ordering_key.is_some()) {
        events.sort_by_cached_key(|event| event.ordering_key.as_ref().map(OrderingKey::digest));
    }
}

/// Inserts the events, a statement's worth at a time; the first of them get the room. How many deliveries that is enough for is reckoned by the
/// largest event of the statement.
async fn insert_events(
    db: &mut PgConnection,
    happened: &[NewEvent],
    birth: &Birth,
) -> Result<(Inserted, bool), Trouble> {
    let (mut all, mut room, mut overflow) = (Inserted::default(), birth.room, false);
    for part in statements(happened) {
        let each = part.iter().map(room_of).max().unwrap_or(1);
        let terms = BirthLease {
            owner: birth.lease.node,
            lease_ms: i64::try_from(birth.lease.duration.as_millis()).map_err(Error::internal)?,
            rows_max: i64::try_from(room / each).map_err(Error::internal)?,
            set_aside: &birth.set_aside,
        };
        let inserted = events::insert(db, part, terms).await?;
        let count = |standing| inserted.born.iter().filter(|born| born.standing == standing).count();
        let leased = count(Standing::Leased);
        // While there is room, what is left is held, and nobody's to send.
        overflow |= leased >= room / each && count(Standing::Left) > 0;
        room = room.saturating_sub(leased * each);
        all.born.extend(inserted.born);
        all.matched.extend(inserted.matched);
        all.fanned_out |= inserted.fanned_out;
    }
    Ok((all, overflow))
}

fn room_of(event: &NewEvent) -> usize {
    room_for(event.payload.len())
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

/// Gives the engine what was born leased, each with its share of the room.
pub(super) fn hand_over(
    handoff: &Handoff,
    written: &Written,
    room: Option<OwnedSemaphorePermit>,
    until: Instant,
) {
    let is_leased = |born: &&Born| born.standing == Standing::Leased;
    let leased: HashSet<_> = written.born.iter().filter(is_leased).map(|born| born.event).collect();
    let sent_from_here = written.events.iter().filter(|event| leased.contains(&event.id));
    let events: HashMap<_, _> = sent_from_here.map(|event| (event.id, Arc::new(stored(event)))).collect();
    let mut room = room;
    // The draws that were to find what was left to them may be over; see `engine::backlogs`.
    let list_is_old = !Arc::ptr_eq(&written.set_aside, &handoff.set_aside());
    let (mut is_due, mut to_gather) = (written.overflow, false);
    for born in &written.born {
        let event = events.get(&born.event);
        let takes = room_for(event.map_or(0, |event| event.payload.len()));
        let share = room.as_mut().filter(|_| is_leased(&born)).and_then(|room| room.split(takes));
        match (born.standing, share, event) {
            (Standing::Leased, Some(share), Some(event)) => {
                handoff.hand(Handed { lease: lease(born, event.clone(), until), room: share })
            }
            (Standing::Left, ..) => is_due |= list_is_old,
            (Standing::Waits, ..) => {}
            (Standing::Leased, ..) => is_due = true,
            (Standing::Gathers, ..) => to_gather = true,
        }
    }
    if is_due {
        handoff.ring();
    }
    if written.fanned_out {
        handoff.ring_to_fan_out();
    }
    if to_gather {
        handoff.ring_to_gather();
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
        draining: false,
        crashes: 0,
        until,
        batch: None,
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
    fn a_large_event_takes_more_room() {
        let sizes = [0, 4_095, 4_096, 256 * 1024];
        assert_eq!(sizes.map(room_for), [1, 1, 2, 65]);
        let (handoff, mut intake) = handoff(66);
        let (small, large) = (event(10), event(256 * 1024));
        let born = |event: &NewEvent| Born {
            partner: event.partner,
            delivery: DeliveryId::new(),
            event: event.id,
            subscription: SubscriptionId::new(),
            standing: Standing::Leased,
        };
        let written = Written {
            cancelled: vec![],
            published: vec![],
            published_count: 2,
            overflow: false,
            fanned_out: false,
            born: vec![born(&large), born(&small)],
            events: vec![small, large],
            set_aside: handoff.set_aside(),
        };
        hand_over(&handoff, &written, handoff.reserve(100), Instant::now());
        assert!(handoff.reserve(1).is_none(), "it is all taken");
        drop(intake.leases.try_recv().unwrap());
        assert_eq!(handoff.reserve(100).unwrap().num_permits(), 65);
    }

    fn written(handoff: &Handoff, event: &NewEvent, standings: &[Standing], overflow: bool) -> Written {
        let born = |standing: &Standing| Born {
            partner: event.partner,
            delivery: DeliveryId::new(),
            event: event.id,
            subscription: SubscriptionId::new(),
            standing: *standing,
        };
        Written {
            cancelled: vec![],
            published: vec![],
            published_count: 1,
            overflow,
            fanned_out: false,
            born: standings.iter().map(born).collect(),
            events: vec![event.clone()],
            set_aside: handoff.set_aside(),
        }
    }

    #[test]
    fn what_was_not_leased_takes_no_room_from_what_was() {
        use Standing::{Leased, Left};
        let (handoff, mut intake) = handoff(2);
        let written = written(&handoff, &event(2), &[Left, Left, Leased, Left, Leased], false);
        hand_over(&handoff, &written, handoff.reserve(2), Instant::now());
        let handed: Vec<_> = std::iter::from_fn(|| intake.leases.try_recv().ok())
            .map(|handed| handed.lease.delivery)
            .collect();
        assert_eq!(handed, [written.born[2].delivery, written.born[4].delivery]);
    }

    #[tokio::test]
    async fn the_bell_is_rung_for_what_is_due_and_left_to_whoever_has_room() {
        use Standing::{Gathers, Leased, Left, Waits};
        for (room, standings, overflow, rung) in [
            (2, &[Leased, Leased][..], false, false),
            (2, &[Leased, Left], false, false),
            (1, &[Leased, Waits], false, false),
            (1, &[Leased, Left], true, true),
            (0, &[Left], true, true),
            (1, &[Leased, Leased], false, true),
            (2, &[Leased, Gathers], false, false),
        ] {
            let (handoff, intake) = handoff(room);
            let written = written(&handoff, &event(2), standings, overflow);
            hand_over(&handoff, &written, handoff.reserve(2), Instant::now());
            let bell = tokio::time::timeout(std::time::Duration::ZERO, intake.due.notified()).await;
            assert_eq!(bell.is_ok(), rung, "{standings:?} with room for {room}");
        }
    }

    #[tokio::test]
    async fn who_was_left_by_an_old_list_is_looked_for_again() {
        for (changes, rung) in [(false, false), (true, true)] {
            let (handoff, intake) = handoff(2);
            let written = written(&handoff, &event(2), &[Standing::Leased, Standing::Left], false);
            if changes {
                intake.set_aside.send_replace([SubscriptionId::new()].into());
            }
            hand_over(&handoff, &written, handoff.reserve(2), Instant::now());
            let bell = tokio::time::timeout(std::time::Duration::ZERO, intake.due.notified()).await;
            assert_eq!(bell.is_ok(), rung);
        }
    }
}
