//! What lanes promise: fairness, shares, order.

use std::time::Duration;

use chrono::DateTime;

use super::*;
use crate::domain::delivery::{Lease, Whereabouts};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};
use crate::domain::row_hint::RowHint;

fn held_in(room: &Arc<Semaphore>) -> Held {
    let event = Event {
        id: EventId::new(),
        kind: "Type".into(),
        source: "/".into(),
        payload: vec![],
        occurred_at: DateTime::UNIX_EPOCH,
    };
    let lease = Lease {
        partner: PartnerId::new(),
        delivery: DeliveryId::new(),
        subscription: SubscriptionId::new(),
        event: Arc::new(event),
        attempts: 0,
        epoch: 1,
        probe: false,
        draining: false,
        crashes: 0,
        until: Instant::now(),
        batch: None,
        at: Whereabouts::Row(RowHint::default()),
        in_line: false,
    };
    Held { lease, room: room.clone().try_acquire_owned().unwrap(), place: None, alone: None }
}

/// A lease with more room around it than any lane takes.
pub(in crate::engine) fn held() -> Held {
    held_in(&Arc::new(Semaphore::new(10_000)))
}

pub(super) fn take_all(lanes: &mut Lanes) -> Vec<Place> {
    std::iter::from_fn(|| lanes.take().map(|(place, _)| place)).collect()
}

pub(super) fn callbacks(places: &[Place]) -> Vec<CallbackId> {
    places.iter().map(|place| place.callback).collect()
}

fn kinds(places: &[Place]) -> Vec<Kind> {
    places.iter().map(|place| place.kind).collect()
}

#[test]
fn rule_20_one_callback_takes_its_own_room_and_no_more() {
    let (dead, healthy) = (CallbackId::new(), CallbackId::new());
    let mut lanes = Lanes::new(10, 2);
    for _ in 0..5 {
        assert!(lanes.park(dead, held()).is_none());
    }
    assert!(lanes.park(healthy, held()).is_none());
    let taken = take_all(&mut lanes);
    assert_eq!(taken.iter().filter(|place| place.callback == dead).count(), 2);
    assert_eq!(taken.iter().filter(|place| place.callback == healthy).count(), 1);
    lanes.landed(*taken.iter().find(|place| place.callback == dead).unwrap());
    assert_eq!(callbacks(&take_all(&mut lanes)), [dead], "one landed, one starts");
}

#[test]
fn lanes_take_turns_and_the_whole_is_bounded() {
    let (one, other) = (CallbackId::new(), CallbackId::new());
    let mut lanes = Lanes::new(5, 4);
    for _ in 0..4 {
        lanes.park(one, held());
    }
    for _ in 0..4 {
        lanes.park(other, held());
    }
    let taken = take_all(&mut lanes);
    assert_eq!(callbacks(&taken), [one, other, one, other]);
    assert_eq!(lanes.empty().len(), 4, "the rest waits");
    lanes.landed(taken[0]);
    assert!(lanes.take().is_none(), "nothing waits any more");
}

#[test]
fn a_lane_that_is_full_gives_the_lease_back() {
    let callback = CallbackId::new();
    let mut lanes = Lanes::new(1, 1);
    for _ in 0..PARKED_MAX {
        assert!(lanes.park(callback, held()).is_none());
    }
    assert!(lanes.park(callback, held()).is_some());
}

#[test]
fn rule_20_lanes_that_do_not_move_leave_room_for_others() {
    let room = Arc::new(Semaphore::new(16));
    let (mut lanes, dead) = (Lanes::new(1, 1), CallbackId::new());
    let refused = std::iter::from_fn(|| Some(lanes.park(dead, held_in(&room)))).position(|it| it.is_some());
    assert_eq!(refused, Some(8), "half of it");
    let healthy = CallbackId::new();
    assert!(lanes.park(healthy, held_in(&room)).is_none());
    let rest: Vec<_> =
        std::iter::from_fn(|| (room.available_permits() > 1).then(|| held_in(&room))).collect();
    assert!(lanes.park(CallbackId::new(), held_in(&room)).is_none(), "the last one still gets a place");
    drop(rest);
}

