//! `x-request-id` and `x-correlation-id`: every response carries both, echoed or made up.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use futures_util::FutureExt as _;
use uuid::Uuid;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// An id that a client may choose is echoed and logged: it stays short and printable.
const ID_BYTES_MAX: usize = 128;

/// The ids of the present exchange; an extension of its request.
#[derive(Debug, Clone)]
pub struct Conversation {
    pub request_id: Arc<str>,
    pub correlation_id: Arc<str>,
}

impl Conversation {
    /// The ids that [`converse`] put there.
    pub fn among(extensions: &Extensions) -> Self {
        let nameless = || Self { request_id: Arc::default(), correlation_id: Arc::default() };
        extensions.get::<Self>().cloned().unwrap_or_else(nameless)
    }

    fn of(headers: &HeaderMap) -> Self {
        let request_id = echoed(headers, &REQUEST_ID).unwrap_or_else(made_up);
        let correlation_id = echoed(headers, &CORRELATION_ID).unwrap_or_else(|| request_id.clone());
        Self { request_id, correlation_id }
    }
}

fn made_up() -> Arc<str> {
    Arc::from(&*Uuid::now_v7().as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

fn echoed(headers: &HeaderMap, name: &HeaderName) -> Option<Arc<str>> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    (printable && (1..=ID_BYTES_MAX).contains(&text.len())).then(|| text.into())
}

/// Outermost around whatever answers a listener's requests. Like all that is around every handler it is no `async fn`, whose future would hold the
/// request twice over beside the one it waits for: that grows with each that is around another, and is moved whenever they are.
pub fn converse<F>(mut request: Request, answer: impl FnOnce(Request) -> F) -> impl Future<Output = Response>
where
    F: Future<Output = Response>,
{
    let conversation = Conversation::of(request.headers());
    request.extensions_mut().insert(conversation.clone());
    answer(request).map(move |mut response| {
        let Conversation { request_id, correlation_id } = &conversation;
        for (name, id) in [(REQUEST_ID, request_id), (CORRELATION_ID, correlation_id)] {
            if let Ok(value) = HeaderValue::from_str(id) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    })
}
