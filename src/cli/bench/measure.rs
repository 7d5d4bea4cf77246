//! One repetition of a scenario: set up, drive, wait until everything is where it belongs, and count.

mod bare;
mod memory;
mod neighbour;
mod trouble;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Ask, Client};
use super::ledger::{Ledger, Tally};
use super::load::{Job, Load, closed_loop, open_loop};
use super::progress::{Progress, of_events};
use super::receiver::Behaviour;
use super::report::{Figure, Run};
use super::scenario::{Kind, Scenario};
use super::stage::{ARRAYS_TYPE, Stage};
use super::statistics::{buckets, curve_ms, percentile};
use super::usage::{Spent, Usage};
use bare::Bare;
use memory::{Idle, with_memory};

/// Connections of the bare loop.
const BARE_CLIENTS: u16 = 64;
/// How many events the first look at a server's speed takes.
const SAMPLE_EVENTS: usize = 1_000;
const EVENTS_MAX: f64 = 300_000.0;
/// Without a single arrival for this long, what is missing counts as lost. Longer than a lease.
const QUIET_MAX: Duration = Duration::from_secs(45);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Counting the queue costs the server something, so it is asked seldom while much is missing.
const ASK_EVERY: Duration = Duration::from_millis(500);
const TENTH_NS: u64 = 100_000_000;

pub enum Measured {
    Run(Box<Run>),
    Unavailable(String),
}

pub struct Measure<'a> {
    pub stage: &'a mut Stage,
    pub scenario: &'a Scenario,
    pub seconds: f64,
    pub progress: Progress,
    pub title: String,
    /// Found out by the first run, the same in all.
    pub events: Option<usize>,
    /// What was asked for besides what is measured, and has to arrive as well.
    pub aside: Tally,
}

/// What the waiting at the end of a run found.
struct Settled {
    /// When nothing was left in the queue, since the ledger began.
    after_ns: u64,
}

