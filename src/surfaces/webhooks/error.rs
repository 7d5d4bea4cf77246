//! Errors as ServiceStack prints them: `{responseStatus: {errorCode, message, errors}}`, in the format of the exchange. The code is .NET's name
//! of the status. There is never a stack trace.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::format::{Contract, Format, Value};
use super::wire::SERVICE_STACK_TYPES;
use super::wire::status::{description, name};
use crate::domain::{Error, Violations};
use crate::surfaces::kit::conversation::Conversation;
use crate::surfaces::kit::guard::{Trouble, log_failure};
use crate::surfaces::kit::refusal::{self, UNAVAILABLE_FOR};

/// The code of an entry of `errors`.
const INVALID: &str = "Invalid";

const ERROR_RESPONSE: Contract =
    Contract { name: "ErrorResponse", namespace: SERVICE_STACK_TYPES, is_alphabetical: true };
const RESPONSE_STATUS: Contract =
    Contract { name: "ResponseStatus", namespace: SERVICE_STACK_TYPES, is_alphabetical: false };
const RESPONSE_ERROR: Contract =
    Contract { name: "ResponseError", namespace: SERVICE_STACK_TYPES, is_alphabetical: false };

/// The exchange that an answer belongs to.
#[derive(Clone)]
pub struct Exchange {
    format: Format,
    conversation: Conversation,
}

impl Exchange {
    pub fn new(format: Format, conversation: Conversation) -> Self {
        Self { format, conversation }
    }

    /// The response that shows a value.
    pub fn show(&self, value: &Value) -> Response {
        self.write(StatusCode::OK, value)
    }

    /// The response, or that of whatever kept it from coming about. A failure of ours is logged here, and only here.
    pub fn respond(&self, answer: Result<Response, Error>) -> Response {
        answer.unwrap_or_else(|error| {
            log_failure(&error, &self.conversation);
            self.refuse(of_error(&error))
        })
    }

    pub fn trouble(&self, trouble: &Trouble) -> Response {
        self.refuse(of_trouble(trouble))
    }

    fn refuse(&self, problem: Problem) -> Response {
        let entry = |one: &crate::domain::Violation| {
            let (field, message) = (Value::text(&one.field), Value::text(&one.message));
            let code = Value::text(INVALID);
            Value::object(&RESPONSE_ERROR, [("errorCode", code), ("fieldName", field), ("message", message)])
        };
        let status = Value::object(
            &RESPONSE_STATUS,
            [
                ("errorCode", Value::text(name(problem.status).unwrap_or_default())),
                ("message", Value::text(problem.message)),
                ("errors", Value::List(&RESPONSE_ERROR, problem.errors.iter().map(entry).collect())),
            ],
        );
        let body = Value::object(&ERROR_RESPONSE, [("responseStatus", status)]);
        let code = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = self.write(code, &body);
        response.headers_mut().extend(refusal::headers(problem.status, problem.after));
        response
    }

    /// Nothing between here and the partner may keep an answer: most hold a secret, if encrypted.
    fn write(&self, status: StatusCode, value: &Value) -> Response {
        let mut response = Response::new(Body::from(self.format.write(value)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.format.content_type()));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

struct Problem {
    status: u16,
    message: String,
    errors: Violations,
    /// When to come again.
    after: Option<Duration>,
}

impl Problem {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: Violations::default(), after: None }
    }

    /// The message that says no more than the code.
    fn bare(status: u16) -> Self {
        Self::new(status, name(status).unwrap_or_default())
    }

    /// The first complaint is the message of the whole.
    fn invalid(violations: &Violations) -> Self {
        let first = violations.iter().next().map(|one| one.message.clone());
        Self { errors: violations.clone(), ..Self::new(400, first.unwrap_or_else(|| description(400))) }
    }
}

fn of_error(error: &Error) -> Problem {
    match error {
        Error::Invalid(violations) => Problem::invalid(violations),
        Error::Unauthorized => Problem::new(
            401,
            "A valid API key is needed: send it as a bearer token, as Basic user name or as x-api-key.",
        ),
        Error::Forbidden | Error::ForbiddenFields(_) => {
            Problem::new(403, "The secret is not the subscription's, or the key has no partner scope.")
        }
        // What belongs to another partner is, to this one, not there.
        Error::NotFound(_) | Error::NotYours(_) => Problem::bare(404),
        Error::Conflict(violations) => {
            let first = violations.iter().next().map(|one| one.message.clone());
            Problem::new(409, first.unwrap_or_else(|| description(409)))
        }
        Error::VersionMismatch(_) | Error::Duplicate(_) | Error::Transition { .. } => {
            Problem::new(409, "The subscription was changed in the meantime: get it and try again.")
        }
        Error::LimitExceeded { after, .. } => {
            Problem { after: Some(*after), ..Problem::new(429, "Too many requests: try again later.") }
        }
        Error::Unavailable(_) => unavailable(),
        Error::Internal(_) => unexpected(),
    }
}

fn of_trouble(trouble: &Trouble) -> Problem {
    match trouble {
        Trouble::NotFound => Problem::bare(404),
        Trouble::MethodNotAllowed => {
            Problem::new(405, "This path has no such method; the Allow header lists those it has.")
        }
        Trouble::UnsupportedMediaType => {
            Problem::new(415, "The request body must be JSON, JSV, XML or a form, and say which.")
        }
        Trouble::PayloadTooLarge { bytes_max } => {
            Problem::new(413, format!("The request body is larger than {bytes_max} bytes."))
        }
        Trouble::BrokenBody => Problem::invalid(&Violations::one("body", "ended before it was complete")),
        Trouble::TimedOut => Problem::new(408, "The request body took too long to arrive."),
        Trouble::Overran => unavailable(),
        Trouble::Panicked => unexpected(),
    }
}

