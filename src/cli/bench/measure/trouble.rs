//! The scenarios in which something goes wrong on purpose: callbacks that hang, and a server that is stopped.

use std::time::{Duration, Instant};

use hyper::Method;

use super::{ASK_EVERY, LOOK_EVERY, Measure, QUIET_MAX, costs, finished};
use crate::cli::bench::client::{Ask, Client};
use crate::cli::bench::ledger::Ledger;
use crate::cli::bench::load::Job;
use crate::cli::bench::receiver::Behaviour;
use crate::cli::bench::report::{Figure, Run};
use crate::cli::bench::usage::Usage;

/// Longer than it takes to stop the server: what hangs for that long arrives at the next one only.
const HANG_OVER: Duration = Duration::from_secs(120);
/// What a server defers for want of room is due again within four seconds; a backlog is what is due.
const RIPENS: Duration = Duration::from_secs(5);
/// A backlog that a good server drains in about a second.
const BACKLOG_EVENTS: usize = 20_000;

impl Measure<'_> {
    /// The healthy callbacks' rate twice, with all callbacks healthy and with some hanging.
    pub(super) async fn hanging(&mut self) -> Result<Run, String> {
        let events = self.events(self.job()).await?;
        let bare = self.bare().await?;
        let (before, _, without) = self.healthy_rate(events, self.usual()).await?;
        let hang = Duration::from_millis(self.scenario.hang_ms.into());
        let behaviour = Behaviour { hanging: self.scenario.hanging_callbacks(), hang, ..self.usual() };
        let (ledger, begun_ns, with) = self.healthy_rate(events, behaviour).await?;
        let bare = self.bare_again(bare).await?;
        let figures = vec![
            Figure::new("healthy_share", "%", 100.0 * with / without),
            Figure::new("healthy_per_s", "/s", with).beside(bare.per_s),
            Figure::new("healthy_per_s_none_hanging", "/s", without).beside(bare.per_s),
        ];
        let run = finished(&ledger, begun_ns, figures);
        Ok(Run { tally: before.tally() + run.tally, ..run })
    }

    /// How fast those callbacks get theirs that do not hang in either half. What hangs is let go afterwards, so that it can be counted.
    async fn healthy_rate(
        &mut self,
        events: usize,
        behaviour: Behaviour,
    ) -> Result<(std::sync::Arc<Ledger>, u64, f64), String> {
        let (callbacks, sick) = (usize::from(self.scenario.callbacks), self.scenario.hanging_callbacks());
        let healthy = |number: usize| number % callbacks >= usize::from(sick);
        let expected = (0..events).filter(|number| healthy(*number)).count();
        let ledger = self.ledger(self.job(), events).await?;
        self.behave(behaviour);
        let begun_ns = ledger.now_ns();
        self.drive(self.job(), &ledger).await?;
        let (waiting, refused) = (Instant::now(), ledger.tally().refused as usize);
        let arrived = || ledger.arrivals_ns().filter(|(number, _)| healthy(*number));
        let (mut operator, mut asked) = (Client::new(self.stage.server.operator), Instant::now());
        while arrived().count() + refused < expected && waiting.elapsed() < QUIET_MAX {
            if asked.elapsed() > ASK_EVERY {
                let seen = arrived().count();
                let pending = self.stage.pending(&mut operator).await?;
                // Only what hangs is left, so that whatever else is missing is lost.
                if pending <= ledger.missing_of(|number| !healthy(number)) && seen == arrived().count() {
                    break;
                }
                asked = Instant::now();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let last_ns = arrived().map(|(_, at)| at).max().unwrap_or_else(|| ledger.now_ns());
        let per_s = arrived().count() as f64 / ((last_ns - begun_ns).max(1) as f64 / 1e9);
        self.behave(self.usual());
        self.settle(&ledger).await?;
        Ok((ledger, begun_ns, per_s))
    }

    /// Nothing is answered until the server has been stopped; what it held is due at once, and the next one finds all of it in the database.
    pub(super) async fn backlog(&mut self) -> Result<Run, String> {
        let events = self.scenario.events.map_or(BACKLOG_EVENTS, |events| events as usize);
        let bare = self.bare().await?;
        let ledger = self.open_sessions(events).await?;
        self.behave(Behaviour { hanging: u16::MAX, hang: HANG_OVER, ..self.usual() });
        self.drive(Job::Cancel, &ledger).await?;
        self.say("stopping the server with its hands full");
        self.stage.server.halt().await?;
        let early = ledger.arrived();
        self.progress.wait(RIPENS, &self.title, "until all of it is due").await;
        self.behave(self.usual());
        let resumed_ns = ledger.now_ns();
        self.stage.server.resume().await?;
        let before = Usage::of(&self.stage.server).await;
        let settled = self.settle(&ledger).await?;
        let drained = ledger.arrived() - early;
        let spent = before.spent_until(&Usage::of(&self.stage.server).await, drained);
        let bare = self.bare_again(bare).await?;
        let arrivals = || ledger.arrivals_ns().map(|(_, at)| at).filter(|at| *at >= resumed_ns);
        let first_ns = arrivals().min().unwrap_or(resumed_ns);
        let per_s = |end_ns: u64| drained as f64 / (end_ns.saturating_sub(first_ns).max(1) as f64 / 1e9);
        let mut figures = vec![
            Figure::new("drained_per_s", "/s", per_s(settled.after_ns)).beside(bare.per_s),
            Figure::new("first_nine_tenths_per_s", "/s", first_nine_tenths_per_s(arrivals().collect()))
                .beside(bare.per_s),
            Figure::new("backlog", "", drained as f64),
        ];
        figures.extend(costs(&spent));
        // How long they took says how long the server was away, and nothing else.
        Ok(Run { latency_ms: Vec::new(), ..finished(&ledger, first_ns, figures) })
    }

    /// The stopwatch begins with the process and ends with the first cancel's answer.
    pub(super) async fn start(&mut self) -> Result<Run, String> {
        let ledger = self.open_sessions(1).await?;
        self.stage.server.halt().await?;
        let launched = Instant::now();
        self.stage.server.resume().await?;
        let announced = launched.elapsed();
        let (place, path) = (
            &self.stage.places(self.scenario.shape())[0],
            format!("/redirect-sessions/{}/cancel", ledger.id(0, 0)),
        );
        let begun_ns = ledger.now_ns();
        ledger.ask(0, begun_ns);
        let ask = Ask {
            method: Method::POST,
            path: &path,
            content_type: "application/json",
            headers: &[("x-api-key", &place.key)],
            body: bytes::Bytes::new(),
        };
        let (status, _) = Client::new(self.stage.server.api).send(ask).await?;
        let took = launched.elapsed();
        if status != 200 {
            return Err(format!("the first request was answered {status}"));
        }
        ledger.accept(0);
        self.settle(&ledger).await?;
        let ms = |took: Duration| took.as_secs_f64() * 1_000.0;
        let figures = vec![
            Figure::new("first_accepted", "ms", ms(took)),
            Figure::new("announced", "ms", ms(announced)),
        ];
        Ok(finished(&ledger, begun_ns, figures))
    }
}

/// The pace without the stragglers at the end, which a server may have deferred to be fair.
fn first_nine_tenths_per_s(mut arrivals_ns: Vec<u64>) -> f64 {
    arrivals_ns.sort_unstable();
    arrivals_ns.truncate((arrivals_ns.len() * 9).div_ceil(10));
    match (arrivals_ns.first(), arrivals_ns.last()) {
        (Some(first), Some(last)) => arrivals_ns.len() as f64 / ((last - first).max(1) as f64 / 1e9),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stragglers_do_not_slow_the_first_nine_tenths() {
        let second = 1_000_000_000;
        let mut arrivals: Vec<u64> = (1..=10).map(|nth| nth * second).collect();
        arrivals[9] = 100 * second;
        assert_eq!(first_nine_tenths_per_s(arrivals), 9.0 / 8.0);
        assert_eq!(first_nine_tenths_per_s(Vec::new()), 0.0);
    }
}
