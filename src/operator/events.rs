//! `POST /events`: one event as JSON, or a batch with one on each line. Its body limits are its own, because an event may be larger than
//! any other request, and a batch much larger. A batch that says it is small is treated as an event is: it needs no place.

use axum::Json;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use super::Operator;
use super::event_body::{self, EVENT_BYTES_MAX};
use super::extract::Producer;
use crate::domain::Error;
use crate::domain::caller::Caller;
use crate::hub::publish::Receipt;
use crate::surfaces::kit::body;
use crate::surfaces::kit::problem::Failure;

const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// In so much are some dozens of usual events, and no more than hundreds of the smallest.
const SMALL_BYTES_MAX: usize = 16 * 1024;

pub async fn publish(
    State(operator): State<Operator>,
    Producer(caller): Producer,
    request: Request,
) -> Result<Response, Failure> {
    if body::is_ndjson(request.headers()) {
        publish_batch(&operator, &caller, request).await
    } else {
        publish_one(&operator, &caller, request).await
    }
}

async fn publish_one(operator: &Operator, caller: &Caller, request: Request) -> Result<Response, Failure> {
    let event = event_body::one(&body::json(request, EVENT_BYTES_MAX).await?)?;
    let receipts = operator.hub.publish(caller, vec![event]).await?;
    let receipt = receipts.first().ok_or_else(|| Error::internal("an event was stored without a receipt"))?;
    Ok((StatusCode::ACCEPTED, Json(Accepted::from(receipt))).into_response())
}

async fn publish_batch(operator: &Operator, caller: &Caller, request: Request) -> Result<Response, Failure> {
    let body = request.into_body();
    let is_small = body.size_hint().upper().is_some_and(|bytes_max| bytes_max <= SMALL_BYTES_MAX as u64);
    let (events, _place) = if is_small {
        (event_body::batch(&body::read(body, SMALL_BYTES_MAX).await?)?, None)
    } else {
        let place = operator.batch_places.take(caller.partner).await?;
        let text = body::read(body, BATCH_BYTES_MAX).await?;
        let (events, place) = place.apart(move || event_body::batch(&text)).await?;
        (events?, Some(place))
    };
    let receipts = operator.hub.publish(caller, events).await?;
    let mut lines = Vec::with_capacity(receipts.len() * 64);
    for receipt in &receipts {
        serde_json::to_writer(&mut lines, &Accepted::from(receipt)).map_err(Error::internal)?;
        lines.push(b'\n');
    }
    Ok((StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

#[derive(Serialize)]
struct Accepted {
    id: Uuid,
    matched: i32,
}

impl From<&Receipt> for Accepted {
    fn from(receipt: &Receipt) -> Self {
        Self { id: receipt.id.0, matched: receipt.matched }
    }
}
