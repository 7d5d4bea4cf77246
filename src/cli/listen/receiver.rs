//! Takes callbacks in, has them judged and shown, and answers as it was told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use tokio::sync::watch;

use super::callback::{Callback, Expected};
use super::show::{Format, show};
use crate::clock;

/// Far above anything that is delivered; a bound all the same.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Beyond this many ids counting starts anew, so that a receiver left running does not grow without end.
const IDS_MAX: usize = 1_000_000;

/// How to answer.
pub struct Behaviour {
    pub answer: StatusCode,
    /// This many callbacks are answered with 500 first.
    pub fail_first: u64,
    pub stall: Duration,
}

pub struct Receiver {
    expected: Expected,
    behaviour: Behaviour,
    format: Format,
    seen: Mutex<Seen>,
    /// How many callbacks have been answered.
    answered: watch::Sender<u64>,
}

#[derive(Default)]
struct Seen {
    callbacks: u64,
    attempts: HashMap<String, u64>,
}

impl Receiver {
    pub fn new(
        expected: Expected,
        behaviour: Behaviour,
        format: Format,
        answered: watch::Sender<u64>,
    ) -> Receiver {
        Receiver { expected, behaviour, format, seen: Mutex::default(), answered }
    }

    /// Counts a callback: how often its id has been seen, this time included, and the status to answer with.
    fn count(&self, callback: &Callback) -> (Option<u64>, StatusCode) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.callbacks += 1;
        let failing = seen.callbacks <= self.behaviour.fail_first;
        if seen.attempts.len() >= IDS_MAX {
            seen.attempts.clear();
        }
        let attempt = callback.webhook_id.as_ref().map(|id| {
            let attempts = seen.attempts.entry(id.clone()).or_default();
            *attempts += 1;
            *attempts
        });
        (attempt, if failing { StatusCode::INTERNAL_SERVER_ERROR } else { self.behaviour.answer })
    }
}

/// Shown when it has arrived, counted as answered only when the answer goes out: a sender that hangs up while we stall
/// drops this future at the stall.
pub async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> StatusCode {
    let (parts, body): (_, Body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE;
    };
    let callback = Callback::new(clock::now(), parts, body, &receiver.expected);
    let (attempt, status) = receiver.count(&callback);
    show(receiver.format, &callback, attempt, status);
    tokio::time::sleep(receiver.behaviour.stall).await;
    receiver.answered.send_modify(|answered| *answered += 1);
    status
}
