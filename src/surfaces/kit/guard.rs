//! What can befall a request before or around its handler, and what turns it into a surface's own error shape.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt as _;

use super::conversation::Conversation;
use crate::domain::Error;

/// Trouble that has nothing to do with what was asked for. Each surface has an error for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No such path.
    NotFound,
    MethodNotAllowed,
    UnsupportedMediaType,
    PayloadTooLarge {
        bytes_max: usize,
    },
    /// The client stopped sending in the middle of the body.
    BrokenBody,
    /// The client took longer than it may to send its body.
    TimedOut,
    /// All of the request had arrived, and the handler took longer than it may: that is ours.
    Overran,
    /// A panic. What it said is in the log and nowhere else.
    Panicked,
}

tokio::task_local! {
    /// Whether the handler waits for the client to go on sending.
    static WAITS_FOR_BODY: Cell<bool>;
}

/// Says, while a body is read, whose fault it is should the time run out meanwhile.
pub(super) async fn waiting_for_body<T>(read: impl Future<Output = T>) -> T {
    let told = |waits: bool| WAITS_FOR_BODY.try_with(|cell| cell.set(waits));
    let _outside_of_a_guard = told(true);
    let read = read.await;
    let _outside_of_a_guard = told(false);
    read
}

/// Bounds the handling of a request in time and catches its panics. `write` is how its surface writes errors; the client is not told what a
/// panic said.
pub fn guard(
    conversation: Conversation,
    timeout: Duration,
    handled: impl Future<Output = Response>,
    write: impl FnOnce(&Trouble, &Conversation) -> Response,
) -> impl Future<Output = Response> {
    let guarded = tokio::time::timeout(timeout, AssertUnwindSafe(handled).catch_unwind());
    let guarded = guarded.map(move |handled| match handled {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            tracing::error!(request_id = %conversation.request_id, "a handler panicked");
            write(&Trouble::Panicked, &conversation)
        }
        Err(_elapsed) if WAITS_FOR_BODY.with(Cell::get) => write(&Trouble::TimedOut, &conversation),
        Err(_elapsed) => {
            tracing::warn!(
                request_id = %conversation.request_id,
                "a request was not answered within HERALD_REQUEST_TIMEOUT_MS ({} ms) and ended with 503",
                timeout.as_millis()
            );
            write(&Trouble::Overran, &conversation)
        }
    });
    WAITS_FOR_BODY.scope(Cell::new(false), guarded)
}

/// The ids of a request's exchange, which [`super::conversation::converse`] put there.
pub fn conversation(request: &Request) -> Conversation {
    Conversation::among(request.extensions())
}

/// Logs a failure that is ours, once, with its chain of causes. The caller's own mistakes are no news.
pub fn log_failure(error: &Error, conversation: &Conversation) {
    match error {
        Error::Internal(_) => {
            tracing::error!(request_id = %conversation.request_id, error = %error.chain(), "a request failed");
        }
        Error::Unavailable(_) => {
            tracing::warn!(request_id = %conversation.request_id, error = %error.chain(), "a request could not be served now");
        }
        _ => {}
    }
}
