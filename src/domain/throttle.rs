//! A rate limit: tokens that refill with time, and a place in time for what finds none and has to be given one.
//!
//! Pure: time comes in. Each process keeps its own; N nodes together send at most N times the rate.

use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Throttle {
    per_s: u32,
    tokens: f64,
    refilled_at: Instant,
    /// Where the next one that is given a place goes.
    next_place: Instant,
    /// Whether there is no limit at present.
    lifted: bool,
}

impl Throttle {
    /// A full one: a second's worth may go at once.
    pub fn new(per_s: u32, now: Instant) -> Self {
        Self { per_s, tokens: f64::from(per_s.max(1)), refilled_at: now, next_place: now, lifted: false }
    }

    /// Another rate from now on. What was used is not given back.
    pub fn set_per_s(&mut self, per_s: u32, now: Instant) {
        self.lifted = false;
        if per_s != self.per_s {
            self.refill(now);
            self.per_s = per_s;
        }
    }

    /// No limit until there is a rate again. What was used is remembered.
    pub fn lift(&mut self) {
        self.lifted = true;
    }

    /// How many tokens there are.
    pub fn room(&mut self, now: Instant) -> usize {
        self.refill(now);
        if self.lifted { usize::MAX } else { self.tokens as usize }
    }

    /// Takes a token; or says after how long there will be one. Who is refused gets no place in line.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.again_after(now) {
            Duration::ZERO => {
                self.tokens -= 1.0;
                Ok(())
            }
            after => Err(after),
        }
    }

    /// After how long there is a token.
    pub fn again_after(&mut self, now: Instant) -> Duration {
        let rate = self.refill(now);
        Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / rate)
    }

    /// Whether it is as good as new: nothing is lost by forgetting it.
    pub fn is_full(&mut self, now: Instant) -> bool {
        let rate = self.refill(now);
        self.tokens >= rate
    }

    /// The tokens that time has brought. Returns the rate.
    fn refill(&mut self, now: Instant) -> f64 {
        let rate = f64::from(self.per_s.max(1));
        let elapsed = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate).min(rate);
        self.refilled_at = now;
        rate
    }

    /// After how long there will be a token that nobody has been given before. Who gets one of these asks again then.
    pub fn place(&mut self, now: Instant) -> Duration {
        let rate = self.refill(now);
        self.next_place = self.next_place.max(now) + Duration::from_secs_f64(1.0 / rate);
        self.next_place - now
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
        assert!(throttle.is_full(later + Duration::from_secs(1)));
        assert!(
            throttle.admit(now).is_err() || throttle.admit(now).is_ok(),
            "a clock that goes back is no panic"
        );
    }

    #[test]
    fn places_are_spread_at_the_rate() {
        let now = Instant::now();
        let mut throttle = Throttle::new(10, now);
        assert_eq!((0..10).filter(|_| throttle.admit(now).is_ok()).count(), 10);
        let put_off: Vec<_> = (0..20).map(|_| throttle.place(now).as_millis()).collect();
        assert_eq!((put_off[0], put_off[19]), (100, 2_000));
        // They come back when they were told to, and pass.
        assert!((1..=20).all(|n| throttle.admit(now + Duration::from_millis(n * 100)).is_ok()));
    }

    #[test]
    fn a_limit_that_is_lifted_has_room_for_all_and_gives_nothing_when_it_is_back() {
        let now = Instant::now();
        let mut throttle = Throttle::new(10, now);
        assert_eq!(throttle.room(now), 10);
        assert_eq!((0..20).filter(|_| throttle.admit(now).is_ok()).count(), 10);
        throttle.lift();
        assert_eq!(throttle.room(now), usize::MAX);
        throttle.set_per_s(5, now);
        assert_eq!(throttle.room(now), 0);
        assert_eq!(throttle.room(now + Duration::from_millis(600)), 3);
    }
}
