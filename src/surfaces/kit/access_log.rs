//! One log line and one count for each request, on either listener.
//!
//! What is never logged: query strings, headers, bodies, and what a path has beyond a length.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::guard;
use crate::domain::id::PartnerId;
use crate::telemetry::Metrics;

const PATH_CHARS_MAX: usize = 200;

/// What the layer stands on.
#[derive(Clone)]
pub struct AccessLog {
    pub metrics: Metrics,
    /// The surface that a path belongs to, as one of a few fixed words.
    pub surface_of: fn(&str) -> &'static str,
}

/// An extension of every request: whoever finds out who sends it says so here.
#[derive(Debug, Clone, Default)]
pub struct CallerSlot(Arc<OnceLock<PartnerId>>);

impl CallerSlot {
    /// The first word counts.
    pub fn note(&self, partner: PartnerId) {
        let _already_known = self.0.set(partner);
    }
}

/// The layer right inside [`super::conversation::converse`], whose ids it logs.
pub async fn record(mut request: Request, next: Next, log: AccessLog) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let surface = (log.surface_of)(request.uri().path());
    let path: String = request.uri().path().chars().take(PATH_CHARS_MAX).collect();
    let conversation = guard::conversation(&request);
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());

    let response = next.run(request).await;

    let (took, status) = (began.elapsed(), response.status().as_u16());
    log.metrics.request_answered(surface, method.as_str(), status, took);
    tracing::info!(
        target: "herald::access",
        surface,
        method = %method,
        path = ?path,
        status,
        latency_ms = took.as_secs_f64() * 1_000.0,
        request_id = %conversation.request_id,
        correlation_id = %conversation.correlation_id,
        partner = caller.0.get().map(tracing::field::display),
        "answered"
    );
    response
}
