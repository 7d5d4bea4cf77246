//! The bare loop: the same receivers take the same bodies without a server in between. What it does is what every rate and latency is shown
//! beside; it says nothing of memory, CPU time or write-ahead log, because there is no server in it.

use std::time::{Duration, Instant};

use super::{BARE_CLIENTS, Measure, ms};
use crate::cli::bench::load::{Job, closed_loop, open_loop};
use crate::cli::bench::progress::of_time;
use crate::cli::bench::receiver::Behaviour;
use crate::cli::bench::report::Figure;

/// More than any loop can ask in the second that it gets.
const EVENTS: usize = 200_000;
const LASTS: Duration = Duration::from_secs(1);

/// As fast as it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bare {
    pub per_s: f64,
    /// From asked to answered.
    pub answer_p99_ms: f64,
}

/// At the rate of the load. Latencies ascend, in nanoseconds.
pub(super) struct OnSchedule {
    pub per_s: f64,
    pub arrival_ns: Vec<u64>,
    pub answer_ns: Vec<u64>,
}

impl OnSchedule {
    /// A percentile of arrivals, beside the loop's own.
    pub fn arrival(&self, name: &'static str, sorted_ns: &[u64], share: f64) -> Figure {
        Figure::new(name, "ms", ms(sorted_ns, share)).beside(ms(&self.arrival_ns, share))
    }

    /// A percentile of answers, beside those that the loop got.
    pub fn accept(&self, name: &'static str, sorted_ns: &[u64], share: f64) -> Figure {
        Figure::new(name, "ms", ms(sorted_ns, share)).beside(ms(&self.answer_ns, share))
    }
}

impl Measure<'_> {
    pub(super) async fn bare(&mut self) -> Result<Bare, String> {
        let ledger = self.stage.begin(EVENTS, 1);
        let behaviour = self.behave(Behaviour::default());
        let (begun, at_most) = (Instant::now(), LASTS.min(Duration::from_secs_f64(self.seconds)));
        let driving = closed_loop(self.load(Job::Bare, &ledger), BARE_CLIENTS, Some(at_most));
        let line = || of_time(begun, at_most, &self.title, "the bare loop");
        let took = self.progress.during(driving, line).await?;
        self.behave(behaviour);
        Ok(Bare {
            per_s: ledger.arrived() as f64 / took.as_secs_f64(),
            answer_p99_ms: ms(&ledger.accept_latencies_ns(), 0.99),
        })
    }

    /// The same once more after the load, each counting half: machines that are shared change their speed within a run.
    pub(super) async fn bare_again(&mut self, before: Bare) -> Result<Bare, String> {
        let after = self.bare().await?;
        Ok(Bare {
            per_s: before.per_s.midpoint(after.per_s),
            answer_p99_ms: before.answer_p99_ms.midpoint(after.answer_p99_ms),
        })
    }

    /// So many at the scenario's rate.
    pub(super) async fn bare_on_schedule(&mut self, events: usize) -> Result<OnSchedule, String> {
        let rate = self.scenario.rate_per_s;
        let ledger = self.stage.begin(events, 1);
        let behaviour = self.behave(Behaviour::default());
        let (begun, lasts) = (Instant::now(), Duration::from_secs_f64(events as f64 / f64::from(rate)));
        let driving = open_loop(self.load(Job::Bare, &ledger), BARE_CLIENTS, rate);
        let line = || of_time(begun, lasts, &self.title, "the bare loop, on schedule");
        self.progress.during(driving, line).await?;
        let took_s = begun.elapsed().as_secs_f64();
        self.behave(behaviour);
        Ok(OnSchedule {
            per_s: ledger.arrived() as f64 / took_s,
            arrival_ns: ledger.arrival_latencies_ns(),
            answer_ns: ledger.accept_latencies_ns(),
        })
    }
}
