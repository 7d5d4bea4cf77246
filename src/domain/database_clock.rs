//! What time it is in the database, told without asking it again.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// For how long the database's time is told from what it was.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// The database's time as it was told, and a moment here before it was asked for. A statement that writes by it says so, and looks whether it is
/// about right: time may have been set there since.
#[derive(Clone, Copy, Default)]
pub struct DatabaseClock(Option<(DateTime<Utc>, Instant)>);

impl DatabaseClock {
    pub fn set(&mut self, told: DateTime<Utc>, asked: Instant) {
        self.0 = Some((told, asked));
    }

    /// The database's time, ahead by at most the time that it took to ask; none if that was too long ago to be told.
    pub fn now(&self, now: Instant) -> Option<DateTime<Utc>> {
        let (told, asked) = self.0?;
        let since = now.saturating_duration_since(asked);
        let elapsed = TimeDelta::from_std(since).ok().filter(|_| since < BELIEVED_FOR)?;
        Some(told + elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_time_is_told_for_a_second() {
        let (mut clock, now) = (DatabaseClock::default(), Instant::now());
        assert_eq!(clock.now(now), None);
        clock.set(DateTime::UNIX_EPOCH, now);
        let after = |ms| clock.now(now + Duration::from_millis(ms));
        let at = |ms| DateTime::from_timestamp_millis(ms);
        assert_eq!([0, 999, 1_000].map(after), [at(0), at(999), None]);
    }
}
