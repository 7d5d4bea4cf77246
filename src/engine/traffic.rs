//! Whether a callback may be called now: its breaker, its rate limit, and whether we are cut off ourselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::domain::breaker::{Breaker, Permission, Standing};
use crate::domain::id::{CallbackId, IdMap};
use crate::domain::outage::OutageWatch;
use crate::domain::throttle::Throttle;

struct Callback {
    breaker: Breaker,
    noted_at: Instant,
}

/// What was seen of a callback that nothing is sent to any more is forgotten after this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

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
    /// Whether a connection was had; nothing, if none was tried.
    pub reached: Option<bool>,
    /// Whether the outcome speaks against the receiver.
    pub failed: bool,
    /// Whether the receiver asked us to slow down.
    pub slow_down: bool,
    /// For how long it asked to be left alone.
    pub leave_alone: Option<Duration>,
}

#[derive(Default)]
pub struct Traffic {
    callbacks: IdMap<CallbackId, Callback>,
    /// Of the callbacks that have a rate limit and were sent something lately: those who share a callback share its rate as they do its breaker.
    throttles: IdMap<CallbackId, Throttle>,
    /// What the operator lets any callback have.
    callback_rate_per_s: Option<u32>,
    outage: OutageWatch,
    cut_off: Arc<AtomicBool>,
}

impl Traffic {
    /// With so many posts a second for any callback, if there is a bound.
    pub fn new(callback_rate_per_s: Option<u32>) -> Self {
        Self { callback_rate_per_s, ..Self::default() }
    }

    /// Whether the present outage is taken for our own; shared with the posts under way.
    pub fn cut_off(&self) -> Arc<AtomicBool> {
        self.cut_off.clone()
    }

    /// What a callback would be granted, without asking for it.
    pub fn standing(&self, callback: CallbackId, now: Instant) -> Standing {
        self.callbacks.get(&callback).map_or(Standing::Closed, |state| state.breaker.standing(now))
    }

    /// Asks to start a post to a callback whose partner wants no more than `rate_per_s`. `was_put_off`: it had to wait before. Errors: why it may not.
    pub fn ask(
        &mut self,
        callback: CallbackId,
        (rate_per_s, was_put_off): (Option<u32>, bool),
        now: Instant,
    ) -> Result<(), Refusal> {
        if let Some(state) = self.callbacks.get_mut(&callback)
            && let Permission::Denied(_) = state.breaker.ask(now)
        {
            return Err(Refusal::Open);
        }
        let rate_per_s = rate_per_s.into_iter().chain(self.callback_rate_per_s).min();
        let taken = take(&mut self.throttles, callback, (rate_per_s, was_put_off), now);
        taken.inspect_err(|_| self.withdraw(callback, now))
    }

    /// Takes note of what a post showed. `chance` is a fresh number in `0.0..1.0`.
    pub fn note(&mut self, callback: CallbackId, shown: &Shown, now: Instant, chance: f64) {
        if let Some(reached) = shown.reached {
            self.outage.note(&shown.host, reached, now);
        }
        self.look(now);
        if shown.failed {
            self.breaker(callback, now).note(true, now, chance);
        } else if let Some(state) = self.callbacks.get_mut(&callback) {
            state.breaker.note(false, now, chance);
            if state.breaker.is_at_rest() {
                self.callbacks.remove(&callback);
            }
        }
        if let Some(asked) = shown.leave_alone {
            self.breaker(callback, now).leave_alone(asked, now, chance);
        }
    }

    fn breaker(&mut self, callback: CallbackId, now: Instant) -> &mut Breaker {
        let fresh = || Callback { breaker: Breaker::default(), noted_at: now };
        let state = self.callbacks.entry(callback).or_insert_with(fresh);
        state.noted_at = now;
        &mut state.breaker
    }

    /// Judges what was seen of late: an outage that nothing more is seen of is over.
    pub fn look(&mut self, now: Instant) {
        let cut_off = self.outage.is_ours(now);
        if self.cut_off.swap(cut_off, Ordering::Relaxed) != cut_off {
            match cut_off {
                true => {
                    tracing::warn!("hardly any host can be reached: until one can, no retry budget is spent")
                }
                false => {
                    tracing::info!("hosts can be reached again: failures count against their budgets again")
                }
            }
        }
    }

    /// Forgets the limits that nobody is near, and callbacks that nothing is sent to any more.
    pub fn forget(&mut self, now: Instant) {
        self.throttles.retain(|_, throttle| !throttle.is_full(now));
        self.callbacks.retain(|_, state| now.saturating_duration_since(state.noted_at) < FORGOTTEN_AFTER);
    }

    /// A post that was granted was not made.
    pub fn withdraw(&mut self, callback: CallbackId, now: Instant) {
        if let Some(state) = self.callbacks.get_mut(&callback) {
            state.breaker.withdraw(now);
        }
    }
}

