//! One partner's backlog beside another one's few events: the first's callback hangs with a great deal due for it, the second's are
//! published on schedule meanwhile. Then the first recovers; the second's go on while the backlog drains, and everything has to arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{ASK_EVERY, LOOK_EVERY, Measure, QUIET_MAX, finished};
use crate::cli::bench::client::Client;
use crate::cli::bench::ledger::Ledger;
use crate::cli::bench::load::{Job, closed_loop, open_loop, open_loop_while};
use crate::cli::bench::progress::of_events;
use crate::cli::bench::receiver::Behaviour;
use crate::cli::bench::report::{Figure, Run};
use crate::cli::bench::statistics::curve_ms;

/// Events of a request that makes the backlog.
const BATCH: usize = 1_000;
const BACKLOG_CLIENTS: u16 = 4;
/// What comes at ten a second must come for a while to have a p99.
const SECONDS_MIN: f64 = 20.0;
const BACKLOG_EVENTS: usize = 100_000;
/// For so long there are events of the second partner while the backlog drains, and for at most so many.
const DRAINING_S: usize = 600;
const DRAINING_EVENTS_MAX: usize = 300_000;
/// When all of the backlog has arrived, what was not recorded until then does not wait for it.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);

impl Measure<'_> {
    pub(super) async fn neighbour(&mut self) -> Result<Run, String> {
        let rate = self.scenario.rate_per_s;
        let backlog = self.scenario.events.map_or(BACKLOG_EVENTS, |events| events as usize);
        // A backlog that somebody asked to be small is for a quick look.
        let least = if backlog < BACKLOG_EVENTS { 0.0 } else { SECONDS_MIN };
        let few = ((f64::from(rate) * self.seconds.max(least)) as usize).max(1);
        let (beside, more) = (backlog + few, DRAINING_EVENTS_MAX.min(rate as usize * DRAINING_S));
        let bare = self.bare().await?;
        let on_schedule = self.bare_on_schedule(few).await?;
        let ledger = self.stage.begin(beside + more, 1);
        let hang = Duration::from_millis(self.scenario.hang_ms.into());
        self.behave(Behaviour { hanging: 1, hang, ..self.usual() });
        let begun_ns = ledger.now_ns();
        let mut load = self.load(Job::Publish(BATCH), &ledger);
        (load.numbers, load.only) = (0..backlog, Some(0));
        let line = || of_events(ledger.arrived().min(beside as u64), beside as u64, &self.title);
        self.progress.during(closed_loop(load, BACKLOG_CLIENTS, None), line).await?;
        let mut load = self.load(Job::Publish(1), &ledger);
        (load.numbers, load.only) = (backlog..beside, Some(1));
        self.progress.during(open_loop(load, self.scenario.clients, rate), line).await?;
        let (left, recovered_ns) = (ledger.missing_of(|number| number < backlog), ledger.now_ns());
        self.behave(self.usual());
        let drained_ns = self.progress.during(self.drain(&ledger, backlog, beside), line).await?;
        self.settle(&ledger).await?;
        let arrived = left - ledger.missing_of(|number| number < backlog).min(left);
        let drained_s = drained_ns.saturating_sub(recovered_ns).max(1) as f64 / 1e9;
        let bare = self.bare_again(bare).await?;
        let during_backlog = ledger.arrival_latencies_of(backlog..beside);
        let draining = ledger.arrival_latencies_of(beside..beside + more);
        let accept = ledger.accept_latencies_of(backlog..beside);
        let figures = vec![
            on_schedule.arrival("neighbour_p50", &during_backlog, 0.5),
            on_schedule.arrival("neighbour_p99", &during_backlog, 0.99),
            on_schedule.arrival("neighbour_p99_draining", &draining, 0.99),
            Figure::new("neighbour_events_draining", "", draining.len() as f64),
            on_schedule.accept("neighbour_accept_p99", &accept, 0.99),
            Figure::new("recovered_per_s", "/s", arrived as f64 / drained_s).beside(bare.per_s),
        ];
        Ok(Run { bare_latency_ms: curve_ms(&on_schedule.arrival_ns), ..finished(&ledger, begun_ns, figures) })
    }

    /// The second partner's events go on until the first's backlog is gone. Returns when that was.
    async fn drain(&self, ledger: &Arc<Ledger>, backlog: usize, from: usize) -> Result<u64, String> {
        let drained = Arc::new(AtomicBool::new(false));
        let going = {
            let drained = drained.clone();
            move || !drained.load(Ordering::Relaxed)
        };
        let mut load = self.load(Job::Publish(1), ledger);
        (load.numbers, load.only) = (from..ledger.deliveries(), Some(1));
        let meanwhile = open_loop_while(load, self.scenario.clients, self.scenario.rate_per_s, going);
        let draining = async {
            let drained_ns = self.drained(ledger, backlog).await;
            drained.store(true, Ordering::Relaxed);
            drained_ns
        };
        let (driven, drained_ns) = tokio::join!(meanwhile, draining);
        driven.and(drained_ns)
    }

    /// Waits until all of the backlog has arrived and the queue is empty, or nothing of it moves any more.
    async fn drained(&self, ledger: &Ledger, backlog: usize) -> Result<u64, String> {
        let mut operator = Client::new(self.stage.server.operator);
        let (mut missing, mut moved, mut asked) = (u64::MAX, Instant::now(), Instant::now());
        loop {
            let still = ledger.missing_of(|number| number < backlog);
            if still != missing {
                (missing, moved) = (still, Instant::now());
            }
            if missing == 0 || asked.elapsed() > ASK_EVERY {
                // The neighbour's events are gone within milliseconds: now and then the queue is empty in spite of them.
                if self.stage.pending(&mut operator).await? == 0 {
                    return Ok(ledger.now_ns());
                }
                asked = Instant::now();
            }
            let patience = if missing == 0 { RECORDED_WITHIN } else { QUIET_MAX };
            if moved.elapsed() > patience {
                return Ok(ledger.now_ns());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
