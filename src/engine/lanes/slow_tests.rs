//! What takes long leaves room to what does not, however much there is of it.

use super::tests::{callbacks, held, take_all};
use super::*;

/// So many callbacks with as much to send as their lanes take.
fn full_lanes(lanes: &mut Lanes, count: usize) -> Vec<CallbackId> {
    let callbacks: Vec<_> = (0..count).map(|_| CallbackId::new()).collect();
    for callback in callbacks.iter().cycle().take(10 * count) {
        lanes.park(*callback, held());
    }
    callbacks
}

#[test]
fn rule_20_however_many_callbacks_hang_others_find_room_as_soon_as_it_is_seen() {
    let mut lanes = Lanes::new(16, 4);
    let hanging = full_lanes(&mut lanes, 20);
    let mut under_way = take_all(&mut lanes);
    assert_eq!(under_way.len(), 12, "all of the room for first attempts, one of each lane");
    for _ in 0..20 {
        lanes.tick();
        under_way.extend(take_all(&mut lanes));
    }
    assert_eq!(under_way.len(), 3 * 16, "the more the longer it takes, to a bound");
    assert!(hanging.iter().all(|callback| under_way.iter().any(|place| place.callback == *callback)));

    let healthy = full_lanes(&mut lanes, 3);
    let answered = take_all(&mut lanes);
    assert_eq!(answered.len(), 12);
    assert!(answered.iter().all(|place| healthy.contains(&place.callback)));

    // One of them lands at last, so that another may start.
    lanes.landed(under_way[0]);
    answered.into_iter().for_each(|place| lanes.landed(place));
    let next = callbacks(&take_all(&mut lanes));
    assert_eq!(next.iter().filter(|callback| hanging.contains(callback)).count(), 1);
    assert_eq!(next.iter().filter(|callback| healthy.contains(callback)).count(), 11);
}

#[test]
fn rule_20_those_that_take_long_leave_half_of_the_room_to_others() {
    let mut lanes = Lanes::new(16, 16);
    let slow = full_lanes(&mut lanes, 1);
    assert_eq!(take_all(&mut lanes).len(), 10);
    lanes.tick();
    lanes.tick();
    for _ in 0..10 {
        lanes.park(slow[0], held());
    }
    assert_eq!(take_all(&mut lanes).len(), 6, "its own width");
    let slow_too: Vec<_> = (0..4).map(|_| full_lanes(&mut lanes, 1)[0]).collect();
    let other = take_all(&mut lanes);
    assert_eq!(other.len(), 6, "what is left for first attempts");
    assert!(callbacks(&other).iter().all(|callback| slow_too.contains(callback)));
    lanes.tick();
    lanes.tick();
    assert_eq!(take_all(&mut lanes).len(), 8, "half");
    assert_eq!(callbacks(&take_all(&mut lanes)), []);
    let healthy = full_lanes(&mut lanes, 1);
    assert_eq!(callbacks(&take_all(&mut lanes)), [healthy[0]; 4], "and the other kinds keep theirs");
}

#[test]
fn a_lane_is_slow_until_a_post_of_it_lands_soon() {
    let (callback, mut lanes) = (CallbackId::new(), Lanes::new(16, 2));
    let is_slow = |lanes: &Lanes| lanes.lanes[&callback].slow;
    let take = |lanes: &mut Lanes| {
        lanes.park(callback, held());
        lanes.take().unwrap().0
    };
    let (long, other) = (take(&mut lanes), take(&mut lanes));
    lanes.tick();
    assert!(!is_slow(&lanes), "it may have started just now");
    lanes.vacated(other);
    let started_later = take(&mut lanes);
    lanes.tick();
    assert!(is_slow(&lanes));
    lanes.vacated(started_later);
    assert!(is_slow(&lanes), "what was not sent shows nothing");
    let other = take(&mut lanes);
    lanes.landed(long);
    assert!(is_slow(&lanes), "that took long");
    lanes.landed(other);
    assert!(lanes.lanes.is_empty());

    let (long, other) = (take(&mut lanes), take(&mut lanes));
    lanes.tick();
    lanes.tick();
    let held_up = lanes.rooms.slow;
    lanes.landed(long);
    lanes.landed(other);
    assert_eq!((held_up.all(), lanes.rooms.slow.all()), (2, 0));
}

proptest::proptest! {
    /// Counts by kind, by lane and of slow lanes are of the same posts, whatever happens in whatever order, and nobody stands in two lines.
    #[test]
    fn what_is_counted_is_what_is_under_way(steps in proptest::collection::vec((0..5u8, 0..6usize), 1..300)) {
        let mut lanes = Lanes::new(8, 3);
        let (known, mut under_way) = ([(); 6].map(|()| CallbackId::new()), Vec::new());
        for (step, which) in steps {
            match step {
                0 | 1 => drop(lanes.park(known[which], held())),
                2 => under_way.extend(lanes.take().map(|(place, _)| place)),
                3 => {
                    lanes.tick();
                }
                _ if which < under_way.len() => match step + which as u8 % 2 {
                    4 => lanes.landed(under_way.swap_remove(which)),
                    _ => lanes.vacated(under_way.swap_remove(which)),
                },
                _ => {}
            }
            let sum = |of: &dyn Fn(&Lane) -> UnderWay| lanes.lanes.values().map(of).fold(UnderWay::default(), |mut sum, lane| {
                sum += lane;
                sum
            });
            let all = sum(&|lane| lane.under_way);
            proptest::prop_assert_eq!(all.all(), under_way.len());
            proptest::prop_assert_eq!(all, lanes.rooms.all());
            proptest::prop_assert_eq!(sum(&|lane| if lane.slow { lane.under_way } else { UnderWay::default() }), lanes.rooms.slow);
            let mut in_line: Vec<_> = lanes.lines.iter().flatten().collect();
            in_line.sort_unstable();
            proptest::prop_assert!(in_line.is_sorted_by(|one, next| one < next));
            proptest::prop_assert!(all.all() <= 4 * 8);
        }
    }
}
