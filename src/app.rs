//! The parts put together: from a checked configuration and a database to a running server, and back.

mod start_error;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::{ServiceExt as _, service_fn};
use url::Url;

use crate::config::{Config, Mode, RATE_PER_S_MAX};
use crate::domain::dialect::Dialect;
use crate::domain::egress::{EgressPolicy, PortRule};
use crate::domain::id::NodeId;
use crate::domain::key_ring::KeyRing;
use crate::domain::retry::RetryPolicy;
use crate::domain::surface::Surface;
use crate::engine::outbound::{Extras, Limits, Outbound};
use crate::engine::{self, Dialects, Engine};
use crate::hub::deliveries::PolicyLimits;
use crate::hub::handoff::handoff;
use crate::hub::ingest::LeaseTerms;
use crate::hub::ring_fit::{self, Fit};
use crate::hub::{self, Hub};
use crate::listener::{self, Responder};
use crate::operator::{self, Operator};
use crate::store;
use crate::surfaces::kit::access_log::{AccessLog, record};
use crate::surfaces::kit::conversation::converse;
use crate::surfaces::kit::{Api, ApiSettings, DefaultPolicy};
use crate::surfaces::{self, notifications, redirect, webhooks};
use crate::telemetry::{Health, Metrics};

pub use self::start_error::StartError;

/// Fresh deliveries in memory at most, waiting or under way, if their events are small (larger ones take more of the room: 80 MB in all); what
/// does not fit waits in the database.
const LEASES_IN_MEMORY_MAX: usize = 20_000;

/// Why a server stopped that nobody asked to.
#[derive(Debug, thiserror::Error)]
#[error("the worker `{worker}` ended by itself")]
pub struct Fallen {
    worker: &'static str,
}

/// A server that has its database and its background half, and waits to be given listeners.
pub struct App {
    config: Config,
    hub: Hub,
    api: Api,
    engine: Engine,
    health: Health,
    metrics: Metrics,
}

