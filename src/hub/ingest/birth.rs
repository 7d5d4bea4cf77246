//! What was born with a group goes to the engine.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::super::handoff::room_for;
use super::super::{Handed, Handoff};
use super::group::Written;
use crate::domain::delivery::{Lease, Whereabouts};
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::{DeliveryId, EventId, IdMap, IdSet, PartnerId, SubscriptionId};
use crate::store::events::{NewDelivery, Stored};

/// A delivery that came into being with its event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Born {
    partner: PartnerId,
    delivery: DeliveryId,
    event: EventId,
    subscription: SubscriptionId,
    beginning: Beginning,
    at: Whereabouts,
}

/// How a delivery begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Leased to the node that inserted it.
    Leased,
    /// Due for anyone, or held.
    Left,
    /// Behind another with its ordering key, whose end lets it out.
    Waits,
    /// To be gathered into a batch.
    Gathers,
}

impl Born {
    pub(super) fn new(delivery: &NewDelivery, stored: &Stored) -> Self {
        let beginning = match (stored.leased, stored.waits, delivery.gathers) {
            (true, ..) => Beginning::Leased,
            (_, true, _) => Beginning::Waits,
            (.., true) => Beginning::Gathers,
            _ => Beginning::Left,
        };
        Self {
            partner: delivery.partner,
            delivery: delivery.id,
            event: delivery.event,
            subscription: delivery.subscription,
            beginning,
            at: stored.at,
        }
    }
}

/// Gives the engine what was born leased, each with its share of the room.
pub(super) fn hand_over(
    handoff: &Handoff,
    written: &Written,
    room: Option<OwnedSemaphorePermit>,
    until: Instant,
) {
    let is_leased = |born: &&Born| born.beginning == Beginning::Leased;
    let leased: IdSet<_> = written.born.iter().filter(is_leased).map(|born| born.event).collect();
    let sent_from_here = written.events.iter().filter(|event| leased.contains(&event.id));
    let events: IdMap<_, _> = sent_from_here.map(|event| (event.id, Arc::new(stored(event)))).collect();
    let mut room = room;
    // The draws that were to find what was left to them may be over; see `engine::backlogs`.
    let list_is_old = !Arc::ptr_eq(&written.set_aside, &handoff.set_aside());
    let (mut is_due, mut to_gather) = (written.overflow, false);
    for born in &written.born {
        let event = events.get(&born.event);
        let takes = room_for(event.map_or(0, |event| event.payload.len()));
        let share = room.as_mut().filter(|_| is_leased(&born)).and_then(|room| room.split(takes));
        match (born.beginning, share, event) {
            (Beginning::Leased, Some(share), Some(event)) => {
                handoff.hand(Handed { lease: lease(born, event.clone(), until), room: share })
            }
            (Beginning::Left, ..) => is_due |= list_is_old,
            (Beginning::Waits, ..) => {}
            (Beginning::Leased, ..) => is_due = true,
            (Beginning::Gathers, ..) => to_gather = true,
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
        // That of every row at its birth. Claims give higher ones.
        epoch: 0,
        probe: false,
        draining: false,
        crashes: 0,
        until,
        batch: None,
        at: born.at,
        // What is leased at its birth has a row of its own only if it has an ordering key.
        in_line: matches!(born.at, Whereabouts::Row(_)),
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
pub(super) mod tests {
    use super::super::super::handoff::handoff;
    use super::*;
    use crate::domain::publication::Attributes;
    use crate::domain::row_hint::RowHint;

    pub(in crate::hub::ingest) fn event(bytes: usize) -> NewEvent {
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
            beginning: Beginning::Leased,
            at: Whereabouts::Row(RowHint::default()),
        };
        let written = Written {
            cancelled: vec![],
            published: vec![],
            published_count: 2,
            overflow: false,
            room_wanted: 0,
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

    fn written(handoff: &Handoff, event: &NewEvent, beginnings: &[Beginning], overflow: bool) -> Written {
        let born = |beginning: &Beginning| Born {
            partner: event.partner,
            delivery: DeliveryId::new(),
            event: event.id,
            subscription: SubscriptionId::new(),
            beginning: *beginning,
            at: Whereabouts::Row(RowHint::default()),
        };
        Written {
            cancelled: vec![],
            published: vec![],
            published_count: 1,
            overflow,
            room_wanted: 0,
            fanned_out: false,
            born: beginnings.iter().map(born).collect(),
            events: vec![event.clone()],
            set_aside: handoff.set_aside(),
        }
    }

    #[test]
    fn what_was_not_leased_takes_no_room_from_what_was() {
        use Beginning::{Leased, Left};
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
        use Beginning::{Gathers, Leased, Left, Waits};
        for (room, beginnings, overflow, rung) in [
            (2, &[Leased, Leased][..], false, false),
            (2, &[Leased, Left], false, false),
            (1, &[Leased, Waits], false, false),
            (1, &[Leased, Left], true, true),
            (0, &[Left], true, true),
            (1, &[Leased, Leased], false, true),
            (2, &[Leased, Gathers], false, false),
        ] {
            let (handoff, intake) = handoff(room);
            let written = written(&handoff, &event(2), beginnings, overflow);
            hand_over(&handoff, &written, handoff.reserve(2), Instant::now());
            let bell = tokio::time::timeout(std::time::Duration::ZERO, intake.bells.due.notified()).await;
            assert_eq!(bell.is_ok(), rung, "{beginnings:?} with room for {room}");
        }
    }

    #[tokio::test]
    async fn who_was_left_by_an_old_list_is_looked_for_again() {
        for (changes, rung) in [(false, false), (true, true)] {
            let (handoff, intake) = handoff(2);
            let written = written(&handoff, &event(2), &[Beginning::Leased, Beginning::Left], false);
            if changes {
                intake.set_aside.send_replace([SubscriptionId::new()].into());
            }
            hand_over(&handoff, &written, handoff.reserve(2), Instant::now());
            let bell = tokio::time::timeout(std::time::Duration::ZERO, intake.bells.due.notified()).await;
            assert_eq!(bell.is_ok(), rung);
        }
    }
}