/// Takes a place of a callback, if that has a rate limit. Errors: after how long the limit has room again.
fn take(
    throttles: &mut IdMap<CallbackId, Throttle>,
    whose: CallbackId,
    (rate_per_s, was_put_off): (Option<u32>, bool),
    now: Instant,
) -> Result<(), Refusal> {
    let Some(per_s) = rate_per_s else {
        if let Some(throttle) = throttles.get_mut(&whose) {
            throttle.lift(now);
        }
        return Ok(());
    };
    let throttle = throttles.entry(whose).or_insert_with(|| Throttle::new(per_s, now));
    throttle.set_per_s(per_s, now);
    throttle.take(was_put_off, now).map_err(Refusal::Turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(failed: bool) -> Shown {
        Shown { host: "host".into(), reached: Some(true), failed, slow_down: false, leave_alone: None }
    }

    #[test]
    fn rule_20_an_open_breaker_is_its_callbacks_and_leaves_others_alone() {
        let (now, dead, healthy) = (Instant::now(), CallbackId::new(), CallbackId::new());
        let mut traffic = Traffic::default();
        for _ in 0..10 {
            assert!(traffic.ask(dead, (None, false), now).is_ok());
            traffic.note(dead, &shown(true), now, 0.0);
        }
        assert_eq!(traffic.ask(dead, (None, false), now), Err(Refusal::Open));
        assert_eq!(traffic.standing(dead, now), Standing::Shut);
        assert!(traffic.ask(healthy, (None, false), now).is_ok());
        assert_eq!(traffic.standing(healthy, now), Standing::Closed);
        let later = now + Duration::from_secs(5);
        assert_eq!(traffic.standing(dead, later), Standing::ProbeDue);
        assert!(traffic.ask(dead, (None, false), later).is_ok(), "the probe");
        traffic.note(dead, &shown(false), later, 0.0);
        assert!(
            traffic.ask(dead, (None, false), later).is_ok() && traffic.callbacks.is_empty(),
            "all is forgiven"
        );
    }

    #[test]
    fn a_callbacks_rate_is_the_partners_or_the_operators_whichever_is_less() {
        let now = Instant::now();
        let passed = |traffic: &mut Traffic, callback, rate| {
            (0..10).filter(|_| traffic.ask(callback, (rate, true), now).is_ok()).count()
        };
        let (mut free, callback) = (Traffic::default(), CallbackId::new());
        assert_eq!(passed(&mut free, callback, Some(2)), 2);
        assert_eq!(passed(&mut free, callback, Some(2)), 0);
        assert_eq!(
            passed(&mut free, callback, Some(3)),
            0,
            "a new setting gives nothing that time has not brought"
        );
        assert_eq!(passed(&mut free, callback, None), 10);
        assert_eq!(passed(&mut free, callback, Some(3)), 0, "nor does taking it away for a moment");
        let mut bounded = Traffic::new(Some(4));
        for (rate, expected) in [(Some(3), 3), (Some(5), 4), (None, 4)] {
            assert_eq!(passed(&mut bounded, CallbackId::new(), rate), expected, "{rate:?}");
        }
    }

    #[test]
    fn limits_that_nobody_is_near_are_forgotten() {
        let (now, callback) = (Instant::now(), CallbackId::new());
        let mut traffic = Traffic::new(Some(4));
        assert!(traffic.ask(callback, (None, false), now).is_ok());
        traffic.forget(now);
        assert_eq!(traffic.throttles.len(), 1);
        traffic.forget(now + Duration::from_secs(1));
        assert!(traffic.throttles.is_empty());
    }

    #[test]
    fn rule_20_an_outage_that_nothing_is_seen_of_is_over() {
        let now = Instant::now();
        let mut traffic = Traffic::default();
        let cut_off = traffic.cut_off();
        for host in 0..20 {
            let shown = Shown { host: format!("host-{host}").into(), reached: Some(false), ..shown(true) };
            traffic.note(CallbackId::new(), &shown, now, 0.0);
        }
        assert!(cut_off.load(Ordering::Relaxed));
        traffic.look(now + Duration::from_secs(9));
        assert!(cut_off.load(Ordering::Relaxed));
        traffic.look(now + Duration::from_secs(10));
        assert!(!cut_off.load(Ordering::Relaxed), "what fails now is not excused by what was");
    }

    #[test]
    fn rule_21_a_callback_that_asks_for_time_is_left_alone_and_others_are_not() {
        let (now, busy, other) = (Instant::now(), CallbackId::new(), CallbackId::new());
        let mut traffic = Traffic::default();
        let asked = Shown { slow_down: true, leave_alone: Some(Duration::from_secs(30)), ..shown(true) };
        traffic.note(busy, &asked, now, 0.0);
        assert_eq!(traffic.ask(busy, (None, false), now), Err(Refusal::Open));
        assert!(traffic.ask(other, (None, false), now).is_ok());
        let later = now + Duration::from_secs(30);
        assert_eq!(traffic.standing(busy, later), Standing::ProbeDue);
        assert!(traffic.ask(busy, (None, false), later).is_ok());
        assert_eq!(traffic.ask(busy, (None, false), later), Err(Refusal::Open), "the probe alone");
        traffic.note(busy, &shown(false), later, 0.0);
        assert!(traffic.ask(busy, (None, false), later).is_ok());
    }
}
