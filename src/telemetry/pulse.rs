//! Whether a worker gets done what it tries again and again. That it does not is said when it begins, then once a minute, and it is said when it does
//! again: while a database is away, everybody who needs it would else fill the log with the same line.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::Error;

const SAY_EVERY: Duration = Duration::from_secs(60);

/// Of one kind of work. Cheap to clone.
#[derive(Clone)]
pub struct Pulse(Arc<Inner>);

struct Inner {
    work: &'static str,
    /// Whether there is something in `failing`: asked each time that something was done, which is often.
    fails: AtomicBool,
    failing: Mutex<Option<Failing>>,
}

struct Failing {
    since: Instant,
    said_at: Instant,
}

impl Pulse {
    pub(super) fn new(work: &'static str) -> Self {
        Self(Arc::new(Inner { work, fails: AtomicBool::new(false), failing: Mutex::new(None) }))
    }

    pub fn work(&self) -> &'static str {
        self.0.work
    }

    /// It was done, or there was nothing to do.
    pub fn well(&self) {
        if !self.0.fails.swap(false, Ordering::AcqRel) {
            return;
        }
        let failing = self.failing().take();
        if let Some(failing) = failing {
            let for_s = failing.since.elapsed().as_secs();
            tracing::info!(work = self.0.work, for_s, "what could not be done is done again");
        }
    }

    /// It could not be done, and will be tried again. `trouble` says what could not.
    pub fn failed(&self, error: &Error, trouble: &'static str) {
        let now = Instant::now();
        let mut failing = self.failing();
        self.0.fails.store(true, Ordering::Release);
        let (since, is_news) = match &mut *failing {
            Some(failing) if now.duration_since(failing.said_at) < SAY_EVERY => (failing.since, false),
            Some(failing) => {
                failing.said_at = now;
                (failing.since, true)
            }
            none => {
                *none = Some(Failing { since: now, said_at: now });
                (now, true)
            }
        };
        drop(failing);
        if is_news {
            let for_s = now.duration_since(since).as_secs();
            tracing::warn!(error = %error.chain(), work = self.0.work, for_s, "{trouble}; it is tried again");
        }
    }

    pub fn is_failing(&self) -> bool {
        self.0.fails.load(Ordering::Acquire)
    }

    /// For how long it has not been done, with a failure at the beginning and no success since.
    pub fn failing_for(&self) -> Duration {
        self.failing().as_ref().map_or(Duration::ZERO, |failing| failing.since.elapsed())
    }

    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.0.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logging::tests::Lines;

    #[test]
    fn a_trouble_is_said_once_and_so_is_its_end() {
        let (pulse, lines) = (Pulse::new("testing"), Lines::default());
        let away = Error::unavailable("nobody there");
        tracing::subscriber::with_default(lines.log(), || {
            pulse.well();
            assert_eq!(pulse.failing_for(), Duration::ZERO);
            for _ in 0..3 {
                pulse.failed(&away, "this cannot be tested now");
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(pulse.failing_for() >= Duration::from_millis(6));
            pulse.well();
            pulse.well();
        });
        assert_eq!(pulse.failing_for(), Duration::ZERO);
        let [began, ended] = &lines.all()[..] else { panic!("{:?}", lines.all()) };
        assert!(began.contains("WARN") && began.contains("this cannot be tested now"), "{began}");
        assert!(began.contains("nobody there") && began.contains("testing"), "{began}");
        assert!(ended.contains("INFO") && ended.contains("testing"), "{ended}");
    }
}
