//! What the process counts. One registry per process instance, so that a test can run several servers side by side.
//!
//! Label values are words of the code (surfaces, outcomes, states, status classes), never something a client chose: the number of series is
//! bounded. What is true of the database rather than of this process, the depth of the queue, is handed in when the metrics are read.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::domain::attempt::Outcome;
use crate::domain::delivery::DeliveryState;
use crate::domain::surface::Surface;

use super::Pulse;
use super::log_writer::lines_lost;

/// The type of the text that [`Metrics::render`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const REQUEST_SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];
const ATTEMPT_SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    surface: &'static str,
    method: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SurfaceLabel {
    surface: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    surface: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabel {
    worker: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkLabel {
    work: &'static str,
}

/// What waits in the database, for all processes together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueDepth {
    pub pending: i64,
    pub held: i64,
    /// For how long the oldest row that anyone could send has been due.
    pub oldest_due_age_s: f64,
}

/// The handles to count with. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

/// What is counted. `registry` shows all the others.
struct Counters {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<SurfaceLabel, Histogram>,
    events: Family<SurfaceLabel, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    attempt_seconds: Family<SurfaceLabel, Histogram>,
    deliveries: Family<StateLabel, Counter>,
    in_flight: Gauge,
    taking_long: Gauge,
    restarts: Family<WorkerLabel, Counter>,
}

/// An attempt under way, counted for as long as this lives.
#[must_use = "the attempt counts as over once this is dropped"]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut counters = Counters {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            events: Family::default(),
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(|| Histogram::new(ATTEMPT_SECONDS)),
            deliveries: Family::default(),
            in_flight: Gauge::default(),
            taking_long: Gauge::default(),
            restarts: Family::default(),
        };
        counters.registry = counters.register();
        let metrics = Self(Arc::new(counters));
        metrics.begin_at_zero();
        metrics
    }
}

/// What made an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A session was cancelled.
    Cancel,
    /// A producer published it.
    Publish,
}

impl Origin {
    /// The listener or surface that took the request, as the other counters have it.
    fn surface(self) -> &'static str {
        match self {
            Self::Cancel => Surface::Redirect.as_str(),
            Self::Publish => "operator",
        }
    }
}

impl Metrics {
    /// An HTTP request was answered. Methods that HTTP does not define are counted as one.
    pub fn request_answered(&self, surface: &'static str, method: &str, status: u16, took: Duration) {
        let labels = RequestLabels { surface, method: known_method(method), status: status_class(status) };
        self.0.requests.get_or_create(&labels).inc();
        self.0.request_seconds.get_or_create(&SurfaceLabel { surface }).observe(took.as_secs_f64());
    }

    /// Events were committed.
    pub fn events_accepted(&self, origin: Origin, count: usize) {
        self.0.events.get_or_create(&SurfaceLabel { surface: origin.surface() }).inc_by(count as u64);
    }

    /// An attempt begins; it is in flight until the returned value is dropped.
    pub fn attempt_started(&self) -> InFlight {
        self.0.in_flight.inc();
        InFlight(self.0.in_flight.clone())
    }

    /// So many attempts have been under way for long.
    pub fn attempts_taking_long(&self, count: usize) {
        self.0.taking_long.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// An attempt came to its end.
    pub fn attempt_finished(&self, surface: Surface, outcome: Outcome, latency: Duration) {
        let surface = surface.as_str();
        self.0.attempts.get_or_create(&AttemptLabels { surface, outcome: outcome.as_str() }).inc();
        self.0.attempt_seconds.get_or_create(&SurfaceLabel { surface }).observe(latency.as_secs_f64());
    }

    /// A delivery reached a final state.
    pub fn delivery_ended(&self, state: DeliveryState) {
        self.deliveries_ended(state, 1);
    }

    /// Deliveries reached a final state together.
    pub fn deliveries_ended(&self, state: DeliveryState, count: u64) {
        self.0.deliveries.get_or_create(&StateLabel { state: state.as_str() }).inc_by(count);
    }

    /// A worker began anew after a panic, so many times. None makes it known.
    pub fn worker_restarted(&self, worker: &'static str, times: u64) {
        self.0.restarts.get_or_create(&WorkerLabel { worker }).inc_by(times);
    }

    /// Everything in the OpenMetrics text format. Without a `queue`, because the database did not tell, the queue's lines are left out:
    /// no number is better than an old one.
    pub fn render(&self, queue: Option<QueueDepth>, pulses: &[Pulse]) -> String {
        let mut text = String::new();
        let mut beside = Registry::with_prefix("herald");
        let failing: Family<WorkLabel, Gauge<f64, AtomicU64>> = Family::default();
        for pulse in pulses {
            let label = WorkLabel { work: pulse.work() };
            failing.get_or_create(&label).set(pulse.failing_for().as_secs_f64());
        }
        beside.register("work_failing_seconds", "For how long a kind of work has not been done", failing);
        beside.register(
            "log_lines_lost",
            "Lines that the log has left out, since it was not read as fast as it was written",
            ConstCounter::new(lines_lost()),
        );
        beside.register(
            "database_up",
            "Whether the queue could be counted for this scrape, which is given 3 s",
            gauge(queue.is_some()),
        );
        if let Some(queue) = queue {
            beside.register("queue_pending", "Deliveries due now or later", ConstGauge::new(queue.pending));
            beside.register(
                "queue_held",
                "Deliveries that wait for their subscription",
                ConstGauge::new(queue.held),
            );
            let age: Gauge<f64, AtomicU64> = Gauge::default();
            age.set(queue.oldest_due_age_s);
            beside.register(
                "queue_oldest_due_age_seconds",
                "How long the oldest unsent delivery is due",
                age,
            );
        }
        let written = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &beside))
            .and_then(|()| encode_eof(&mut text));
        if let Err(error) = written {
            // A String takes whatever is written to it; only a metric's own encoding could fail.
            let _ = write!(text, "# {error}");
        }
        text
    }

    /// Series that appear with their first event have no rate over it, so those that are known beforehand begin at nought.
    fn begin_at_zero(&self) {
        for origin in [Origin::Cancel, Origin::Publish] {
            self.events_accepted(origin, 0);
        }
        for surface in Surface::ALL {
            let surface = surface.as_str();
            for outcome in Outcome::ALL.into_iter().filter(|outcome| outcome.is_of_an_attempt()) {
                drop(self.0.attempts.get_or_create(&AttemptLabels { surface, outcome: outcome.as_str() }));
            }
        }
        let ends =
            [DeliveryState::Delivered, DeliveryState::Dead, DeliveryState::Cancelled, DeliveryState::Expired];
        for state in ends {
            drop(self.0.deliveries.get_or_create(&StateLabel { state: state.as_str() }));
        }
    }
}

