//! A callback's rate limit: tokens that refill with time, and a place in time for what finds none.
//!
//! Pure: time comes in. Each process keeps its own; N nodes together send at most N times the rate.

use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Throttle {
    per_s: u32,
    tokens: f64,
    refilled_at: Instant,
    /// Where the next one that is put off goes.
    next_place: Instant,
}

impl Throttle {
    /// A full one: a second's worth may go at once.
    pub fn new(per_s: u32, now: Instant) -> Self {
        Self { per_s, tokens: f64::from(per_s.max(1)), refilled_at: now, next_place: now }
    }

    /// Another rate from now on. What was used is not given back.
    pub fn set_per_s(&mut self, per_s: u32, now: Instant) {
        if per_s != self.per_s {
            self.refill(now);
            self.per_s = per_s;
        }
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

    /// Takes a token; or says after how long this one shall try again. Those that are put off are spread at the rate.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let rate = self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        self.next_place = self.next_place.max(now) + Duration::from_secs_f64(1.0 / rate);
        Err(self.next_place - now)
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
    fn a_burst_of_a_second_passes_and_the_rest_is_spread_at_the_rate() {
        let now = Instant::now();
        let mut throttle = Throttle::new(10, now);
        let passed = (0..30).filter(|_| throttle.take(now).is_ok()).count();
        assert_eq!(passed, 10);
        let mut fresh = Throttle::new(10, now);
        let put_off: Vec<_> = (0..30).filter_map(|_| fresh.take(now).err()).collect();
        assert_eq!(put_off.first(), Some(&Duration::from_millis(100)));
        assert_eq!(put_off.last().map(Duration::as_millis), Some(2_000));
        // They come back when they were told to, and pass.
        assert!((1..=20).all(|n| fresh.take(now + Duration::from_millis(n * 100)).is_ok()));
    }
}