impl Measure<'_> {
    pub async fn run(&mut self) -> Result<Measured, String> {
        self.say("set-up");
        self.stage.grow(self.scenario.callbacks, self.scenario.shape()).await?;
        self.behave(self.usual());
        let mut run = match self.scenario.kind {
            Kind::FullPath | Kind::Callbacks => self.full_path().await?,
            Kind::Latency => self.latency().await?,
            Kind::Hanging => self.hanging().await?,
            Kind::Backlog if !self.stage.server.is_ours() => return Ok(not_ours()),
            Kind::Start if !self.stage.server.is_ours() => return Ok(not_ours()),
            Kind::Backlog => self.backlog().await?,
            Kind::Start => self.start().await?,
            Kind::Publish | Kind::FanOut | Kind::Neighbour => match self.publish_refused().await? {
                Some(why) => return Ok(Measured::Unavailable(why)),
                None if self.scenario.kind == Kind::Neighbour => self.neighbour().await?,
                None => self.publish().await?,
            },
        };
        run.tally = run.tally + self.aside;
        Ok(Measured::Run(Box::new(run)))
    }

    /// Cancels as fast as it goes; of `callbacks` also what it takes.
    async fn full_path(&mut self) -> Result<Run, String> {
        let callbacks = self.scenario.kind == Kind::Callbacks;
        let bare = self.bare().await?;
        let idle = if callbacks { self.idle().await? } else { None };
        let connections = self.stage.receivers.connections();
        let events = self.events(Job::Cancel).await?;
        let ledger = self.open_sessions(events).await?;
        let before = Usage::of(&self.stage.server).await;
        let begun_ns = ledger.now_ns();
        let driving = self.drive(Job::Cancel, &ledger);
        let (took, at_rate) = with_memory(self.stage.server.pid(), driving).await;
        let took = took?;
        let settled = self.settle(&ledger).await?;
        let spent = before.spent_until(&Usage::of(&self.stage.server).await, ledger.arrived());
        let bare = self.bare_again(bare).await?;
        let mut figures = rates(&ledger, settled.after_ns - begun_ns, took, bare);
        if callbacks {
            let opened = self.stage.receivers.connections() - connections;
            figures.push(Figure::new("connections_opened", "", opened as f64));
            figures.push(Figure::new(
                "deliveries_per_connection",
                "",
                ledger.arrived() as f64 / opened.max(1) as f64,
            ));
            figures.extend(idle.iter().flat_map(Idle::figures));
            figures.extend(memory::figure("memory_at_rate", at_rate));
        }
        figures.extend(costs(&spent));
        Ok(finished(&ledger, begun_ns, figures))
    }

    /// On schedule, and the bare loop on the same one.
    async fn latency(&mut self) -> Result<Run, String> {
        let rate = self.scenario.rate_per_s;
        let events =
            self.scenario.events.map_or((f64::from(rate) * self.seconds) as usize, |events| events as usize);
        let bare = self.bare_on_schedule(events.max(1)).await?;
        let ledger = self.open_sessions(events.max(1)).await?;
        let before = Usage::of(&self.stage.server).await;
        let begun_ns = ledger.now_ns();
        let load = self.load(Job::Cancel, &ledger);
        self.progress.during(open_loop(load, self.scenario.clients, rate), || self.line(&ledger)).await?;
        let settled = self.settle(&ledger).await?;
        let spent = before.spent_until(&Usage::of(&self.stage.server).await, ledger.arrived());
        let (arrival, accept) = (ledger.arrival_latencies_ns(), ledger.accept_latencies_ns());
        let took_s = (settled.after_ns - begun_ns) as f64 / 1e9;
        let mut figures = vec![
            bare.arrival("arrival_p50", &arrival, 0.5),
            bare.arrival("arrival_p90", &arrival, 0.9),
            bare.arrival("arrival_p99", &arrival, 0.99),
            bare.accept("accept_p50", &accept, 0.5),
            bare.accept("accept_p99", &accept, 0.99),
            Figure::new("delivered_per_s", "/s", ledger.arrived() as f64 / took_s).beside(bare.per_s),
        ];
        figures.extend(costs(&spent));
        Ok(Run { bare_latency_ms: curve_ms(&bare.arrival_ns), ..finished(&ledger, begun_ns, figures) })
    }

    /// Asks for nothing, to see whether publishing is there.
    async fn publish_refused(&mut self) -> Result<Option<String>, String> {
        let server = &self.stage.server;
        let ask = Ask {
            method: hyper::Method::POST,
            path: "/events",
            content_type: "application/x-ndjson",
            headers: &[("x-api-key", &server.key)],
            body: bytes::Bytes::new(),
        };
        let (status, _) = Client::new(server.operator).send(ask).await?;
        let missing =
            || format!("this server has no POST /events on its operator side (it answers {status})");
        Ok(matches!(status, 404 | 405).then(missing))
    }

    async fn publish(&mut self) -> Result<Run, String> {
        let job = self.job();
        let events = self.events(job).await?;
        let bare = self.bare().await?;
        let ledger = self.ledger(job, events).await?;
        let before = Usage::of(&self.stage.server).await;
        let begun_ns = ledger.now_ns();
        let took = self.drive(job, &ledger).await?;
        let settled = self.settle(&ledger).await?;
        let spent = before.spent_until(&Usage::of(&self.stage.server).await, ledger.arrived());
        let bare = self.bare_again(bare).await?;
        let mut figures = rates(&ledger, settled.after_ns - begun_ns, took, bare);
        figures.extend(costs(&spent));
        Ok(finished(&ledger, begun_ns, figures))
    }

    fn load(&self, job: Job, ledger: &Arc<Ledger>) -> Load {
        let (server, bare) = (&self.stage.server, job == Job::Bare);
        let fan_out = if bare { 1 } else { self.scenario.fan_out() };
        let to = match job {
            Job::Bare => self.stage.receivers.address(0),
            Job::Publish(_) => server.operator,
            Job::Open | Job::Cancel => server.api,
        };
        Load {
            job,
            to,
            key: server.key.clone(),
            places: self.stage.places(self.scenario.shape()),
            fan_out,
            only: None,
            ordering_keys: self.scenario.ordering_keys,
            event_type: if self.scenario.batch_size > 1 { ARRAYS_TYPE } else { "RedirectSessionCancelled" },
            request_ids: self.scenario.request_ids && job == Job::Cancel,
            numbers: 0..ledger.deliveries(),
            callbacks: if bare { 1 } else { self.scenario.callbacks },
            ledger: ledger.clone(),
        }
    }

    async fn drive(&self, job: Job, ledger: &Arc<Ledger>) -> Result<Duration, String> {
        let clients = match job {
            Job::Publish(_) => self.scenario.publishers(),
            _ => self.scenario.clients,
        };
        self.progress.during(closed_loop(self.load(job, ledger), clients, None), || self.line(ledger)).await
    }

    /// How many events keep this server busy for the time asked for. The look doubles as its warming up.
    async fn events(&mut self, job: Job) -> Result<usize, String> {
        if let Some(events) = self.scenario.events {
            return Ok(events as usize);
        }
        // A bench that is to be short has a short look.
        let least = (SAMPLE_EVENTS as f64 * self.seconds.clamp(0.1, 1.0)) as usize;
        if self.events.is_none() {
            let fan_out = self.scenario.fan_out();
            let look = if let Job::Publish(batch) = job { least.max(batch * 8) } else { least };
            let ledger = self.ledger(job, look).await?;
            let begun_ns = ledger.now_ns();
            self.drive(job, &ledger).await?;
            let took_s = (self.settle(&ledger).await?.after_ns - begun_ns) as f64 / 1e9;
            self.aside = self.aside + ledger.tally();
            let per_s = (ledger.deliveries() / usize::from(fan_out)) as f64 / took_s.max(0.001);
            self.events = Some((per_s * self.seconds).clamp(least as f64, EVENTS_MAX) as usize);
        }
        Ok(self.events.unwrap_or(least))
    }

    /// What the clients do.
    fn job(&self) -> Job {
        let arrays = self.scenario.kind == Kind::Hanging && self.scenario.batch_size > 1;
        match self.scenario.kind {
            Kind::Publish | Kind::FanOut => Job::Publish(usize::from(self.scenario.batch_events)),
            _ if arrays => Job::Publish(usize::from(self.scenario.batch_events)),
            _ => Job::Cancel,
        }
    }

    /// A ledger for so many events, and all that they need.
    async fn ledger(&mut self, job: Job, events: usize) -> Result<Arc<Ledger>, String> {
        let fan_out = self.scenario.fan_out();
        match job {
            Job::Publish(_) => Ok(self.stage.begin(events * usize::from(fan_out), fan_out)),
            _ => self.open_sessions(events).await,
        }
    }

    /// A ledger, and its sessions opened.
    async fn open_sessions(&mut self, events: usize) -> Result<Arc<Ledger>, String> {
        let ledger = self.stage.begin(events, 1);
        self.say(&format!("opening {events} sessions"));
        closed_loop(self.load(Job::Open, &ledger), BARE_CLIENTS, None).await?;
        Ok(ledger)
    }

    /// Waits until everything accepted has arrived and the queue is empty, or until nothing moves any more.
    async fn settle(&self, ledger: &Ledger) -> Result<Settled, String> {
        let mut operator = Client::new(self.stage.server.operator);
        let (mut arrived, mut moved, mut asked) = (0, Instant::now(), Instant::now());
        loop {
            self.progress.say(&of_events(ledger.arrived(), ledger.accepted(), &self.title));
            let complete = ledger.arrived() >= ledger.accepted() && ledger.missing() == 0;
            if ledger.arrived() > arrived {
                (arrived, moved) = (ledger.arrived(), Instant::now());
            }
            if complete || asked.elapsed() > ASK_EVERY {
                let seen = ledger.arrived();
                let pending = self.stage.pending(&mut operator).await?;
                // What is not in the queue will not come any more; what is there may still be on its way to being removed.
                if pending == 0 && seen == ledger.arrived() {
                    return Ok(Settled { after_ns: ledger.now_ns() });
                }
                asked = Instant::now();
            }
            if moved.elapsed() > QUIET_MAX && complete {
                return Err("everything arrived, but the server's queue does not become empty".to_owned());
            }
            if moved.elapsed() > QUIET_MAX {
                return Ok(Settled { after_ns: ledger.now_ns() });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells the callbacks how to behave; returns how they did.
    fn behave(&self, behaviour: Behaviour) -> Behaviour {
        self.stage.receivers.behave(behaviour)
    }

    fn usual(&self) -> Behaviour {
        Behaviour { lose_every: self.scenario.lose.then_some(10), ..Behaviour::default() }
    }

    fn say(&self, what: &str) {
        self.progress.say(&format!("{}: {what}", self.title));
    }

    fn line(&self, ledger: &Ledger) -> String {
        of_events(ledger.arrived(), ledger.deliveries() as u64, &self.title)
    }
}

fn not_ours() -> Measured {
    Measured::Unavailable("it stops and starts the server, which must be one of the bench's own".to_owned())
}

fn rates(ledger: &Ledger, whole_ns: u64, accepting: Duration, bare: Bare) -> Vec<Figure> {
    let per_s = |count: u64, seconds: f64| count as f64 / seconds.max(1e-9);
    vec![
        Figure::new("delivered_per_s", "/s", per_s(ledger.arrived(), whole_ns as f64 / 1e9))
            .beside(bare.per_s),
        Figure::new("accepted_per_s", "/s", per_s(ledger.accepted(), accepting.as_secs_f64()))
            .beside(bare.per_s),
        Figure::new("accept_p99", "ms", ms(&ledger.accept_latencies_ns(), 0.99)).beside(bare.answer_p99_ms),
    ]
}

fn costs(spent: &Spent) -> Vec<Figure> {
    let figure = |name, unit, value: Option<f64>| value.map(|value| Figure::new(name, unit, value));
    [
        figure("server_cpu_per_delivery", "us", spent.server_us),
        figure("postgres_cpu_per_delivery", "us", spent.postgres_us),
        figure("wal_per_delivery", "bytes", spent.wal_bytes),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A percentile of latencies in nanoseconds, in milliseconds.
fn ms(sorted_ns: &[u64], share: f64) -> f64 {
    percentile(sorted_ns, share).map_or(f64::NAN, |ns| ns as f64 / 1e6)
}

fn finished(ledger: &Ledger, begun_ns: u64, figures: Vec<Figure>) -> Run {
    let since = |(_, at): (usize, u64)| at.saturating_sub(begun_ns);
    Run {
        figures,
        tally: ledger.tally(),
        latency_ms: curve_ms(&ledger.arrival_latencies_ns()),
        arrivals_per_100ms: buckets(ledger.arrivals_ns().map(since), TENTH_NS),
        ..Run::default()
    }
}
