//! Errors as RFC 9457 has them: `application/problem+json`, the dialect that Herald's own API and the operator's share.
//!
//! A handler fails with a [`Failure`], which knows neither its request's ids nor how it will be written. The layer [`write_failures`] around
//! all handlers knows the ids: it writes the problem, and logs it if it is ours, once.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::conversation::Conversation;
use super::guard::{self, Trouble};
use super::refusal::{CHALLENGE, UNAVAILABLE_FOR, exceeded, retry_after_s};
use crate::domain::{Error, Noun, Violation, Violations};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request of this dialect failed.
#[derive(Debug, Clone)]
pub enum Failure {
    Error(Arc<Error>),
    Trouble(Trouble),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(Arc::new(error))
    }
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        Error::from(violations).into()
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Only the status, with the failure beside it: the body is [`write_failures`]' to write.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.problem().status;
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of every answer that is a [`Failure`]. What other layers put into its head stays.
pub async fn write_failures(request: Request, next: Next) -> Response {
    let conversation = guard::conversation(&request);
    let mut response = next.run(request).await;
    let Some(failure) = response.extensions_mut().remove::<Failure>() else {
        return response;
    };
    if let Failure::Error(error) = &failure {
        guard::log_failure(error, &conversation);
    }
    let mut written = failure.problem().respond(&conversation);
    let (head, _) = response.into_parts();
    for (name, value) in &head.headers {
        written.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    written
}

/// A [`Trouble`] in this dialect, as the guard's layer wants it.
pub fn write_trouble(trouble: &Trouble, conversation: &Conversation) -> Response {
    Problem::of_trouble(trouble).respond(conversation)
}

/// An error on its way to the wire.
struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Serialize)]
struct FieldError {
    field: String,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Failure {
    fn problem(&self) -> Problem {
        match self {
            Self::Error(error) => Problem::of_error(error),
            Self::Trouble(trouble) => Problem::of_trouble(trouble),
        }
    }
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), header: None }
    }

    fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    fn of_error(error: &Error) -> Self {
        match error {
            Error::Invalid(violations) => Self::invalid(violations),
            Error::Unauthorized => Self::new(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "A key is needed: send it as x-api-key or as a bearer token.",
            )
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE)),
            Error::Forbidden => Self::forbidden(),
            Error::ForbiddenFields(violations) => Self::forbidden().about(violations),
            // What belongs to another partner is, to this one, not there.
            Error::NotFound(noun) | Error::NotYours(noun) => Self::not_found(*noun),
            Error::VersionMismatch(noun) => Self::new(
                StatusCode::CONFLICT,
                "EntityVersionMismatch",
                format!("The {} was updated in the meantime: get and retry.", name(*noun)),
            ),
            Error::Duplicate(Noun::Replay) => Self::new(
                StatusCode::CONFLICT,
                "ReplayRunning",
                "Another replay is not over yet: wait for its end, or cancel it.",
            ),
            Error::Duplicate(noun) => Self::new(
                StatusCode::CONFLICT,
                "DuplicateEntity",
                format!("There is a {} with this id already.", name(*noun)),
            ),
            Error::LimitExceeded { limit, after } => {
                let detail = format!("{}.", exceeded(*limit));
                Self::new(StatusCode::TOO_MANY_REQUESTS, "LimitThresholdExceeded", detail)
                    .with_header(RETRY_AFTER, retry_after_s(*after).into())
            }
            Error::Conflict(violations) => Self::new(
                StatusCode::CONFLICT,
                "DuplicateEntity",
                "An id of the request stands for something else already.",
            )
            .about(violations),
            Error::Transition { noun, from, .. } => Self::transition(*noun, from),
            Error::Unavailable(_) => Self::unavailable(),
            Error::Internal(_) => Self::internal(),
        }
    }

    fn of_trouble(trouble: &Trouble) -> Self {
        match trouble {
            Trouble::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "ResourceNotFound", "There is nothing at this path.")
            }
            Trouble::MethodNotAllowed => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "This path has no such method.")
            }
            Trouble::UnsupportedMediaType => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "The request body is not of a type that this takes.",
            ),
            Trouble::PayloadTooLarge { bytes_max } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "PayloadTooLarge",
                format!("The request body is larger than {bytes_max} bytes."),
            ),
            Trouble::BrokenBody => Self::invalid(&Violations::one("body", "was not sent to its end")),
            Trouble::TimedOut => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "RequestTimeout",
                "The request body took too long to arrive.",
            ),
            Trouble::Overran => Self::unavailable(),
            Trouble::Panicked => Self::internal(),
        }
    }

    fn unavailable() -> Self {
        let detail = "The service is not available right now.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", detail)
            .with_header(RETRY_AFTER, retry_after_s(UNAVAILABLE_FOR).into())
    }

    fn invalid(violations: &Violations) -> Self {
        let (count, more) =
            (violations.iter().count(), if violations.has_more() { "more than " } else { "" });
        let fields = if count == 1 { "field" } else { "fields" };
        let detail = format!("The request has {more}{count} {fields} that could not be validated.");
        Self::new(StatusCode::BAD_REQUEST, "Validation", detail).about(violations)
    }

    fn forbidden() -> Self {
        let detail = "The key does not have the scope that this needs.";
        Self::new(StatusCode::FORBIDDEN, "Forbidden", detail)
    }

    /// With the fields that are the reason.
    fn about(mut self, violations: &Violations) -> Self {
        let field_error =
            |one: &Violation| FieldError { field: one.field.clone(), message: one.message.clone() };
        self.errors = violations.iter().map(field_error).collect();
        if violations.has_more() {
            self.detail.push_str(" Only the first of them are named; more follow.");
        }
        self
    }

    fn not_found(noun: Noun) -> Self {
        let code = match noun {
            Noun::Subscription => "SubscriptionNotFound",
            Noun::Session => "RedirectSessionNotFound",
            Noun::Customer => "CustomerNotFound",
            Noun::Event => "EventNotFound",
            Noun::Delivery => "DeliveryNotFound",
            Noun::Partner => "PartnerNotFound",
            Noun::Key => "KeyNotFound",
            Noun::Replay => "ReplayNotFound",
            // Callbacks have no address of their own in this dialect.
            Noun::Callback => "ResourceNotFound",
        };
        Self::new(StatusCode::NOT_FOUND, code, format!("There is no {} with this id.", name(noun)))
    }

    fn transition(noun: Noun, from: &str) -> Self {
        let (code, detail) = match noun {
            Noun::Delivery => {
                ("DeliveryNotRedeliverable", format!("The delivery cannot be sent again: {from}."))
            }
            Noun::Replay => ("ReplayOver", format!("The replay is over already: {from}.")),
            Noun::Key => ("SigningKeyFixed", "The subscription is signed with its own secret.".to_owned()),
            Noun::Session => (
                "InvalidRedirectSessionStateTransition",
                format!("The redirect session is not Active but {from}."),
            ),
            Noun::Subscription | Noun::Customer | Noun::Callback | Noun::Event | Noun::Partner => {
                ("InvalidStateTransition", format!("The {} is {from}.", name(noun)))
            }
        };
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "GeneralErrorOccurred",
            "An unexpected technical error occurred.",
        )
    }

    fn respond(&self, conversation: &Conversation) -> Response {
        let body = Body {
            r#type: "about:blank",
            title: title(self.status),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            correlation_id: &conversation.correlation_id,
            errors: &self.errors,
        };
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some((name, value)) = &self.header {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

fn name(noun: Noun) -> &'static str {
    match noun {
        Noun::Subscription => "subscription",
        Noun::Session => "redirect session",
        Noun::Customer => "customer",
        Noun::Callback => "callback",
        Noun::Event => "event",
        Noun::Delivery => "delivery",
        Noun::Partner => "partner",
        Noun::Key => "key",
        Noun::Replay => "replay",
    }
}

/// The status in words. The library still has the older name of 413.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::error::Limit;

    fn told(failure: Failure) -> (u16, &'static str) {
        let problem = failure.problem();
        (problem.status.as_u16(), problem.code)
    }

    #[test]
    fn every_error_has_its_status_and_code() {
        let transition = |noun| Error::Transition { noun, from: "held", to: "pending" };
        for (error, expected) in [
            (Error::invalid("limit", "is wrong"), (400, "Validation")),
            (Error::Unauthorized, (401, "Unauthorized")),
            (Error::Forbidden, (403, "Forbidden")),
            (Error::ForbiddenFields(Violations::one("partnerId", "is another's")), (403, "Forbidden")),
            (Error::NotFound(Noun::Delivery), (404, "DeliveryNotFound")),
            (Error::NotYours(Noun::Subscription), (404, "SubscriptionNotFound")),
            (Error::VersionMismatch(Noun::Subscription), (409, "EntityVersionMismatch")),
            (Error::Duplicate(Noun::Customer), (409, "DuplicateEntity")),
            (Error::Conflict(Violations::one("id", "is taken")), (409, "DuplicateEntity")),
            (
                Error::LimitExceeded { limit: Limit::Requests, after: Duration::ZERO },
                (429, "LimitThresholdExceeded"),
            ),
            (transition(Noun::Delivery), (409, "DeliveryNotRedeliverable")),
            (transition(Noun::Key), (409, "SigningKeyFixed")),
            (transition(Noun::Replay), (409, "ReplayOver")),
            (Error::Duplicate(Noun::Replay), (409, "ReplayRunning")),
            (transition(Noun::Session), (409, "InvalidRedirectSessionStateTransition")),
            (Error::unavailable("away"), (503, "ServiceUnavailable")),
            (Error::internal("odd"), (500, "GeneralErrorOccurred")),
        ] {
            assert_eq!(told(error.into()), expected);
        }
        for (trouble, expected) in [
            (Trouble::NotFound, (404, "ResourceNotFound")),
            (Trouble::MethodNotAllowed, (405, "MethodNotAllowed")),
            (Trouble::UnsupportedMediaType, (415, "UnsupportedMediaType")),
            (Trouble::PayloadTooLarge { bytes_max: 1 }, (413, "PayloadTooLarge")),
            (Trouble::BrokenBody, (400, "Validation")),
            (Trouble::TimedOut, (408, "RequestTimeout")),
            (Trouble::Overran, (503, "ServiceUnavailable")),
            (Trouble::Panicked, (500, "GeneralErrorOccurred")),
        ] {
            assert_eq!(told(trouble.into()), expected);
        }
    }

    #[test]
    fn what_waiting_mends_says_for_how_long_and_a_missing_key_says_how_to_send_one() {
        let conversation = Conversation { request_id: "r".into(), correlation_id: "c".into() };
        let head = |error: Error| Failure::from(error).problem().respond(&conversation).into_parts().0;
        assert_eq!(head(Error::unavailable("away")).headers[RETRY_AFTER], "5");
        for (ms, told) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2")] {
            let after = Duration::from_millis(ms);
            assert_eq!(
                head(Error::LimitExceeded { limit: Limit::Requests, after }).headers[RETRY_AFTER],
                told
            );
        }
        assert!(head(Error::Unauthorized).headers.contains_key(WWW_AUTHENTICATE));
        assert_eq!(head(Error::Forbidden).headers[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn rule_17_a_cause_is_never_told() {
        for error in [Error::internal("select secret from t"), Error::unavailable("10.0.0.1:5432")] {
            let detail = Failure::from(error).problem().detail;
            assert!(!detail.contains("secret") && !detail.contains("10.0"), "{detail}");
        }
    }
}
