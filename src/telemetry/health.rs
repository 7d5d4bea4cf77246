//! Whether the process can do its work: which phase of its life it is in, and which of its workers are alive.
//!
//! A worker holds a [`Heartbeat`] for as long as it runs. However it ends, by returning, by an error or by a panic, the heartbeat is dropped
//! and the check of its name fails from then on, until a worker of the same name starts again. The database is not known here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Each with whether it has stopped.
    workers: Vec<(&'static str, Arc<AtomicBool>)>,
}

/// The life sign of one worker, ended by being dropped.
#[must_use = "the worker counts as dead once this is dropped"]
pub struct Heartbeat(Arc<AtomicBool>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry { phase: Phase::Starting, workers: Vec::new() })))
    }
}

impl Health {
    /// A worker that is well as long as it runs. One of the same name that ended before is forgotten.
    pub fn worker(&self, name: &'static str) -> Heartbeat {
        let stopped = Arc::new(AtomicBool::new(false));
        self.with(|registry| match registry.workers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = stopped.clone(),
            None => registry.workers.push((name, stopped.clone())),
        });
        Heartbeat(stopped)
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
            let trouble = |stopped: &AtomicBool| {
                stopped.load(Ordering::Acquire).then(|| "the worker has stopped".to_owned())
            };
            let workers =
                registry.workers.iter().map(|(name, stopped)| Check { name, trouble: trouble(stopped) });
            std::iter::once(Check { name: "phase", trouble: phase }).chain(workers).collect()
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Registry) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
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
    fn only_a_serving_process_wants_traffic() {
        let health = Health::default();
        assert_eq!(failing(&health), ["phase"]);
        health.serving();
        assert_eq!(failing(&health), [""; 0]);
        health.draining();
        assert_eq!(failing(&health), ["phase"]);
    }
}