#[test]
fn rule_20_lanes_reckon_with_what_large_leases_take_and_not_with_the_reserve() {
    let room = Arc::new(Semaphore::new(64 + 8));
    let shared = SharedRoom { room: room.clone(), size: 64, reserve: 8, of_proven_lanes: true };
    let (mut lanes, dead) = (Lanes::new(1, 1).sharing(shared), CallbackId::new());
    let large = || {
        let mut held = held_in(&room);
        held.room.merge(room.clone().try_acquire_many_owned(7).unwrap());
        held
    };
    let refused = std::iter::from_fn(|| Some(lanes.park(dead, large()))).position(|it| it.is_some());
    assert_eq!(refused, Some(4), "half of it");
    assert_eq!(lanes.capacity_for_more(dead, &room), 4);
    assert_eq!(lanes.capacity_for_more(CallbackId::new(), &room), 32);
}

#[test]
fn lanes_that_share_a_room_are_not_full_because_all_of_it_is_in_use() {
    let room = Arc::new(Semaphore::new(16));
    let (mut lanes, callbacks) = (
        Lanes::new(1, 1).sharing(SharedRoom {
            room: room.clone(),
            size: 16,
            reserve: 0,
            of_proven_lanes: false,
        }),
        [(); 4].map(|()| CallbackId::new()),
    );
    let fresh: Vec<Held> = (0..16).map(|_| held_in(&room)).collect();
    assert_eq!(room.available_permits(), 0);
    let refused = fresh
        .into_iter()
        .zip(callbacks.iter().cycle())
        .filter_map(|(held, callback)| lanes.park(*callback, held));
    assert_eq!(refused.count(), 0, "a quarter of it each");
    let claimed = Arc::new(Semaphore::new(1));
    assert!(lanes.park(callbacks[0], held_in(&claimed)).is_some(), "a room of its own, all of it in use");
}

#[test]
fn rule_20_a_lane_that_does_not_move_with_the_others_has_no_share() {
    let room = Arc::new(Semaphore::new(16));
    let mut lanes = Lanes::new(2, 1).sharing(SharedRoom {
        room: room.clone(),
        size: 16,
        reserve: 0,
        of_proven_lanes: false,
    });
    let (slow, quick) = (CallbackId::new(), CallbackId::new());
    let mut fresh: Vec<Held> = (0..16).map(|_| held_in(&room)).collect();
    let mut park = |lanes: &mut Lanes, callback| lanes.park(callback, fresh.pop().unwrap()).is_none();
    assert!(park(&mut lanes, slow) && park(&mut lanes, quick));
    let under_way: Vec<_> = std::iter::from_fn(|| lanes.take()).collect();
    assert_eq!([under_way[0].0.callback, under_way[1].0.callback], [slow, quick]);
    assert!(park(&mut lanes, slow), "it may be about to move");
    lanes.landed(under_way[1].0);
    for _ in 0..MOVES_WITHIN_TURNS * 2 + MOVES_WITHIN_LANDINGS {
        lanes.park(quick, held());
        let (place, _) = lanes.take().unwrap();
        lanes.landed(place);
    }
    assert!(park(&mut lanes, quick));
    assert!(!park(&mut lanes, slow));
    lanes.landed(under_way[0].0);
    assert!(park(&mut lanes, slow));
}

#[test]
fn rule_20_lanes_of_which_nobody_knows_yet_that_they_hang_leave_room_for_others() {
    let room = Arc::new(Semaphore::new(64));
    let shared = SharedRoom { room: room.clone(), size: 64, reserve: 0, of_proven_lanes: true };
    let (mut lanes, hanging) = (Lanes::new(2, 1).sharing(shared), [CallbackId::new(), CallbackId::new()]);
    let fill = |lanes: &mut Lanes| {
        for callback in hanging.iter().cycle().take(200) {
            if room.available_permits() > 1 {
                let _given_back = lanes.park(*callback, held_in(&room));
            }
        }
        room.available_permits()
    };
    let free = fill(&mut lanes);
    assert!(free > 16, "half of what is free at most, each: {free}");
    assert!(lanes.park(CallbackId::new(), held_in(&room)).is_none(), "the next one has its place");
    lanes.proven(hanging[0], true);
    let with_share = fill(&mut lanes);
    assert!(with_share < free, "{with_share}");
    lanes.proven(hanging[0], false);
    assert!(lanes.park(hanging[0], held_in(&room)).is_some());
}