impl App {
    /// Connects, migrates and starts the background half. `keys` opens what the database holds sealed.
    pub async fn start(
        config: Config,
        database: PgConnectOptions,
        keys: KeyRing,
        public_url: Url,
    ) -> Result<Self, StartError> {
        let timeout = Duration::from_millis(config.delivery_timeout_ms);
        let egress = Arc::new(egress_policy(&config));
        let extras = Extras {
            proxy: config.egress_proxy.clone(),
            extra_roots: config.egress_authorities.clone(),
            ..Extras::default()
        };
        // Before anything is changed: who cannot start leaves the schema as it was.
        let outbound = Outbound::with(egress.clone(), limits(timeout), extras)?;
        let pool = store::sessions::connect(database).await?;
        store::migrate(&pool, |blockers| {
            tracing::warn!(
                "the schema waits for a lock that others hold, perhaps {blockers}; it is asked for again"
            );
        })
        .await?;
        match ring_fit::fit(&pool, &keys).await? {
            Fit { misfit: Some(misfit), opens_something: false } => return Err(StartError::Keys(misfit)),
            Fit { misfit: Some(misfit), .. } => tracing::warn!("HERALD_SECRET_KEYS: {misfit}"),
            Fit { misfit: None, .. } => {}
        }
        let (health, metrics) = (Health::default(), Metrics::default());
        let retry =
            RetryPolicy { delays: config.retry_delays_s.iter().copied().map(Duration::from_secs).collect() };
        let (node, lease) = (NodeId::new(), Duration::from_millis(config.lease_ms));
        let policy_limits = PolicyLimits {
            timeout_max: timeout,
            retries_max: config.retries_max,
            retry_delay_max: Duration::from_secs(config.retry_delay_max_s),
            rate_per_s_max: config.callback_rate_per_s.unwrap_or(RATE_PER_S_MAX),
        };
        let default_policy =
            DefaultPolicy { retry: retry.clone(), timeout, rate_per_s: config.callback_rate_per_s };
        let (handoff, intake) = handoff(LEASES_IN_MEMORY_MAX);
        let settings = hub::Settings {
            session_ttl: Duration::from_secs(config.session_ttl_s),
            policy_limits,
            partner_rate_per_s: config.partner_rate_per_s,
        };
        let hub = Hub::new(
            pool.clone(),
            keys.clone(),
            settings,
            handoff,
            LeaseTerms { node, duration: lease },
            &health,
            &metrics,
        );
        let engine = Engine::start(engine::Parts {
            pool,
            keys: keys.clone(),
            egress: egress.clone(),
            outbound,
            dialects: dialects(),
            intake,
            settings: engine::Settings {
                node,
                lease,
                timeout,
                retry: retry.clone(),
                disable_after: Duration::from_secs(config.disable_after_days * 86_400),
                in_flight_max: config.in_flight_max,
                callback_in_flight_max: config.callback_in_flight_max,
                callback_rate_per_s: config.callback_rate_per_s,
                batch_linger: Duration::from_millis(config.batch_linger_ms),
                retention_days: config.retention_days,
                backlog_max: config.backlog_max,
            },
            health: health.clone(),
            metrics: metrics.clone(),
        });
        let settings = ApiSettings {
            egress,
            public_url,
            body_bytes_max: config.body_bytes_max,
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            keys,
            default_policy,
            trusted_proxies: config.trusted_proxies.as_slice().into(),
        };
        let api = Api { hub: hub.clone(), settings: Arc::new(settings) };
        Ok(Self { config, hub, api, engine, health, metrics })
    }

    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Serves until `stop` says so, then drains within the configured bound.
    ///
    /// # Errors
    /// It stopped by itself, in the same way, since a worker that others cannot do without had ended.
    pub async fn serve(
        self,
        api: TcpListener,
        operator: TcpListener,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Fallen> {
        let Self { config, hub, api: state, engine, health, metrics } = self;
        let bound = Duration::from_millis(config.stop_timeout_ms);
        let drain = bound / 3;
        health.serving();
        let settings = operator::Settings {
            body_bytes_max: config.body_bytes_max,
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            trusted_proxies: config.trusted_proxies.as_slice().into(),
        };
        let operator_state = Operator::new(hub, health.clone(), metrics.clone(), Arc::new(settings));
        let answers = (self::api(state, metrics), self::operator(operator_state));
        let (stopping, stopped) = watch::channel(false);
        let bounds = listener::Bounds {
            connections_max: config.connections_max,
            unread_within: listener::UNREAD_WITHIN,
            drain,
        };
        let serving_api = listener::serve(api, answers.0, bounds, stopped.clone());
        let serving_operator = listener::serve(operator, answers.1, bounds, stopped);
        let started_to_stop = async {
            let fallen = tokio::select! {
                biased;
                worker = health.fallen() => Err(Fallen { worker }),
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            };
            if let Err(fallen) = &fallen {
                tracing::error!("{fallen}: stopping");
                // The others would go on sending what nobody records, or claiming what nobody sends.
                engine.begin_stop();
            }
            health.draining();
            stopping.send_replace(true);
            (fallen, Instant::now())
        };
        let ((fallen, stop_began), (), ()) = tokio::join!(started_to_stop, serving_api, serving_operator);
        let left = bound
            .saturating_sub(stop_began.elapsed())
            .saturating_sub(engine::WRITE_RESULTS_WITHIN + engine::RELEASE_WITHIN);
        engine.stop(left, fallen.is_err()).await;
        fallen
    }
}

fn egress_policy(config: &Config) -> EgressPolicy {
    let mut policy = match config.mode {
        Mode::Development => EgressPolicy::development(),
        Mode::Production => EgressPolicy::production(),
    };
    policy.allow.clone_from(&config.egress_allow);
    policy.http_allowed = config.egress_http;
    if let Some(ports) = &config.egress_ports {
        policy.ports = PortRule::Only(ports.clone());
    }
    policy.nat64_prefix = config.nat64_prefix;
    policy
}

/// How long a first byte may take is the attempt's own matter where the operator gives attempts longer than usual.
fn limits(timeout: Duration) -> Limits {
    let usual = Limits::default();
    Limits { first_byte: usual.first_byte.max(timeout), ..usual }
}

fn dialects() -> Dialects {
    Dialects::from([
        (Surface::Redirect, Arc::new(redirect::Redirect) as Arc<dyn Dialect>),
        (Surface::Notifications, Arc::new(notifications::Notifications)),
        (Surface::Webhooks, Arc::new(webhooks::Webhooks)),
    ])
}

/// What answers the API listener: a path's prefix says whose it is, and in whose shape an error about it is written. What is nobody's is redirect's.
pub fn api(api: Api, metrics: Metrics) -> impl Responder {
    let trusted_proxies = api.settings.trusted_proxies.clone();
    let surfaces = Arc::new(Surfaces {
        redirect: redirect::Site::new(api.clone()),
        notifications: notifications::router(api.clone()),
        webhooks: webhooks::router(api.clone()),
        own: surfaces::herald::router(api),
    });
    observed(move |request| surfaces.answer(request), AccessLog { metrics, surface_of, trusted_proxies })
}

struct Surfaces {
    redirect: redirect::Site,
    notifications: Router,
    webhooks: Router,
    own: Router,
}

impl Surfaces {
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let router = match surface_of(request.uri().path()) {
            "herald" => &self.own,
            "notifications" => &self.notifications,
            "webhooks" => &self.webhooks,
            _ => return Either::Left(self.redirect.answer(request)),
        };
        Either::Right(ask(router.clone(), request))
    }
}