fn unavailable() -> Problem {
    let detail = "The service is not available right now: try again later.";
    Problem { after: Some(UNAVAILABLE_FOR), ..Problem::new(503, detail) }
}

fn unexpected() -> Problem {
    Problem::new(500, "An unexpected technical error occurred.")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::domain::Noun;
    use crate::domain::error::Limit;

    async fn told(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn exchange(format: Format) -> Exchange {
        let conversation = Conversation { request_id: "r".into(), correlation_id: "c".into() };
        Exchange::new(format, conversation)
    }

    #[tokio::test]
    async fn every_error_has_its_status_and_dotnet_name() {
        for (error, expected) in [
            (Error::invalid("a", "b"), (400, "BadRequest")),
            (Error::Unauthorized, (401, "Unauthorized")),
            (Error::Forbidden, (403, "Forbidden")),
            (Error::NotFound(Noun::Subscription), (404, "NotFound")),
            (Error::NotYours(Noun::Subscription), (404, "NotFound")),
            (Error::VersionMismatch(Noun::Subscription), (409, "Conflict")),
            (Error::Duplicate(Noun::Subscription), (409, "Conflict")),
            (Error::Conflict(Violations::one("event", "taken")), (409, "Conflict")),
            (
                Error::LimitExceeded { limit: Limit::Requests, after: Duration::from_millis(1_200) },
                (429, "TooManyRequests"),
            ),
            (Error::unavailable("canary"), (503, "ServiceUnavailable")),
            (Error::internal("canary"), (500, "InternalServerError")),
        ] {
            let response = exchange(Format::Json).respond(Err(error));
            let headers = response.headers().clone();
            let (status, body) = told(response).await;
            assert!(body.contains(&format!("\"errorCode\":\"{}\"", expected.1)), "{body}");
            assert_eq!(status, expected.0, "{body}");
            assert!(!body.contains("canary") && !body.contains("stackTrace"), "{body}");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401);
            let again = headers.get("retry-after").map(|value| value.to_str().unwrap());
            let expected = [(429, "2"), (503, "5")].into_iter().find(|(known, _)| *known == status);
            assert_eq!(again, expected.map(|(_, s)| s));
            assert_eq!(headers["vary"], "Accept");
        }
        for (trouble, expected) in [
            (Trouble::NotFound, (404, "NotFound")),
            (Trouble::MethodNotAllowed, (405, "MethodNotAllowed")),
            (Trouble::UnsupportedMediaType, (415, "UnsupportedMediaType")),
            (Trouble::PayloadTooLarge { bytes_max: 1 }, (413, "RequestEntityTooLarge")),
            (Trouble::BrokenBody, (400, "BadRequest")),
            (Trouble::TimedOut, (408, "RequestTimeout")),
            (Trouble::Overran, (503, "ServiceUnavailable")),
            (Trouble::Panicked, (500, "InternalServerError")),
        ] {
            let (status, body) = told(exchange(Format::Jsv).trouble(&trouble)).await;
            assert_eq!(
                (status, body.contains(&format!("errorCode:{},", expected.1))),
                (expected.0, true),
                "{body}"
            );
        }
    }

    #[tokio::test]
    async fn a_404_in_every_format() {
        for (format, expected) in [
            (Format::Json, r#"{"responseStatus":{"errorCode":"NotFound","message":"NotFound","errors":[]}}"#),
            (Format::Jsv, "{responseStatus:{errorCode:NotFound,message:NotFound,errors:[]}}"),
            (
                Format::Xml,
                "<?xml version=\"1.0\" encoding=\"utf-8\"?><ErrorResponse \
                 xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns=\"http://schemas.servicestack.net/types\">\
                 <ResponseStatus><ErrorCode>NotFound</ErrorCode><Message>NotFound</Message><Errors /></ResponseStatus>\
                 </ErrorResponse>",
            ),
            (Format::Csv, "responseStatus\r\n\"{errorCode:NotFound,message:NotFound,errors:[]}\"\r\n"),
        ] {
            let response = exchange(format).respond(Err(Error::NotFound(Noun::Subscription)));
            assert_eq!(response.headers()["content-type"], format.content_type());
            assert_eq!(told(response).await, (404, expected.to_owned()));
        }
    }

    #[tokio::test]
    async fn validation_has_an_entry_for_each_field_and_the_first_is_the_message() {
        let mut violations = Violations::one("url", "The subscription URL is invalid");
        violations.add("secret", "The subscription Secret is invalid");
        let (_, body) = told(exchange(Format::Json).respond(Err(violations.into()))).await;
        assert_eq!(
            body,
            "{\"responseStatus\":{\"errorCode\":\"BadRequest\",\"message\":\"The subscription URL is invalid\",\"errors\":[\
             {\"errorCode\":\"Invalid\",\"fieldName\":\"url\",\"message\":\"The subscription URL is invalid\"},\
             {\"errorCode\":\"Invalid\",\"fieldName\":\"secret\",\"message\":\"The subscription Secret is invalid\"}]}}"
        );
    }
}
