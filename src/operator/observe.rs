//! `/livez`, `/readyz`, `/metrics`: for machines that watch, without a key. They answer whatever state the database is in.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{Operator, health};
use crate::telemetry::metrics::CONTENT_TYPE as OPEN_METRICS;

const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// That it answers is the answer.
pub async fn livez() -> Json<health::Report> {
    Json(health::Report::default())
}

pub async fn readyz(State(operator): State<Operator>) -> Response {
    let report = health::report(&operator.hub, &operator.health).await;
    if report.is_ok() {
        Json(report).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, RETRY_AFTER_S)], Json(report)).into_response()
    }
}

pub async fn metrics(State(operator): State<Operator>) -> Response {
    let queue = health::queue_depth(&operator.hub).await;
    ([(CONTENT_TYPE, OPEN_METRICS)], operator.metrics.render(queue, &operator.health.pulses()))
        .into_response()
}