#[test]
fn rule_23_what_has_waited_too_long_to_be_sent_is_given_back() {
    let (now, callback) = (Instant::now(), CallbackId::new());
    let in_s = |seconds| now + Duration::from_secs(seconds);
    let mut lanes = Lanes::new(10, 1);
    for until in [5, 30, 9, 20] {
        let mut held = held();
        held.lease.until = in_s(until);
        assert!(lanes.park(callback, held).is_none());
    }
    let ends = |held: &[Held]| held.iter().map(|held| held.lease.until).collect::<Vec<_>>();
    assert_eq!(ends(&lanes.shed(in_s(10))), [in_s(5), in_s(9)]);
    let (place, held) = lanes.take().unwrap();
    assert_eq!(held.lease.until, in_s(30), "the rest in its order");
    assert_eq!(ends(&lanes.shed(in_s(60))), [in_s(20)]);
    lanes.landed(place);
    assert!(lanes.take().is_none() && lanes.lanes.is_empty());
}

#[test]
fn a_lane_that_was_shed_while_in_line_keeps_its_one_place() {
    let callback = CallbackId::new();
    let mut lanes = Lanes::new(10, 1);
    lanes.park(callback, held());
    assert_eq!(lanes.shed(Instant::now() + Duration::from_secs(1)).len(), 1);
    for _ in 0..3 {
        lanes.park(callback, held());
    }
    let taken = take_all(&mut lanes).len();
    assert_eq!(taken, 1, "no more than its own room");
}

#[test]
fn rule_20_first_attempts_and_retries_cannot_fill_each_others_room() {
    let mut lanes = Lanes::new(8, 1);
    let retry = || {
        let mut held = held();
        held.lease.attempts = 1;
        held
    };
    for _ in 0..8 {
        lanes.park(CallbackId::new(), retry());
    }
    assert_eq!(take_all(&mut lanes).len(), 4, "retries take half");
    for _ in 0..8 {
        lanes.park(CallbackId::new(), held());
    }
    assert_eq!(kinds(&take_all(&mut lanes)), [Kind::First; 4], "and leave the rest");

    let mut lanes = Lanes::new(8, 1);
    for _ in 0..8 {
        lanes.park(CallbackId::new(), held());
    }
    assert_eq!(take_all(&mut lanes).len(), 6, "first attempts take three quarters");
    lanes.park(CallbackId::new(), retry());
    assert_eq!(kinds(&take_all(&mut lanes)), [Kind::Retry]);
}

#[test]
fn rule_21_what_was_held_takes_a_quarter() {
    let mut lanes = Lanes::new(8, 1);
    for place in 0..8 {
        let mut held = held();
        (held.lease.draining, held.lease.attempts) = (true, place % 2);
        lanes.park(CallbackId::new(), held);
    }
    assert_eq!(kinds(&take_all(&mut lanes)), [Kind::Drain; 2]);
    lanes.tick();
    lanes.tick();
    assert_eq!(take_all(&mut lanes).len(), 0, "however long it takes");
}

#[test]
fn both_kinds_of_a_lane_share_its_cap() {
    let callback = CallbackId::new();
    let mut lanes = Lanes::new(100, 2);
    for attempts in [0, 1, 0, 1] {
        let mut held = held();
        held.lease.attempts = attempts;
        lanes.park(callback, held);
    }
    let taken = take_all(&mut lanes);
    assert_eq!(kinds(&taken), [Kind::First, Kind::Retry]);
    lanes.landed(taken[0]);
    assert_eq!(take_all(&mut lanes).len(), 1);
}
