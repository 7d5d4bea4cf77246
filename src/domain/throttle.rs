//! A callback's rate limit: tokens that refill with time, and a place in time for what finds none.
//!
//! Pure: time comes in. Each process keeps its own; N nodes together send at most N times the rate.

use std::time::{Duration, Instant};

/// Longer than a callback that is down is left alone.
const GONE_AFTER: Duration = Duration::from_secs(120);
/// As long as a schedule may wait, and no longer: what is put off for days more is taken for what a clock did, and is made due
/// (`store::queue::pull_in`). Whose place is further away comes back for the rest of the way.
const PUT_OFF_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

#[derive(Debug, Clone)]
pub struct Throttle {
    per_s: u32,
    tokens: f64,
    refilled_at: Instant,
    /// Where the next one that is put off goes.
    next_place: Instant,
    /// Where one goes that comes in vain again.
    next_again: Instant,
    /// When the last token was: those who have places and never come are not waited for for ever.
    taken_at: Instant,
}

impl Throttle {
    /// A full one: a second's worth may go at once.
    pub fn new(per_s: u32, now: Instant) -> Self {
        Self {
            per_s,
            tokens: f64::from(per_s.max(1)),
            refilled_at: now,
            next_place: now,
            next_again: now,
            taken_at: now,
        }
    }

    /// Another rate from now on. What was used is not given back. Places that were given move up with a higher one.
    pub fn set_per_s(&mut self, per_s: u32, now: Instant) {
        if per_s != self.per_s {
            let before = self.refill(now);
            self.per_s = per_s;
            let factor = (before / f64::from(per_s.max(1))).min(1.0);
            for line in [&mut self.next_place, &mut self.next_again] {
                *line = now + line.saturating_duration_since(now).mul_f64(factor);
            }
        }
    }

    /// There is no limit at present.
    pub fn lift(&mut self, now: Instant) {
        (self.next_place, self.next_again) = (now, now);
    }

