//! `POST /events`: one event as JSON, or a batch with one on each line. Its body limits are its own, because an event may be larger than
//! any other request, and a batch much larger.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Operator;
use super::extract::Producer;
use crate::domain::caller::Caller;
use crate::domain::id::{PartnerId, parse_uuid};
use crate::domain::publication::{
    ATTRIBUTE_NAME_CHARS_MAX, Attributes, COMPLAINTS_MAX, EventKey, EventType, OrderingKey, Publication,
    field,
};
use crate::domain::{Error, Violations};
use crate::hub::publish::Receipt;
use crate::surfaces::kit::body;
use crate::surfaces::kit::fields::Fields;
use crate::surfaces::kit::problem::Failure;

/// Of one event, as a body or as a line.
const EVENT_BYTES_MAX: usize = 256 * 1024;
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
const BATCH_LINES_MAX: usize = 10_000;
/// Batches in memory at once: what is beyond waits, unread, within the bound of its request.
const BATCHES_AT_ONCE: usize = 8;

static BATCHES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(BATCHES_AT_ONCE));

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
    let event = read(&body::json(request, EVENT_BYTES_MAX).await?, None)?;
    let receipts = operator.hub.publish(caller, vec![event]).await?;
    let receipt = receipts.first().ok_or_else(|| Error::internal("an event was stored without a receipt"))?;
    Ok((StatusCode::ACCEPTED, Json(Accepted::from(receipt))).into_response())
}

async fn publish_batch(operator: &Operator, caller: &Caller, request: Request) -> Result<Response, Failure> {
    let _room = BATCHES.acquire().await.map_err(Error::internal)?;
    let events = read_batch(&body::read(request.into_body(), BATCH_BYTES_MAX).await?)?;
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

/// An event on each line; blank lines are counted and skipped.
fn read_batch(text: &[u8]) -> Result<Vec<Publication>, Violations> {
    let (mut events, mut violations) = (Vec::new(), Violations::default());
    let is_event = |(_, line): &(usize, &[u8])| !line.iter().all(u8::is_ascii_whitespace);
    for (place, line) in text.split(|byte| *byte == b'\n').enumerate().filter(is_event) {
        if events.len() == BATCH_LINES_MAX {
            return Err(Violations::one("body", format!("must have at most {BATCH_LINES_MAX} events")));
        }
        match read(line, Some(place + 1)) {
            Ok(event) => events.push(event),
            Err(wrong) => violations.extend(wrong),
        }
        if violations.iter().count() >= COMPLAINTS_MAX {
            break;
        }
    }
    if violations.is_empty() && events.is_empty() {
        return Err(Violations::one("body", "must not be empty; send an event on each line"));
    }
    if violations.is_empty() { Ok(events) } else { Err(violations) }
}

fn read(text: &[u8], line: Option<usize>) -> Result<Publication, Violations> {
    let read = if text.len() > EVENT_BYTES_MAX {
        Err(Violations::one("body", format!("is larger than {EVENT_BYTES_MAX} bytes")))
    } else {
        Fields::parse(text, "body").and_then(|fields| publication(fields, line))
    };
    read.map_err(|violations| named_by_line(violations, line))
}

/// Complaints about a line as a whole are about the line.
fn named_by_line(violations: Violations, line: Option<usize>) -> Violations {
    let Some(number) = line else { return violations };
    let mut named = Violations::default();
    for one in violations.iter() {
        let name = if one.field == "body" { format!("line {number}") } else { field(line, &one.field) };
        named.add(name, one.message.clone());
    }
    named
}

fn publication(mut fields: Fields<'_>, line: Option<usize>) -> Result<Publication, Violations> {
    let kind = fields.required("type", EventType::parse);
    // Only syntax and depth are judged in here, and both were.
    let data = fields.required("data", |data: &RawValue| Ok::<_, String>(data.get().as_bytes().to_vec()));
    let attributes = fields.object("attributes", attributes).unwrap_or_default();
    let ordering_key = fields.optional("orderingKey", OrderingKey::parse);
    let key = fields.optional("id", EventKey::parse);
    let partner = fields.optional("partnerId", |text: String| parse_uuid(&text).map(PartnerId));
    match (kind, data) {
        (Some(kind), Some(data)) if fields.violations.is_empty() => {
            Ok(Publication { line, partner, kind, data, attributes, ordering_key, key })
        }
        _ => Err(fields.violations),
    }
}

fn attributes(fields: &mut Fields<'_>) -> Option<Attributes> {
    let mut attributes = Attributes::default();
    for name in fields.names() {
        if name.chars().count() > ATTRIBUTE_NAME_CHARS_MAX {
            let shown: String = name.chars().take(ATTRIBUTE_NAME_CHARS_MAX).collect();
            fields.refuse(&shown, "must have a name of 1 to 100 characters");
            continue;
        }
        fields.required(&name, |value: String| attributes.add(&name, value));
    }
    Some(attributes)
}
