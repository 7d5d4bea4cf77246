//! Errors as the published document prints them, `{type, title, errorCode, detail, errorDetails}`, down to the blank before a bracket.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::domain::notification::Refused;
use crate::domain::{Error, Violations};
use crate::surfaces::kit::conversation::Conversation;
use crate::surfaces::kit::guard::{Trouble, log_failure};
use crate::surfaces::kit::refusal::{self, UNAVAILABLE_FOR, exceeded};

const NOT_NOW: &str = "The service is not available right now: try again later";

/// Why a request of this dialect failed, on its way to the wire.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    /// When asking again makes sense.
    again_after: Option<Duration>,
    /// What is to be logged, and told nobody.
    cause: Option<Arc<Error>>,
}

/// A failure of ours beside the response that tells of it.
#[derive(Clone)]
struct Cause(Arc<Error>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    error_code: &'static str,
    detail: &'a str,
    error_details: [(); 0],
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title, detail: detail.into(), again_after: None, cause: None }
    }

    fn object_not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "OBJECT_NOT_FOUND", "Object not found", detail)
    }

    fn invalid_parameter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER", "Invalid request parameters", detail)
    }

    fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Unauthorized", detail)
    }

    fn unavailable(detail: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self {
            again_after: Some(UNAVAILABLE_FOR),
            ..Self::new(status, "SERVICE_UNAVAILABLE", "Service unavailable", detail)
        }
    }

    fn unexpected() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "GENERAL_ERROR_OCCURRED",
            "General error occurred",
            "An unexpected technical error occurred",
        )
    }

    /// This title and the next are what clients look for.
    pub fn login_failed() -> Self {
        let title = "Invalid username or password";
        Self::new(StatusCode::BAD_REQUEST, "INVALID_USER_NAME_PASSWORD", title, "Login failed")
    }

    /// Of a token that is over, revoked with its key, or none of ours: what a client has to do is the same.
    pub fn token_expired() -> Self {
        let title = "Authentication token expired";
        Self::new(StatusCode::UNAUTHORIZED, "TOKEN_EXPIRED", title, "Token expired")
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UnknownSubscription(name) => {
                Self::object_not_found(format!("Subscription with name [{name} ] not found"))
            }
            Refused::UnknownCallback { subscription } => {
                Self::object_not_found(format!("Subscription [{subscription} ] does not exists"))
            }
            Refused::UnsupportedEvent(event) => {
                Self::object_not_found(format!("Event Type [ {event} ] not found or is not supported"))
            }
            Refused::NoEvents => Self::invalid_parameter("Event type is empty or null"),
            Refused::NoStatus => Self::invalid_parameter("Subscription status cannot be empty or null"),
            Refused::OtherStatus => {
                Self::invalid_parameter("Subscription status can only be ACTIVE or PAUSED")
            }
            Refused::EventTwice => Self::invalid_parameter("Duplicate event types found in the request"),
            Refused::EventTaken(event) => Self::invalid_parameter(format!(
                "There's an active subscription for event [ {event} ] with other subscriptions"
            )),
            // Published under both: a subscription whose name is taken, and a callback that still has subscriptions.
            Refused::SubscriptionNameTaken | Refused::CallbackInUse => {
                Self::invalid_parameter("Subscription with same name already exists")
            }
            Refused::NoSubscription(name) => {
                Self::object_not_found(format!("Subscription with name [{name}] not found"))
            }
            Refused::NoCallback(name) => Self::object_not_found(format!("CallBack [{name}] not found")),
            Refused::CallbackNameTaken(name) => {
                Self::invalid_parameter(format!("Callback with name [{name}] already exists"))
            }
            Refused::CallbackUnreachable(url) => {
                Self::invalid_parameter(format!("Could not connect to callback url [{url} ]"))
            }
            Refused::Other(error) => error.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = match &error {
            // Every wrong field in one sentence: the published shape has no room for more.
            Error::Invalid(violations) => Self::invalid_parameter(violations.to_string()),
            Error::Unauthorized => {
                Self::unauthorized("A token or an API key is needed in the Authorization header")
            }
            // A key without the scope opens nothing here.
            Error::Forbidden | Error::ForbiddenFields(_) => {
                Self::unauthorized("The API key does not have the partner scope")
            }
            Error::NotFound(_) | Error::NotYours(_) => Self::object_not_found("There is no such object"),
            Error::VersionMismatch(_) => Self::unavailable("It was changed at the same moment: try again"),
            Error::Unavailable(_) => Self::unavailable(NOT_NOW),
            Error::LimitExceeded { limit, after } => Self {
                again_after: Some(*after),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "LIMIT_THRESHOLD_EXCEEDED",
                    "Limit threshold exceeded",
                    exceeded(*limit),
                )
            },
            // None of these is about anything that this dialect lets a request name.
            Error::Duplicate(_) | Error::Conflict(_) | Error::Transition { .. } | Error::Internal(_) => {
                Self::unexpected()
            }
        };
        Self { cause: Some(Arc::new(error)), ..failure }
    }
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        Error::from(violations).into()
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotFound => Self::new(
                StatusCode::NOT_FOUND,
                "RESOURCE_NOT_FOUND",
                "Resource not found",
                "There is nothing at this path",
            ),
            Trouble::MethodNotAllowed => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "Method not allowed",
                "This path has no such method; the Allow header lists those it has",
            ),
            Trouble::UnsupportedMediaType => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_MEDIA_TYPE",
                "Unsupported media type",
                "The request body is not of a type that this takes",
            ),
            Trouble::PayloadTooLarge { bytes_max } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "PAYLOAD_TOO_LARGE",
                "Payload too large",
                format!("The request body is larger than {bytes_max} bytes"),
            ),
            Trouble::BrokenBody => Self::invalid_parameter("The request body ended before it was complete"),
            Trouble::TimedOut => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "REQUEST_TIMEOUT",
                "Request timeout",
                "The request body took too long to arrive",
            ),
            Trouble::Overran => Self::unavailable(NOT_NOW),
            Trouble::Panicked => Self::unexpected(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: "",
            title: self.title,
            error_code: self.code,
            detail: &self.detail,
            error_details: [],
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.extend(refusal::headers(self.status.as_u16(), self.again_after));
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

/// Logs what a response failed of, if that is ours, once.
pub fn log(response: &mut Response, conversation: &Conversation) {
    if let Some(Cause(error)) = response.extensions_mut().remove() {
        log_failure(&error, conversation);
    }
}
