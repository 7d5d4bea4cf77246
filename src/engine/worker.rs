//! How workers begin, and what becomes of one that panics.
//!
//! Some *look* into the database again and again, and have nothing in hand that is not there as well: such a one begins anew. The others *hold*
//! what is nowhere else (leases, results, places in memory) and are what their neighbours wait for. Where one of those ends, the process is to
//! end as well ([`Health::fallen`]): nothing is lost by that, and a half that has forgotten would have to agree with another that has not.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::telemetry::{Health, Metrics};

/// What panics each time must not keep a CPU busy.
const BEGIN_ANEW_AFTER: Duration = Duration::from_secs(1);

/// Sets workers to work, and sees to them.
pub(super) struct Foreman {
    pub health: Health,
    pub metrics: Metrics,
    /// Says when it is time to stop.
    pub stop: watch::Receiver<bool>,
}

impl Foreman {
    /// Starts a worker that holds something. It is well until it ends, however it ends.
    pub fn holding<F>(
        &self,
        name: &'static str,
        work: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (heartbeat, work) = (self.health.worker(name), work(self.stop.clone()));
        tokio::spawn(async move {
            work.await;
            drop(heartbeat);
        })
    }

    /// Starts a worker that only looks, each time with what it works with. One that panics begins anew after a while, which is counted;
    /// what a panic says is in the log.
    pub fn looking<With, F>(
        &self,
        name: &'static str,
        with: With,
        work: impl Fn(With, watch::Receiver<bool>) -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        With: Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let metrics = self.metrics.clone();
        metrics.worker_restarted(name, 0);
        self.holding(name, |stop| async move {
            while AssertUnwindSafe(work(with.clone(), stop.clone())).catch_unwind().await.is_err()
                && !*stop.borrow()
            {
                let after_s = BEGIN_ANEW_AFTER.as_secs();
                tracing::error!(worker = name, after_s, "a worker panicked and begins anew");
                tokio::time::sleep(BEGIN_ANEW_AFTER).await;
                metrics.worker_restarted(name, 1);
            }
        })
    }
}

/// Waits for a worker until then; one that takes longer is ended.
pub(super) async fn ended(mut worker: JoinHandle<()>, until: Instant) {
    if tokio::time::timeout_at(until.into(), &mut worker).await.is_err() {
        worker.abort();
        let _aborted = worker.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::stopped;
    use super::*;

    fn foreman() -> (Foreman, watch::Sender<bool>) {
        let (stopping, stop) = watch::channel(false);
        (Foreman { health: Health::default(), metrics: Metrics::default(), stop }, stopping)
    }

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn rule_24_a_worker_that_only_looks_begins_anew_after_a_panic_until_it_is_time_to_stop() {
        let (foreman, stopping) = foreman();
        let begun = Arc::new(AtomicUsize::new(0));
        let worker = foreman.looking("looks", begun.clone(), |begun, mut stop| async move {
            assert!(begun.fetch_add(1, Ordering::Relaxed) > 0, "as a test");
            stopped(&mut stop).await;
        });
        while begun.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(foreman.health.fallen().now_or_never(), None);
        let shown = foreman.metrics.render(None, &[]);
        assert!(shown.contains("herald_worker_restarts_total{worker=\"looks\"} 1\n"), "{shown}");
        stopping.send_replace(true);
        ended(worker, in_a_minute()).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn rule_24_a_worker_that_holds_something_has_fallen_when_it_panics() {
        let (foreman, _stopping) = foreman();
        let worker = foreman.holding("holds", |_stop| async { panic!("as a test") });
        assert_eq!(foreman.health.fallen().await, "holds");
        ended(worker, in_a_minute()).await;
    }
}
