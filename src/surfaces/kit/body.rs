//! Reading a request's body: within its bound, and of the right type.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::guard::{self, Trouble};

/// The whole body, at most `bytes_max`.
/// Errors: `PayloadTooLarge`, or `BrokenBody` when the client stopped sending.
pub async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Trouble> {
    match guard::waiting_for_body(Limited::new(body, bytes_max).collect()).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Trouble::PayloadTooLarge { bytes_max })
        }
        Err(_) => Err(Trouble::BrokenBody),
    }
}

/// The whole body of a request that has to send JSON, or nothing at all: whether nothing will do is the reader's to say.
/// Errors: `UnsupportedMediaType`, and those of [`read`].
pub async fn json(request: Request, bytes_max: usize) -> Result<Bytes, Trouble> {
    let says_json = is_json(request.headers());
    if !says_json && request.headers().contains_key(CONTENT_TYPE) {
        return Err(Trouble::UnsupportedMediaType);
    }
    let body = read(request.into_body(), bytes_max).await?;
    if says_json || body.is_empty() { Ok(body) } else { Err(Trouble::UnsupportedMediaType) }
}

/// Whether the request says that its body is a JSON text on each line.
pub fn is_ndjson(headers: &HeaderMap) -> bool {
    essence(headers) == "application/x-ndjson"
}

/// Whether the request says that its body is JSON: `application/json` or any `+json`, with whatever parameters.
pub fn is_json(headers: &HeaderMap) -> bool {
    let essence = essence(headers);
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The media type without its parameters, in lower case; empty when there is none.
pub fn essence(headers: &HeaderMap) -> String {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