/// The API that a path belongs to, by its first part.
fn surface_of(path: &str) -> &'static str {
    match path.split('/').nth(1).unwrap_or_default() {
        "herald" => "herald",
        notifications::PREFIX => "notifications",
        first if webhooks::PREFIXES.contains(&first) => "webhooks",
        _ => "redirect",
    }
}

/// What answers the operator's listener.
pub fn operator(operator: Operator) -> impl Responder {
    let metrics = operator.metrics.clone();
    let trusted_proxies = operator.settings.trusted_proxies.clone();
    let router = operator::router(operator);
    observed(
        move |request| ask(router.clone(), request),
        AccessLog { metrics, surface_of: |_| "operator", trusted_proxies },
    )
}

/// A whole listener: the ids of the exchange outermost, then the line that names them, then whoever answers. These are one service,
/// since axum would put layers around each route, in boxes of their own.
fn observed<F>(answer: impl Fn(Request) -> F + Clone + Send + 'static, log: AccessLog) -> impl Responder
where
    F: Future<Output = Response> + Send,
{
    let log = Arc::new(log);
    service_fn(move |request: Request| {
        let (answer, log) = (answer.clone(), log.clone());
        converse(request, |request| record(request, log, answer)).map(Ok)
    })
}

fn ask(router: Router, request: Request) -> impl Future<Output = Response> + Send {
    router.oneshot(request).map(|Ok(response)| response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_02_what_may_be_called_is_what_the_mode_and_the_operator_say_and_no_more() {
        use crate::config::RawConfig;
        let (_, ring) = KeyRing::generate();
        let say = |text: &str| Some(text.to_owned());
        let policy =
            |raw: RawConfig| egress_policy(&Config::check(&raw).unwrap_or_else(|wrong| panic!("{wrong}")));
        let production = || RawConfig {
            mode: say("production"),
            secret_keys: ring.expose_str().map(str::to_owned),
            public_url: say("https://herald.example.com"),
            ..RawConfig::default()
        };
        assert_eq!(policy(RawConfig::default()), EgressPolicy::development());
        assert_eq!(policy(production()), EgressPolicy::production());
        let said = policy(RawConfig {
            egress_allow: say("10.1.0.0/16"),
            egress_ports: say("443,9443"),
            egress_http: say("true"),
            nat64_prefix: say("64:ff9b::/96"),
            ..production()
        });
        let expected = EgressPolicy {
            allow: vec!["10.1.0.0/16".parse().unwrap()],
            ports: PortRule::Only(vec![443, 9443]),
            http_allowed: true,
            nat64_prefix: crate::domain::egress::Nat64Prefix::parse("64:ff9b::/96").ok(),
            ..EgressPolicy::production()
        };
        assert_eq!(said, expected);
        let strict = policy(RawConfig { egress_http: say("false"), ..RawConfig::default() });
        assert!(!strict.http_allowed && strict.loopback_allowed);
    }

    #[test]
    fn every_path_belongs_to_one_api_by_its_first_part() {
        for (paths, surface) in [
            (&["/herald", "/herald/", "/herald/v1/deliveries", "/herald/nothing"][..], "herald"),
            (&["/rest", "/rest/api/v1.3/auth/token", "/rest/nothing"], "notifications"),
            (
                &[
                    "/sync",
                    "/async/webhooks/subscriptions",
                    "/api/X",
                    "/json/reply/X",
                    "/jsv",
                    "/xml",
                    "/csv/",
                ],
                "webhooks",
            ),
            (
                &[
                    "/",
                    "",
                    "/heraldry",
                    "/redirect-sessions/herald",
                    "/Herald",
                    "/synchronous",
                    "/restaurant",
                    "/redirect-sessions",
                ],
                "redirect",
            ),
        ] {
            for path in paths {
                assert_eq!(surface_of(path), surface, "{path}");
            }
        }
    }
}