    /// Takes a token; or says after how long there will be one. Who is refused gets no place in line.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let rate = self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate))
    }

    /// Whether it is as good as new: nothing is lost by forgetting it.
    pub fn is_full(&mut self, now: Instant) -> bool {
        let rate = self.refill(now);
        self.tokens >= rate && !self.has_line(now)
    }

    /// Whether somebody is still to come who was given a place. Where nobody has come for long, they are gone.
    fn has_line(&self, now: Instant) -> bool {
        self.next_place.max(self.next_again) > now
            && now.saturating_duration_since(self.taken_at) < GONE_AFTER
    }

    /// The tokens that time has brought. Returns the rate.
    fn refill(&mut self, now: Instant) -> f64 {
        let rate = f64::from(self.per_s.max(1));
        let elapsed = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate).min(rate);
        self.refilled_at = now;
        rate
    }

    /// Takes a token; or says after how long this one shall try again. Those that are put off are spread at the rate, and who was not put off
    /// yet goes behind those that were. Who was, and comes in vain, is spread with those alone. Nobody is put off for longer than a week: places that
    /// are further away are given when their time has come so near, to those who come back then, in the order in which they do.
    pub fn take(&mut self, was_put_off: bool, now: Instant) -> Result<(), Duration> {
        let rate = self.refill(now);
        if self.tokens >= 1.0 && (was_put_off || self.next_place <= now || !self.has_line(now)) {
            self.tokens -= 1.0;
            self.taken_at = now;
            return Ok(());
        }
        let next_token = now + Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / rate);
        let line = if was_put_off { &mut self.next_again } else { &mut self.next_place };
        *line = (*line + Duration::from_secs_f64(1.0 / rate)).max(next_token);
        Err((*line - now).min(PUT_OFF_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_is_told_when_the_next_token_comes_however_often_they_ask() {
        let now = Instant::now();
        let mut throttle = Throttle::new(10, now);
        assert!(throttle.is_full(now));
        assert_eq!((0..10).filter(|_| throttle.admit(now).is_ok()).count(), 10);
        for _ in 0..1_000 {
            assert_eq!(throttle.admit(now), Err(Duration::from_millis(100)));
        }
        assert!(!throttle.is_full(now));
        let later = now + Duration::from_millis(100);
        assert_eq!(throttle.admit(later), Ok(()));
        assert_eq!(throttle.admit(later), Err(Duration::from_millis(100)));
        let full = later + Duration::from_secs(1);
        assert!(throttle.is_full(full));
        assert_eq!((0..20).filter(|_| throttle.admit(full).is_ok()).count(), 10);
        assert_eq!(
            throttle.admit(now),
            Err(Duration::from_millis(100)),
            "a clock that goes back brings nothing"
        );
    }

    #[test]
    fn a_burst_of_a_second_passes_and_the_rest_is_spread_at_the_rate() {
        let now = Instant::now();
        let mut throttle = Throttle::new(10, now);
        let passed = (0..30).filter(|_| throttle.take(false, now).is_ok()).count();
        assert_eq!(passed, 10);
        let mut fresh = Throttle::new(10, now);
        let put_off: Vec<_> = (0..30).filter_map(|_| fresh.take(false, now).err()).collect();
        assert_eq!(put_off.first(), Some(&Duration::from_millis(100)));
        assert_eq!(put_off.last().map(Duration::as_millis), Some(2_000));
        // They come back when they were told to, and pass.
        let at = |n: u64| now + Duration::from_millis(n * 100);
        assert!((1..=10).all(|n| fresh.take(true, at(n)).is_ok()));
        // Who comes meanwhile goes behind them, although there is a token.
        assert_eq!(fresh.take(false, at(11)), Err(Duration::from_millis(1_000)));
        assert!((11..=21).all(|n| fresh.take(true, at(n)).is_ok()));
        assert_eq!(fresh.take(false, at(22)), Ok(()), "nobody is in front any more");
        // Who comes back in vain does not go behind those who never waited.
        assert!((0..20).all(|_| fresh.take(false, at(22)).is_err()));
        assert_eq!(fresh.take(true, at(22)), Err(Duration::from_millis(100)));
        assert_eq!(fresh.take(true, at(22)), Err(Duration::from_millis(200)));
    }

    #[test]
    fn places_move_up_with_the_rate() {
        let now = Instant::now();
        let mut throttle = Throttle::new(1, now);
        assert_eq!((0..31).filter(|_| throttle.take(false, now).is_ok()).count(), 1);
        let last_place = |throttle: &mut Throttle| throttle.take(false, now).unwrap_err().as_millis();
        assert_eq!(last_place(&mut throttle), 31_000);
        throttle.set_per_s(10, now);
        assert_eq!(last_place(&mut throttle), 3_100 + 100);
        throttle.set_per_s(5, now);
        assert_eq!(last_place(&mut throttle), 3_200 + 200, "those that were given are still to come");
        throttle.lift(now);
        assert_eq!(last_place(&mut throttle), 200);
    }

    #[test]
    fn a_line_is_not_forgotten_before_it_is_over_or_nobody_comes_any_more() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3_600));
        let in_s = |s| now + Duration::from_secs(s);
        let mut throttle = Throttle::new(1, now);
        while throttle.take(false, now).err().is_none_or(|place| place < hour) {}
        // The callback was down meanwhile: nobody asked.
        assert!(!throttle.is_full(in_s(90)));
        assert!(throttle.take(false, in_s(90)).is_err(), "there is a token, and a line");
        assert_eq!(throttle.take(true, in_s(90)), Ok(()));
        assert!(throttle.is_full(in_s(300)));
        assert_eq!(throttle.take(false, in_s(300)), Ok(()));
    }

    #[test]
    fn places_further_away_than_a_week_are_given_when_they_are_near_and_in_their_order() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let week = 7 * 24 * 3_600;
        let mut throttle = Throttle::new(1, now);
        assert_eq!(throttle.take(false, now), Ok(()));
        for place in 1..=week {
            assert_eq!(throttle.take(false, now), Err(place * second));
        }
        for _ in 0..1_000 {
            assert_eq!(throttle.take(false, now), Err(week * second), "a schedule may wait for as long");
        }
        // Whoever has a place comes back to it, the last of them by the end of the week.
        assert!((1..=week).all(|place| throttle.take(true, now + place * second).is_ok()));
        // The others come then, and get theirs; who is new goes behind all of them.
        let then = now + week * second;
        for place in 1..=1_000 {
            assert_eq!(throttle.take(true, then), Err(place * second));
        }
        assert_eq!(throttle.take(false, then), Err(1_001 * second));
        assert!((1..=1_001).all(|place| throttle.take(true, then + place * second).is_ok()));
    }
}
