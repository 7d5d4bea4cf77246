//! How many deliveries a group of requests will come to. That is known once it is matched, and matching is part of writing it; but who publishes what
//! ten subscribe to has done so a moment ago as well.

use super::Request;

/// Deliveries committed together at most, as far as that can be told beforehand, unless a single request has more. Of an event it is one at least.
const GROUP_DELIVERIES_MAX: usize = 2_000;

/// How many deliveries an event comes to, by what the last groups came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct FanOut(f64);

impl Default for FanOut {
    fn default() -> Self {
        Self(1.0)
    }
}

impl FanOut {
    /// Of a group that is still to be matched.
    pub fn deliveries(self, events: usize) -> usize {
        (events as f64 * self.0) as usize
    }

    pub fn learn(&mut self, events: usize, deliveries: usize) {
        if events > 0 {
            let now = (deliveries as f64 / events as f64).max(1.0);
            // Half of it is forgotten within two groups.
            self.0 += (now - self.0) * 0.3;
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
        assert_eq!(fan_out.deliveries(500), 500);
        (0..60).for_each(|_| fan_out.learn(50, 500));
        assert_eq!((fan_out.deliveries(100) + 5) / 10, 100);
        // What nobody takes is written all the same.
        (0..60).for_each(|_| fan_out.learn(50, 0));
        assert_eq!(fan_out.deliveries(500), 500);
        (0..60).for_each(|_| fan_out.learn(0, 0));
        assert_eq!(fan_out.deliveries(500), 500);
    }
}
