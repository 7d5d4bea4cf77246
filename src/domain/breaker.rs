//! A circuit breaker: when a callback fails again and again, or asks for time, it is left alone for a while, and then asked once.
//!
//! Pure: time, outcomes and chance come in.

use std::time::{Duration, Instant};

use super::attempt::Outcome;

/// Failures in a row before it opens: fewer say little about a receiver.
const FAILURES_MIN: u32 = 10;
const OPEN_FOR_MIN: Duration = Duration::from_secs(5);
const OPEN_FOR_MAX: Duration = Duration::from_secs(60);
/// Spells are longer by up to this part of them, so that callbacks that failed together are not asked together.
const SPREAD: f64 = 0.2;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Everything passes; so many failures in a row were seen.
    Closed { failures: u32 },
    /// Nothing passes until then. `asked` if the receiver wants it so.
    Open { until: Instant, asked: bool, spell: Spell },
    /// One is out as a probe, and its outcome decides.
    HalfOpen(Spell),
}

/// What a probe that fails goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spell {
    /// In a row. Fewer than [`FAILURES_MIN`] where the receiver asked for time before there were so many.
    failures: u32,
    open_for: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker(State);

/// How it stands, for who does not ask to start a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Closed,
    /// Open, and it is time for a probe.
    ProbeDue,
    /// Nothing may start.
    Shut,
}

/// Whether a post may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Granted,
    /// Not before this long has passed.
    Denied(Duration),
}

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Breaker {
    /// Asks to start a post. A grant after an open spell is for one probe; until its outcome is known the others are denied.
    pub fn ask(&mut self, now: Instant) -> Permission {
        match self.0 {
            State::Closed { .. } => Permission::Granted,
            State::Open { until, spell, .. } if now >= until => {
                self.0 = State::HalfOpen(spell);
                Permission::Granted
            }
            State::Open { until, .. } => Permission::Denied(until - now),
            State::HalfOpen(spell) => Permission::Denied(spell.open_for),
        }
    }

    pub fn standing(&self, now: Instant) -> Standing {
        match self.0 {
            State::Closed { .. } => Standing::Closed,
            State::Open { until, .. } if now >= until => Standing::ProbeDue,
            State::Open { .. } | State::HalfOpen(_) => Standing::Shut,
        }
    }

    /// Takes note of an outcome. One of a post that was under way when it opened changes nothing, unless it is a success: that closes it, but not while
    /// the receiver wants to be left alone. `chance` is a fresh number in `0.0..1.0`.
    pub fn note(&mut self, failed: bool, now: Instant, chance: f64) {
        self.0 = match (&self.0, failed) {
            (State::Open { until, asked: true, .. }, false) if now < *until => {
                let spell = Spell { failures: 0, open_for: OPEN_FOR_MIN };
                State::Open { until: *until, asked: true, spell }
            }
            (_, false) => State::Closed { failures: 0 },
            (State::Closed { failures } | State::HalfOpen(Spell { failures, .. }), true)
                if failures + 1 < FAILURES_MIN =>
            {
                State::Closed { failures: failures + 1 }
            }
            (State::HalfOpen(Spell { failures: FAILURES_MIN.., open_for }), true) => {
                open((*open_for * 2).min(OPEN_FOR_MAX), now, chance)
            }
            (State::Closed { .. } | State::HalfOpen(_), true) => open(OPEN_FOR_MIN, now, chance),
            (open @ State::Open { .. }, true) => open.clone(),
        }
    }

    /// Opens it for as long as the receiver asked to be left alone, but for no longer than any spell may be. It never shortens one.
    pub fn leave_alone(&mut self, wanted: Duration, now: Instant, chance: f64) {
        let wanted = now + spread(wanted.min(OPEN_FOR_MAX), chance);
        let (until, spell) = match self.0 {
            State::Closed { failures } => (wanted, Spell { failures, open_for: OPEN_FOR_MIN }),
            State::Open { until, spell, .. } => (until.max(wanted), spell),
            State::HalfOpen(spell) => (wanted, spell),
        };
        self.0 = State::Open { until, asked: true, spell };
    }

    /// A granted post was not started after all: if it was the probe, another may go.
    pub fn withdraw(&mut self, now: Instant) {
        if let State::HalfOpen(spell) = self.0 {
            self.0 = State::Open { until: now, asked: false, spell };
        }
    }

    /// Nothing worth remembering.
    pub fn is_at_rest(&self) -> bool {
        self.0 == State::Closed { failures: 0 }
    }
}

fn open(open_for: Duration, now: Instant, chance: f64) -> State {
    let until = now + spread(open_for, chance);
    State::Open { until, asked: false, spell: Spell { failures: FAILURES_MIN, open_for } }
}

fn spread(open_for: Duration, chance: f64) -> Duration {
    open_for.mul_f64(1.0 + SPREAD * chance.clamp(0.0, 1.0))
}

