//! One partner's backlog beside another one's few events: the first's callback hangs with a great deal due for it, the second's are
//! published on schedule meanwhile. Afterwards the first recovers, and everything has to arrive.

use std::time::Duration;

use super::{Measure, finished};
use crate::cli::bench::load::{Job, closed_loop, open_loop};
use crate::cli::bench::receiver::Behaviour;
use crate::cli::bench::report::{Figure, Run};
use crate::cli::bench::statistics::percentile;

/// Events of a request that makes the backlog.
const BATCH: usize = 1_000;
const BACKLOG_CLIENTS: u16 = 4;
/// What comes at ten a second must come for a while to have a p99.
const SECONDS_MIN: f64 = 20.0;
const BACKLOG_EVENTS: usize = 100_000;

impl Measure<'_> {
    pub(super) async fn neighbour(&mut self) -> Result<Run, String> {
        let rate = self.scenario.rate_per_s;
        let backlog = self.scenario.events.map_or(BACKLOG_EVENTS, |events| events as usize);
        // A backlog that somebody asked to be small is for a quick look.
        let least = if backlog < BACKLOG_EVENTS { 0.0 } else { SECONDS_MIN };
        let few = ((f64::from(rate) * self.seconds.max(least)) as usize).max(1);
        let ledger = self.stage.begin(backlog + few);
        let hang = Duration::from_millis(self.scenario.hang_ms.into());
        self.behave(Behaviour { hanging: 1, hang, ..self.usual() });
        let begun_ns = ledger.now_ns();
        let mut load = self.load(Job::Publish(BATCH), &ledger);
        (load.numbers, load.only) = (0..backlog, Some(0));
        self.progress.during(closed_loop(load, BACKLOG_CLIENTS, None), || self.line(&ledger)).await?;
        let mut load = self.load(Job::Publish(1), &ledger);
        (load.numbers, load.only) = (backlog..backlog + few, Some(1));
        self.progress.during(open_loop(load, self.scenario.clients, rate), || self.line(&ledger)).await?;
        let early = ledger.arrived();
        let recovered_ns = ledger.now_ns();
        self.behave(self.usual());
        let settled = self.settle(&ledger).await?;
        let (arrival, accept) = (
            ledger.arrival_latencies_of(backlog..backlog + few),
            ledger.accept_latencies_of(backlog..backlog + few),
        );
        let ms = |sorted: &[u64], share| percentile(sorted, share).map_or(f64::NAN, |ns| ns as f64 / 1e6);
        let drained_s = settled.after_ns.saturating_sub(recovered_ns).max(1) as f64 / 1e9;
        let figures = vec![
            Figure::new("neighbour_p50", "ms", ms(&arrival, 0.5)),
            Figure::new("neighbour_p99", "ms", ms(&arrival, 0.99)),
            Figure::new("neighbour_accept_p99", "ms", ms(&accept, 0.99)),
            Figure::new("recovered_per_s", "/s", ledger.arrived().saturating_sub(early) as f64 / drained_s),
        ];
        Ok(finished(&ledger, begun_ns, figures))
    }
}
