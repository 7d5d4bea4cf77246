//! What a path's parameters say.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

/// The first parameter of the route's path, percent-decoded; empty when there is none or it is unreadable.
pub async fn first_parameter<S: Send + Sync>(parts: &mut Parts, state: &S) -> String {
    let parameters = RawPathParams::from_request_parts(parts, state).await;
    let first =
        parameters.ok().and_then(|parameters| parameters.iter().next().map(|(_, value)| value.to_owned()));
    first.unwrap_or_default()
}
