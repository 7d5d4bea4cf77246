//! For tests of what happens around handlers: an API whose database nobody reaches.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use sqlx::postgres::PgPoolOptions;
use tower::ServiceExt as _;

use super::body;
use super::conversation::converse;
use super::routes::Route;
use super::{Api, ApiSettings, DefaultPolicy};
use crate::domain::Error;
use crate::domain::egress::EgressPolicy;
use crate::domain::id::NodeId;
use crate::domain::key_ring::KeyRing;
use crate::hub::deliveries::PolicyLimits;
use crate::hub::handoff::handoff;
use crate::hub::ingest::LeaseTerms;
use crate::hub::{Hub, Settings};
use crate::telemetry::{Health, Metrics};

/// An API over a database that is never reached.
pub fn api() -> Api {
    let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@localhost/nothing").unwrap();
    let (keys, _) = KeyRing::generate();
    let policy_limits = PolicyLimits {
        timeout_max: Duration::from_secs(15),
        retries_max: 10,
        retry_delay_max: Duration::from_secs(60),
        rate_per_s_max: 100,
    };
    let settings =
        Settings { session_ttl: Duration::from_secs(900), policy_limits, partner_rate_per_s: None };
    let lease = LeaseTerms { node: NodeId::new(), duration: Duration::from_secs(30) };
    let hub =
        Hub::new(pool, keys.clone(), settings, handoff(1).0, lease, &Health::default(), &Metrics::default());
    let settings = ApiSettings {
        egress: Arc::new(EgressPolicy::production()),
        public_url: "https://herald.example/base/".parse().unwrap(),
        body_bytes_max: 1_000,
        request_timeout: Duration::from_millis(20),
        keys,
        default_policy: DefaultPolicy::default(),
        trusted_proxies: Arc::from([]),
    };
    Api { hub, settings: Arc::new(settings) }
}

/// Two routes that misbehave: one panics, the other never answers, or, by POST, waits for a body that never comes.
pub fn misbehaving(panic: &'static str, stall: &'static str) -> [Route<Api>; 2] {
    [
        Route::new("GET", panic, get(async || -> Response { panic!("canary") })),
        Route::new(
            "GET",
            stall,
            get(async || std::future::pending::<Response>().await).post(async || -> Response {
                let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Error>>());
                let ended = body::read(body, 1).await;
                panic!("{ended:?}")
            }),
        ),
    ]
}

/// Status, headers and body of what a surface answers behind a listener.
pub async fn ask(
    surface: Router,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> (u16, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = async |request| surface.oneshot(request).await.unwrap_or_else(|never| match never {});
    let response = converse(request.body(body.into()).unwrap(), answer).await;
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
}
