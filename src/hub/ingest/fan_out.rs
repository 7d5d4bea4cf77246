//! How many deliveries a group of requests will come to. That is known once it is matched, and matching is part of writing it; but who publishes what
//! ten subscribe to has done so a moment ago as well.

use super::Request;

/// Deliveries committed together at most, as far as that can be told beforehand, unless a single request has more. Of an event it is one at least.
const GROUP_DELIVERIES_MAX: usize = 2_000;

/// What an event comes to, by what the last groups came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct FanOut {
    deliveries: f64,
    /// That those take which can be sent at once.
    room: f64,
}

impl Default for FanOut {
    fn default() -> Self {
        Self { deliveries: 1.0, room: 1.0 }
    }
}

impl FanOut {
    fn deliveries(self, events: usize) -> usize {
        (events as f64 * self.deliveries) as usize
    }

    /// In memory, for a group that is still to be matched.
    pub fn room(self, events: usize) -> usize {
        (events as f64 * self.room).ceil() as usize
    }

    pub fn learn(&mut self, events: usize, deliveries: usize, room: usize) {
        if events > 0 {
            let each = |count: usize| count as f64 / events as f64;
            // Half of what was known is forgotten within two groups.
            self.deliveries += (each(deliveries).max(1.0) - self.deliveries) * 0.3;
            self.room += (each(room) - self.room) * 0.3;
        }
    }

    /// How many of the waiting requests, at least one, fit into a group together.
    pub fn group_size(self, waiting: &[Request]) -> usize {
        let mut events = 0;
        let fits = |request: &&Request| {
            events += request.weight();
            self.deliveries(events) <= GROUP_DELIVERIES_MAX
        };
        waiting.iter().take_while(fits).count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_comes_to_as_many_deliveries_as_the_last_ones_let_expect() {
        let mut fan_out = FanOut::default();
        assert_eq!((fan_out.deliveries(500), fan_out.room(500)), (500, 500));
        (0..60).for_each(|_| fan_out.learn(50, 500, 250));
        assert_eq!(((fan_out.deliveries(100) + 5) / 10, (fan_out.room(100) + 5) / 10), (100, 50));
        // What nobody takes is written all the same, and what is held needs no room.
        (0..120).for_each(|_| fan_out.learn(50, 0, 0));
        (0..120).for_each(|_| fan_out.learn(0, 0, 0));
        assert_eq!((fan_out.deliveries(500), fan_out.room(500)), (500, 1));
    }
}
