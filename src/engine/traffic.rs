//! Whether a callback may be called now: its breaker, its rate limit, and whether we are cut off ourselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::domain::breaker::{Breaker, Permission, Standing};
use crate::domain::id::{CallbackId, SubscriptionId};
use crate::domain::outage::OutageWatch;
use crate::domain::throttle::Throttle;

#[derive(Default)]
struct Callback {
    breaker: Breaker,
}

/// Why a post may not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The breaker is open: whatever is due for this callback waits.
    Open,
    /// The rate is reached: this one has its turn after so long.
    Turn(Duration),
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
    /// Of the subscriptions that have a rate limit: those that share a callback share its breaker, and each keeps its own rate.
    throttles: HashMap<SubscriptionId, Throttle>,
    outage: OutageWatch,
    cut_off: Arc<AtomicBool>,
}

impl Traffic {
    /// Whether the present outage is taken for our own; shared with the posts under way.
    pub fn cut_off(&self) -> Arc<AtomicBool> {
        self.cut_off.clone()
    }

    /// What a callback would be granted, without asking for it.
    pub fn standing(&self, callback: CallbackId, now: Instant) -> Standing {
        self.callbacks.get(&callback).map_or(Standing::Closed, |state| state.breaker.standing(now))
    }

    /// Asks to start a post. Errors: why it may not.
    pub fn ask(
        &mut self,
        callback: CallbackId,
        subscription: SubscriptionId,
        rate_per_s: Option<u32>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if let Some(state) = self.callbacks.get_mut(&callback)
            && let Permission::Denied(_) = state.breaker.ask(now)
        {
            return Err(Refusal::Open);
        }
        self.take(subscription, rate_per_s, now).inspect_err(|_| self.withdraw(callback, now))
    }

    /// Errors: after how long the rate limit has room again.
    fn take(
        &mut self,
        subscription: SubscriptionId,
        rate_per_s: Option<u32>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(per_s) = rate_per_s else {
            if !self.throttles.is_empty() {
                self.throttles.remove(&subscription);
            }
            return Ok(());
        };
        let throttle = self.throttles.entry(subscription).or_insert_with(|| Throttle::new(per_s, now));
        if throttle.per_s() != per_s {
            *throttle = Throttle::new(per_s, now);
        }
        throttle.take(now).map_err(Refusal::Turn)
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
            if state.breaker.is_at_rest() {
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
    fn rule_20_an_open_breaker_is_its_callbacks_and_leaves_others_alone() {
        let (now, dead, healthy) = (Instant::now(), CallbackId::new(), CallbackId::new());
        let (one, other) = (SubscriptionId::new(), SubscriptionId::new());
        let mut traffic = Traffic::default();
        for _ in 0..10 {
            assert!(traffic.ask(dead, one, None, now).is_ok());
            traffic.note(dead, &shown(true), now);
        }
        // Whichever of those who share the callback asks.
        for who in [one, other] {
            assert_eq!(traffic.ask(dead, who, None, now), Err(Refusal::Open));
        }
        assert_eq!(traffic.standing(dead, now), Standing::Shut);
        assert!(traffic.ask(healthy, other, None, now).is_ok());
        assert_eq!(traffic.standing(healthy, now), Standing::Closed);
        let later = now + Duration::from_secs(5);
        assert_eq!(traffic.standing(dead, later), Standing::ProbeDue);
        assert!(traffic.ask(dead, one, None, later).is_ok(), "the probe");
        traffic.note(dead, &shown(false), later);
        assert!(
            traffic.ask(dead, one, None, later).is_ok() && traffic.callbacks.is_empty(),
            "all is forgiven"
        );
    }

    #[test]
    fn a_rate_limit_follows_its_setting_and_is_not_lost_between_those_who_share_a_callback() {
        let (now, callback) = (Instant::now(), CallbackId::new());
        let (limited, other, free) = (SubscriptionId::new(), SubscriptionId::new(), SubscriptionId::new());
        let mut traffic = Traffic::default();
        let mut passed = |who, rate, many: usize| {
            (0..many).filter(|_| traffic.ask(callback, who, rate, now).is_ok()).count()
        };
        assert_eq!(passed(limited, Some(2), 10), 2);
        assert_eq!((passed(other, Some(3), 10), passed(free, None, 10)), (3, 10));
        assert_eq!(passed(limited, Some(2), 10), 0);
        assert_eq!(passed(limited, Some(3), 10), 3, "a new setting starts anew");
        assert_eq!(passed(limited, None, 10), 10);
    }
}
