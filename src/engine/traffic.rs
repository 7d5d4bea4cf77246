//! Whether a callback may be called now: its breaker, its rate limit, and whether we are cut off ourselves. What may not be sent now gets
//! a moment at which to come back, spread so that not everything comes back at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::domain::breaker::{Breaker, Permission};
use crate::domain::id::CallbackId;
use crate::domain::outage::OutageWatch;
use crate::domain::throttle::Throttle;

/// Between two that were put off by one breaker; a recovered callback is not run over by its backlog.
const SPREAD: Duration = Duration::from_millis(10);
/// The furthest that a breaker spreads a backlog: a recovered callback has all of it again within this.
const SPREAD_MAX: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Callback {
    breaker: Breaker,
    throttle: Option<Throttle>,
    /// Put off since the breaker last let something through.
    put_off: u32,
}

/// What a post showed of its callback.
#[derive(Debug, Clone)]
pub struct Shown {
    pub host: Arc<str>,
    /// Whether a connection was had.
    pub reached: bool,
    /// Whether the outcome speaks against the receiver.
    pub failed: bool,
}

#[derive(Default)]
pub struct Traffic {
    callbacks: HashMap<CallbackId, Callback>,
    outage: OutageWatch,
    cut_off: Arc<AtomicBool>,
}

impl Traffic {
    /// Whether the present outage is taken for our own; shared with the posts under way.
    pub fn cut_off(&self) -> Arc<AtomicBool> {
        self.cut_off.clone()
    }

    /// Asks to start a post. Errors: after how long this one shall come back.
    pub fn ask(
        &mut self,
        callback: CallbackId,
        rate_per_s: Option<u32>,
        now: Instant,
    ) -> Result<(), Duration> {
        let state = match (self.callbacks.get_mut(&callback), rate_per_s) {
            (Some(state), _) => state,
            (None, None) => return Ok(()),
            (None, Some(_)) => self.callbacks.entry(callback).or_default(),
        };
        if let Permission::Denied(wait) = state.breaker.ask(now) {
            let spread = (SPREAD * state.put_off).min(SPREAD_MAX);
            state.put_off = state.put_off.saturating_add(1);
            return Err(wait + spread);
        }
        state.put_off = 0;
        let Some(per_s) = rate_per_s else {
            state.throttle = None;
            return Ok(());
        };
        let throttle = match &mut state.throttle {
            Some(throttle) if throttle.per_s() == per_s => throttle,
            other => other.insert(Throttle::new(per_s, now)),
        };
        throttle.take(now).inspect_err(|_| state.breaker.withdraw(now))
    }

    /// Takes note of what a post showed.
    pub fn note(&mut self, callback: CallbackId, shown: &Shown, now: Instant) {
        self.outage.note(&shown.host, shown.reached, now);
        let cut_off = self.outage.is_ours(now);
        if self.cut_off.swap(cut_off, Ordering::Relaxed) != cut_off {
            tracing::warn!(
                cut_off,
                "hardly any host can be reached, or they can be again; meanwhile no retry budget is spent"
            );
        }
        if shown.failed {
            self.callbacks.entry(callback).or_default().breaker.note(true, now);
        } else if let Some(state) = self.callbacks.get_mut(&callback) {
            state.breaker.note(false, now);
            if state.breaker.is_at_rest() && state.throttle.is_none() {
                self.callbacks.remove(&callback);
            }
        }
    }

    /// A post that was granted was not made.
    pub fn withdraw(&mut self, callback: CallbackId, now: Instant) {
        if let Some(state) = self.callbacks.get_mut(&callback) {
            state.breaker.withdraw(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(failed: bool) -> Shown {
        Shown { host: "host".into(), reached: true, failed }
    }

    #[test]
    fn rule_20_an_open_breaker_spreads_what_it_puts_off_and_leaves_others_alone() {
        let (now, dead, healthy) = (Instant::now(), CallbackId::new(), CallbackId::new());
        let mut traffic = Traffic::default();
        for _ in 0..10 {
            assert!(traffic.ask(dead, None, now).is_ok());
            traffic.note(dead, &shown(true), now);
        }
        let waits: Vec<_> = (0..3).filter_map(|_| traffic.ask(dead, None, now).err()).collect();
        assert_eq!(waits, [0, 1, 2].map(|n| Duration::from_secs(5) + SPREAD * n));
        assert!(traffic.ask(healthy, None, now).is_ok());
        let later = now + Duration::from_secs(5);
        assert!(traffic.ask(dead, None, later).is_ok(), "the probe");
        traffic.note(dead, &shown(false), later);
        assert!(traffic.ask(dead, None, later).is_ok() && traffic.callbacks.is_empty(), "all is forgiven");
    }

    #[test]
    fn a_rate_limit_follows_its_setting() {
        let (now, callback) = (Instant::now(), CallbackId::new());
        let mut traffic = Traffic::default();
        let mut passed =
            |rate, many: usize| (0..many).filter(|_| traffic.ask(callback, rate, now).is_ok()).count();
        assert_eq!(passed(Some(2), 10), 2);
        assert_eq!(passed(Some(3), 10), 3, "a new setting starts anew");
        assert_eq!(passed(None, 10), 10);
    }
}
