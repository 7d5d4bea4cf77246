//! The bodies of the surface, in both directions: requests into commands, results into answers.

pub mod session;
pub mod subscription;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;

use crate::domain::Violations;
use crate::domain::version::Version;
use crate::hub::Answer;
use crate::surfaces::kit::fields::Fields;

/// What complaints about the body as a whole name.
const BODY: &str = "body";

/// Takes the fields of a body that must be a JSON object; every complaint joins those that there are already.
fn in_body<T>(
    body: &[u8],
    violations: &mut Violations,
    read: impl FnOnce(&mut Fields<'_>) -> T,
) -> Option<T> {
    match Fields::parse(body, BODY) {
        Ok(mut fields) => {
            let value = read(&mut fields);
            violations.extend(fields.violations);
            Some(value)
        }
        Err(complaints) => {
            violations.extend(complaints);
            None
        }
    }
}

pub fn json(status: u16, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body)
        .expect("the bodies of this surface have text keys and nothing that can fail");
    Answer { status, headers: vec![(CONTENT_TYPE.as_str().to_owned(), "application/json".to_owned())], body }
}

/// An answer that shows something with a version.
fn versioned(status: u16, version: Version, body: &impl Serialize) -> Answer {
    let mut answer = json(status, body);
    answer.headers.push((ETAG.as_str().to_owned(), version.etag()));
    answer
}

pub fn empty(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), body: Vec::new() }
}

/// An answer as HTTP. Nothing between here and the partner may keep one: some hold a session's token.
pub fn respond(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    response
}
