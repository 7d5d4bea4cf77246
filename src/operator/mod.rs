//! The operator's listener: partners, their keys and customers, the completion of sessions, publishing, and how the process is doing. It speaks the same
//! dialect of errors as Herald's own API; what needs a key needs one with the operator
//! scope, and publishing one with the producer scope.

pub mod event_body;
mod events;
mod extract;
mod handlers;
pub mod health;
mod observe;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};

use ipnet::IpNet;

use crate::hub::Hub;
use crate::hub::places::Places;
use crate::surfaces::kit::guard;
use crate::surfaces::kit::problem::{write_failures, write_trouble};
use crate::surfaces::kit::routes::{self, Route};
use crate::telemetry::{Health, Metrics};

/// Batches in memory at once.
const BATCHES_MAX: usize = 8;
/// Of one partner: one is read while the other is being committed.
const BATCHES_OF_A_PARTNER_MAX: usize = 2;

/// What the handlers stand on. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    pub hub: Hub,
    pub health: Health,
    pub metrics: Metrics,
    pub settings: Arc<Settings>,
    batch_places: Arc<Places>,
}

impl Operator {
    pub fn new(hub: Hub, health: Health, metrics: Metrics, settings: Arc<Settings>) -> Self {
        let batch_places = Places::new(BATCHES_MAX, BATCHES_OF_A_PARTNER_MAX);
        Self { hub, health, metrics, settings, batch_places: Arc::new(batch_places) }
    }
}

#[derive(Debug)]
pub struct Settings {
    pub body_bytes_max: usize,
    /// How long a whole request may take, its body included.
    pub request_timeout: Duration,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
}

pub fn routes() -> Vec<Route<Operator>> {
    vec![
        Route::new("POST", "/partners", post(handlers::create_partner)),
        Route::new("POST", "/partners/{partnerId}/keys", post(handlers::create_key)),
        Route::new("DELETE", "/partners/{partnerId}/keys/{keyId}", delete(handlers::revoke_key)),
        Route::new("POST", "/partners/{partnerId}/customers", post(handlers::create_customer)),
        Route::new("DELETE", "/customers/{customerId}", delete(handlers::erase_customer)),
        Route::new(
            "POST",
            "/redirect-sessions/{redirectSessionId}/complete",
            post(handlers::complete_session),
        ),
        Route::new("POST", "/events", post(events::publish)),
        Route::new("GET", "/livez", get(observe::livez)),
        Route::new("GET", "/readyz", get(observe::readyz)),
        Route::new("GET", "/metrics", get(observe::metrics)),
    ]
}

pub fn router(operator: Operator) -> Router {
    routes::router(routes())
        .fallback(handlers::nothing_here)
        .method_not_allowed_fallback(handlers::no_such_method)
        .layer(from_fn(write_failures))
        .layer(from_fn_with_state(operator.clone(), bound))
        .with_state(operator)
}

async fn bound(State(operator): State<Operator>, request: Request, next: Next) -> Response {
    let (conversation, timeout) = (guard::conversation(&request), operator.settings.request_timeout);
    guard::guard(conversation, timeout, next.run(request), write_trouble).await
}
