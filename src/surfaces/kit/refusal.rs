//! What refusals say in every dialect: how to authenticate, when to come again, and of what there was too much.

use std::time::Duration;

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue};

use crate::domain::error::Limit;

/// The `WWW-Authenticate` of every 401.
pub const CHALLENGE: &str = "Bearer realm=\"herald\"";
/// When a 503 asks to come again: about as long as a database takes to restart, whoever restarts it.
pub const UNAVAILABLE_FOR: Duration = Duration::from_secs(5);

/// What `Retry-After` says of a time: whole seconds, at least one, never less than it.
pub fn retry_after_s(after: Duration) -> u32 {
    u32::try_from(after.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

/// The headers of a refusal with this status, which may ask to come again after some time.
pub fn headers(status: u16, after: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    if let Some(after) = after {
        headers.insert(RETRY_AFTER, retry_after_s(after).into());
    }
    headers
}

/// What a limit was exceeded by, as the beginning of a sentence or all of it.
pub fn exceeded(limit: Limit) -> &'static str {
    match limit {
        Limit::Requests => "There were more requests within a second than the partner may send",
        Limit::Backlog => "More deliveries are unfinished than the server takes",
        Limit::Trials => "The partner has as many callbacks tried out as it may at once",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_up_and_never_nothing() {
        for (ms, s) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (5_000, 5), (u64::MAX, u32::MAX)] {
            assert_eq!(retry_after_s(Duration::from_millis(ms)), s, "{ms}");
        }
    }
}
