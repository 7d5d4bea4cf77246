//! Whether the process can do its work: which phase of its life it is in, and which of its workers are alive.
//!
//! A worker holds a [`Heartbeat`] for as long as it runs. However it ends, by returning, by an error or by a panic, the heartbeat is dropped
//! and the check of its name fails from then on, until a worker of the same name starts again. The database is not known here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the process is in its life. Only a serving one wants traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Draining,
}

/// One thing that has to be well, and what is wrong when it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// `None` when all is well.
    pub trouble: Option<String>,
}

/// The registry of a process. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Mutex<Registry>>);

struct Registry {
    phase: Phase,
    workers: Vec<(&'static str, Arc<Pulse>)>,
}

struct Pulse {
    stopped: AtomicBool,
    /// How long it may say nothing; `None` when being there is enough.
    silence_max: Option<Duration>,
    born: Instant,
    /// When it was last heard of, in milliseconds since `born`.
    heard_ms: AtomicU64,
}

/// The life sign of one worker, ended by being dropped.
#[must_use = "the worker counts as dead once this is dropped"]
pub struct Heartbeat(Arc<Pulse>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry { phase: Phase::Starting, workers: Vec::new() })))
    }
}

impl Health {
    /// A worker that is well as long as it runs. One of the same name that ended before is forgotten.
    pub fn worker(&self, name: &'static str) -> Heartbeat {
        self.register(name, None)
    }

    /// A worker that also has to call [`Heartbeat::beat`] at least this often, so that one that hangs is noticed too.
    pub fn beating_worker(&self, name: &'static str, silence_max: Duration) -> Heartbeat {
        self.register(name, Some(silence_max))
    }

    /// The process has everything and wants traffic.
    pub fn serving(&self) {
        self.with(|registry| registry.phase = Phase::Serving);
    }

    /// The process is on its way out: what is in flight is finished, and nothing new is wanted.
    pub fn draining(&self) {
        self.with(|registry| registry.phase = Phase::Draining);
    }

    /// Every check, the phase first, workers in the order in which they came.
    pub fn checks(&self) -> Vec<Check> {
        self.with(|registry| {
            let phase = match registry.phase {
                Phase::Starting => Some("still starting".to_owned()),
                Phase::Serving => None,
                Phase::Draining => Some("stopping".to_owned()),
            };
            let workers =
                registry.workers.iter().map(|(name, pulse)| Check { name, trouble: pulse.trouble() });
            std::iter::once(Check { name: "phase", trouble: phase }).chain(workers).collect()
        })
    }

    fn register(&self, name: &'static str, silence_max: Option<Duration>) -> Heartbeat {
        let pulse = Arc::new(Pulse {
            stopped: AtomicBool::new(false),
            silence_max,
            born: Instant::now(),
            heard_ms: AtomicU64::new(0),
        });
        self.with(|registry| match registry.workers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = pulse.clone(),
            None => registry.workers.push((name, pulse.clone())),
        });
        Heartbeat(pulse)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Registry) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pulse {
    fn trouble(&self) -> Option<String> {
        if self.stopped.load(Ordering::Acquire) {
            return Some("the worker has stopped".to_owned());
        }
        let heard = self.born + Duration::from_millis(self.heard_ms.load(Ordering::Acquire));
        let silence = heard.elapsed();
        let too_long = self.silence_max.is_some_and(|silence_max| silence > silence_max);
        too_long.then(|| format!("the worker has said nothing for {} s", silence.as_secs()))
    }
}

impl Heartbeat {
    /// Says that the worker is at work.
    pub fn beat(&self) {
        let since_ms = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.heard_ms.store(since_ms, Ordering::Release);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(health: &Health) -> Vec<&'static str> {
        health.checks().into_iter().filter(|check| check.trouble.is_some()).map(|check| check.name).collect()
    }

    #[test]
    fn a_worker_is_well_until_it_ends_however_it_ends() {
        let health = Health::default();
        health.serving();
        let returns = health.worker("returns");
        let panics = health.worker("panics");
        assert_eq!(failing(&health), [""; 0]);
        drop(returns);
        assert_eq!(failing(&health), ["returns"]);
        let ended = std::thread::spawn(move || {
            let _panics = panics;
            panic!("as a test");
        });
        assert!(ended.join().is_err());
        assert_eq!(failing(&health), ["returns", "panics"]);
    }

    #[test]
    fn a_worker_that_starts_again_is_well_whenever_the_old_one_goes() {
        let health = Health::default();
        health.serving();
        let old = health.worker("one");
        let new = health.worker("one");
        drop(old);
        assert_eq!(failing(&health), [""; 0]);
        drop(new);
        assert_eq!(failing(&health), ["one"]);
    }

    #[test]
    fn a_worker_that_hangs_is_noticed_and_one_that_beats_is_not() {
        let health = Health::default();
        health.serving();
        let _hangs = health.beating_worker("hangs", Duration::ZERO);
        let beats = health.beating_worker("beats", Duration::from_secs(3_600));
        beats.beat();
        while failing(&health).is_empty() {
            std::hint::spin_loop();
        }
        assert_eq!(failing(&health), ["hangs"]);
    }

    #[test]
    fn only_a_serving_process_wants_traffic() {
        let health = Health::default();
        assert_eq!(failing(&health), ["phase"]);
        health.serving();
        assert_eq!(failing(&health), [""; 0]);
        health.draining();
        assert_eq!(failing(&health), ["phase"]);
    }
}