/// Whether an outcome speaks against the receiver as such. A 4xx is about what was sent, not about who received it.
pub fn speaks_against(outcome: Outcome, status: Option<u16>) -> bool {
    match outcome {
        // What may not be called is treated as what cannot be: who could tell them apart could look around in our network.
        Outcome::TimedOut | Outcome::Unreachable | Outcome::Blocked => true,
        Outcome::Refused => status.is_some_and(|status| status == 429 || status >= 500),
        Outcome::Delivered | Outcome::Cancelled | Outcome::Expired | Outcome::Crashed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MIN {
            assert_eq!(breaker.ask(now), Permission::Granted);
            breaker.note(true, now, 0.0);
        }
        breaker
    }

    #[test]
    fn rule_20_it_opens_after_a_minimum_of_failures_in_a_row() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_MIN {
            breaker.note(true, now, 0.0);
        }
        breaker.note(false, now, 0.0);
        assert!(breaker.is_at_rest(), "a success starts the count anew");
        assert_eq!(opened(now).ask(now), Permission::Denied(OPEN_FOR_MIN));
    }

    #[test]
    fn rule_20_one_probe_at_a_time_and_the_spells_double_to_a_minute() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for seconds in [5, 10, 20, 40, 60, 60] {
            assert_eq!(breaker.ask(now), Permission::Denied(Duration::from_secs(seconds)));
            assert_eq!(breaker.standing(now), Standing::Shut);
            now += Duration::from_secs(seconds);
            assert_eq!(breaker.standing(now), Standing::ProbeDue);
            assert_eq!(breaker.ask(now), Permission::Granted, "the probe");
            assert_eq!(breaker.standing(now), Standing::Shut);
            assert!(matches!(breaker.ask(now), Permission::Denied(_)), "and only one");
            breaker.note(true, now, 0.0);
        }
        now += OPEN_FOR_MAX;
        assert_eq!(breaker.ask(now), Permission::Granted);
        breaker.note(false, now, 0.0);
        assert!(breaker.is_at_rest());
        assert_eq!(breaker.standing(now), Standing::Closed);
    }

    #[test]
    fn a_probe_that_was_not_sent_lets_another_go() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + OPEN_FOR_MIN;
        assert_eq!(breaker.ask(later), Permission::Granted);
        breaker.withdraw(later);
        assert_eq!(breaker.ask(later), Permission::Granted);
    }

    #[test]
    fn late_failures_do_not_lengthen_the_spell() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.note(true, now + Duration::from_secs(1), 0.0);
        assert_eq!(breaker.ask(now + OPEN_FOR_MIN), Permission::Granted);
    }

    #[test]
    fn rule_20_spells_are_spread_and_never_shorter() {
        let now = Instant::now();
        for (chance, ms) in [(0.0, 5_000), (0.5, 5_500), (1.0, 6_000), (7.0, 6_000)] {
            let mut breaker = Breaker::default();
            (0..FAILURES_MIN).for_each(|_| breaker.note(true, now, chance));
            assert_eq!(breaker.ask(now), Permission::Denied(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn rule_21_who_asks_for_time_gets_it_up_to_a_minute_and_is_then_asked_once() {
        let (now, s) = (Instant::now(), Duration::from_secs);
        for (asked, given) in [(s(1), s(1)), (s(30), s(30)), (s(86_400), OPEN_FOR_MAX)] {
            let mut breaker = Breaker::default();
            breaker.note(true, now, 0.0);
            breaker.leave_alone(asked, now, 0.0);
            assert_eq!(breaker.ask(now), Permission::Denied(given));
            assert_eq!(breaker.ask(now + given), Permission::Granted, "the probe");
            assert!(matches!(breaker.ask(now + given), Permission::Denied(_)), "and only one");
            breaker.note(false, now + given, 0.0);
            assert!(breaker.is_at_rest());
        }
        let mut breaker = opened(now);
        breaker.leave_alone(s(1), now, 0.0);
        assert_eq!(breaker.ask(now), Permission::Denied(OPEN_FOR_MIN), "it shortens nothing");
        breaker.leave_alone(s(10), now, 1.0);
        assert_eq!(breaker.ask(now), Permission::Denied(s(12)), "and is spread as well");
    }

    #[test]
    fn rule_21_who_asks_for_time_again_and_again_gets_no_more_of_it_until_there_were_enough_failures() {
        let (mut now, s) = (Instant::now(), Duration::from_secs);
        let mut breaker = Breaker::default();
        for failure in 1..=FAILURES_MIN + 2 {
            assert_eq!(breaker.ask(now), Permission::Granted);
            breaker.note(true, now, 0.0);
            breaker.leave_alone(s(1), now, 0.0);
            let spell = match failure.checked_sub(FAILURES_MIN) {
                None => s(1),
                Some(beyond) => OPEN_FOR_MIN * 2_u32.pow(beyond),
            };
            assert_eq!(breaker.ask(now), Permission::Denied(spell), "failure {failure}");
            now += spell;
        }
        let mut breaker = Breaker::default();
        breaker.note(true, now, 0.0);
        breaker.leave_alone(s(1), now, 0.0);
        assert_eq!(breaker.ask(now + s(1)), Permission::Granted);
        breaker.note(true, now + s(1), 0.0);
        assert_eq!(
            breaker.standing(now + s(1)),
            Standing::Closed,
            "two failures are few, and nobody asks any more"
        );
    }

    #[test]
    fn rule_21_who_wants_to_be_left_alone_is_whatever_comes_of_posts_under_way() {
        let (now, s) = (Instant::now(), Duration::from_secs);
        let mut breaker = opened(now);
        breaker.note(false, now, 0.0);
        assert!(breaker.is_at_rest(), "who never asked is well again");
        breaker.leave_alone(s(10), now, 0.0);
        breaker.note(false, now + s(1), 0.0);
        assert_eq!(breaker.ask(now + s(1)), Permission::Denied(s(9)));
        assert_eq!(breaker.ask(now + s(10)), Permission::Granted, "the probe");
        breaker.note(false, now + s(10), 0.0);
        assert!(breaker.is_at_rest());
    }

    #[test]
    fn rule_06_what_may_not_be_called_speaks_against_its_callback_like_what_cannot_be_reached() {
        for outcome in [Outcome::Blocked, Outcome::Unreachable, Outcome::TimedOut] {
            assert!(speaks_against(outcome, None), "{outcome:?}");
        }
        assert!(!speaks_against(Outcome::Refused, Some(404)) && speaks_against(Outcome::Refused, Some(503)));
    }
}