impl Counters {
    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("herald");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        registry.register("http_requests", "HTTP requests answered", self.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "From a request's head to its answer's",
            self.request_seconds.clone(),
        );
        registry.register("events_accepted", "Events committed", self.events.clone());
        registry.register("attempts", "Delivery attempts that ended, by outcome", self.attempts.clone());
        registry.register(
            "attempt_duration_seconds",
            "How long delivery attempts took",
            self.attempt_seconds.clone(),
        );
        registry.register(
            "deliveries_ended",
            "Deliveries that reached a final state",
            self.deliveries.clone(),
        );
        registry.register("attempts_in_flight", "Delivery attempts under way", self.in_flight.clone());
        registry.register(
            "attempts_taking_long",
            "Of these, those that have been for over 0.2 to 0.4 seconds",
            self.taking_long.clone(),
        );
        registry.register(
            "worker_restarts",
            "Background workers that panicked and began anew",
            self.restarts.clone(),
        );
        registry
    }
}

fn gauge(on: bool) -> ConstGauge<i64> {
    ConstGauge::new(i64::from(on))
}

/// A client may invent methods; it may not invent series.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

fn status_class(status: u16) -> &'static str {
    match status {
        0..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500.. => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_what_is_shown() {
        let metrics = Metrics::default();
        let ms = Duration::from_millis;
        metrics.request_answered("redirect", "GET", 204, ms(3));
        metrics.request_answered("redirect", "BREW", 418, ms(3));
        metrics.events_accepted(Origin::Cancel, 3);
        metrics.attempt_finished(Surface::Redirect, Outcome::TimedOut, ms(30));
        metrics.delivery_ended(DeliveryState::Dead);
        let under_way = metrics.attempt_started();
        let _shared = metrics.clone().attempt_started();
        drop(under_way);
        metrics.attempts_taking_long(3);
        let text = metrics.render(
            Some(QueueDepth { pending: 7, held: 2, oldest_due_age_s: 1.5 }),
            &[Pulse::new("testing")],
        );
        for line in [
            r#"herald_http_requests_total{surface="redirect",method="GET",status="2xx"} 1"#,
            r#"herald_http_requests_total{surface="redirect",method="other",status="4xx"} 1"#,
            r#"herald_http_request_duration_seconds_count{surface="redirect"} 2"#,
            r#"herald_events_accepted_total{surface="redirect"} 3"#,
            r#"herald_events_accepted_total{surface="operator"} 0"#,
            r#"herald_attempts_total{surface="redirect",outcome="timed_out"} 1"#,
            r#"herald_attempts_total{surface="webhooks",outcome="delivered"} 0"#,
            r#"herald_attempt_duration_seconds_count{surface="redirect"} 1"#,
            r#"herald_deliveries_ended_total{state="dead"} 1"#,
            r#"herald_deliveries_ended_total{state="delivered"} 0"#,
            "herald_attempts_in_flight 1",
            "herald_attempts_taking_long 3",
            r#"herald_work_failing_seconds{work="testing"} 0.0"#,
            "herald_queue_pending 7",
            "herald_queue_held 2",
            "herald_queue_oldest_due_age_seconds 1.5",
            "herald_database_up 1",
            concat!(r#"herald_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_queue_that_could_not_be_read_is_left_out() {
        let text = Metrics::default().render(None, &[]);
        assert!(!text.contains("herald_queue"));
        assert!(text.lines().any(|line| line == "herald_database_up 0"));
    }

    #[test]
    fn two_instances_count_apart() {
        let (one, other) = (Metrics::default(), Metrics::default());
        one.delivery_ended(DeliveryState::Dead);
        let line = r#"herald_deliveries_ended_total{state="dead"} 0"#;
        assert!(other.render(None, &[]).contains(line));
    }
}
