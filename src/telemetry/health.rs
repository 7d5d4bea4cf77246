//! Whether the process can do its work: which phase of its life it is in, and which of its workers are alive.
//!
//! A worker holds a [`Heartbeat`] for as long as it runs. However it ends, by returning, by an error or by a panic, the heartbeat is dropped
//! and the check of its name fails from then on. One that ends before the process is on its way out has fallen, and whoever serves is told.
//! The database is not known here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Pulse;

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
    pulses: Vec<Pulse>,
    /// The first worker that ended by itself.
    fallen: watch::Sender<Option<&'static str>>,
}

/// The life sign of one worker, ended by being dropped.
#[must_use = "the worker counts as dead once this is dropped"]
pub struct Heartbeat {
    worker: &'static str,
    stopped: Arc<AtomicBool>,
    health: Health,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry {
            phase: Phase::Starting,
            workers: Vec::new(),
            pulses: Vec::new(),
            fallen: watch::Sender::new(None),
        })))
    }
}

impl Health {
    /// A worker that is well as long as it runs.
    pub fn worker(&self, worker: &'static str) -> Heartbeat {
        let stopped = Arc::new(AtomicBool::new(false));
        self.with(|registry| registry.workers.push((worker, stopped.clone())));
        Heartbeat { worker, stopped, health: self.clone() }
    }

    /// A kind of work that is tried again and again.
    pub fn pulse(&self, work: &'static str) -> Pulse {
        let pulse = Pulse::new(work);
        self.with(|registry| registry.pulses.push(pulse.clone()));
        pulse
    }

    /// All kinds of work.
    pub fn pulses(&self) -> Vec<Pulse> {
        self.with(|registry| registry.pulses.clone())
    }

    /// Waits until a worker ends although nobody asked it to, and says which.
    pub async fn fallen(&self) -> &'static str {
        let mut fallen = self.with(|registry| registry.fallen.subscribe());
        loop {
            if let Some(worker) = *fallen.borrow_and_update() {
                return worker;
            }
            // The registry, of which this is a part, has the sender.
            let _changed = fallen.changed().await;
        }
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
        self.stopped.store(true, Ordering::Release);
        self.health.with(|registry| {
            if registry.phase != Phase::Draining {
                registry.fallen.send_if_modified(|first| *first.get_or_insert(self.worker) == self.worker);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

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

    #[tokio::test]
    async fn rule_24_a_worker_has_fallen_that_ends_while_nobody_stops_the_process() {
        let health = Health::default();
        let [early, late, stopped] = ["early", "late", "stopped"].map(|name| health.worker(name));
        assert_eq!(health.fallen().now_or_never(), None);
        drop(early);
        drop(late);
        assert_eq!(health.fallen().await, "early");
        let other = Health::default();
        let asked = other.worker("asked");
        other.serving();
        other.draining();
        drop((asked, stopped));
        assert_eq!(other.fallen().now_or_never(), None);
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
