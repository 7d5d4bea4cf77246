//! Tells an outage of our own from those of others: when hardly any host can be reached, it is we who are cut off, and nobody's retry
//! budget is spent (SECURITY rule 20).
//!
//! Pure: time and results come in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);
/// Fewer hosts say little about our own network.
const HOSTS_MIN: usize = 20;
/// Of a hundred hosts.
const UNREACHED_MIN_PERCENT: usize = 90;

/// The latest result for each host, and when.
#[derive(Debug, Default)]
pub struct OutageWatch {
    hosts: HashMap<String, (Instant, bool)>,
    swept_at: Option<Instant>,
}

impl OutageWatch {
    /// Takes note whether a host could be connected to.
    pub fn note(&mut self, host: &str, reached: bool, now: Instant) {
        match self.hosts.get_mut(host) {
            Some(latest) => *latest = (now, reached),
            None => {
                self.hosts.insert(host.to_owned(), (now, reached));
            }
        }
        if self.swept_at.is_none_or(|swept_at| now.saturating_duration_since(swept_at) >= WINDOW) {
            self.hosts.retain(|_, (at, _)| now.saturating_duration_since(*at) < WINDOW);
            self.swept_at = Some(now);
        }
    }

    /// Whether we are cut off, as far as the last ten seconds show.
    pub fn is_ours(&self, now: Instant) -> bool {
        let recent = self.hosts.values().filter(|(at, _)| now.saturating_duration_since(*at) < WINDOW);
        let (hosts, unreached) = recent
            .fold((0, 0), |(hosts, unreached), (_, reached)| (hosts + 1, unreached + usize::from(!reached)));
        hosts >= HOSTS_MIN && unreached * 100 >= hosts * UNREACHED_MIN_PERCENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(reached: usize, unreached: usize, now: Instant) -> OutageWatch {
        let mut watch = OutageWatch::default();
        for host in 0..reached + unreached {
            watch.note(&format!("host-{host}"), host < reached, now);
        }
        watch
    }

    #[test]
    fn rule_20_nearly_all_of_many_hosts_must_be_out_of_reach() {
        let now = Instant::now();
        for (reached, unreached, ours) in
            [(0, 19, false), (0, 20, true), (2, 18, true), (3, 17, false), (20, 0, false), (9, 91, true)]
        {
            assert_eq!(
                watch(reached, unreached, now).is_ours(now),
                ours,
                "{reached} reached, {unreached} not"
            );
        }
    }

    #[test]
    fn only_the_latest_of_each_host_within_the_window_counts() {
        let now = Instant::now();
        let mut watch = watch(0, 20, now);
        assert!(!watch.is_ours(now + WINDOW), "old news");
        for host in 0..3 {
            watch.note(&format!("host-{host}"), true, now);
        }
        assert!(!watch.is_ours(now), "they can be reached again");
    }
}
