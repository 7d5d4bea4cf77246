//! Errors as the published document prints them: `{code, message, moreInfo, correlationId, details}`.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use serde::Serialize;

use super::wire;
use crate::domain::{Error, Noun, Violations};
use crate::hub::Answer;
use crate::surfaces::kit::ApiSettings;
use crate::surfaces::kit::conversation::Conversation;
use crate::surfaces::kit::guard::{Trouble, log_failure};
use crate::surfaces::kit::refusal::{self, UNAVAILABLE_FOR, exceeded};

/// The exchange that an answer belongs to, as far as errors have to know it.
#[derive(Clone)]
pub struct Exchange {
    settings: Arc<ApiSettings>,
    conversation: Conversation,
}

impl Exchange {
    pub fn new(settings: Arc<ApiSettings>, conversation: Conversation) -> Self {
        Self { settings, conversation }
    }

    /// Renders a result: a success by `show`, a failure into the envelope. A failure of ours is logged here, and only here.
    pub fn render<T>(&self, result: Result<T, Error>, show: impl FnOnce(T) -> Answer) -> Answer {
        result.map_or_else(|error| self.refusal(&error), show)
    }

    /// The response of an answer, or of whatever kept it from coming about.
    pub fn respond(&self, answer: Result<Answer, Error>) -> Response {
        wire::respond(self.render(answer, |answer| answer))
    }

    pub fn trouble(&self, trouble: &Trouble) -> Response {
        wire::respond(self.envelope(of_trouble(trouble)))
    }

    fn refusal(&self, error: &Error) -> Answer {
        log_failure(error, &self.conversation);
        self.envelope(of_error(error))
    }

    fn envelope(&self, problem: Problem<'_>) -> Answer {
        let body = Envelope {
            code: problem.code,
            more_info: format!(
                "{}/errors#{}",
                self.settings.public_url.as_str().trim_end_matches('/'),
                problem.code
            ),
            message: problem.message,
            correlation_id: &self.conversation.correlation_id,
            details: problem.details,
        };
        let mut answer = wire::json(problem.status, &body);
        for (name, value) in &refusal::headers(problem.status, problem.after) {
            answer.headers.push((name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
        answer
    }
}

struct Problem<'a> {
    status: u16,
    code: &'static str,
    message: String,
    details: Details<'a>,
    /// When asking again makes sense.
    after: Option<Duration>,
}

impl Problem<'_> {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Details::Nothing {}, after: None }
    }
}

fn of_error(error: &Error) -> Problem<'_> {
    match error {
        Error::Invalid(violations) => invalid(violations),
        Error::Unauthorized => Problem::new(
            401,
            "Unauthorized",
            "A valid API key is needed: send it as x-api-key or as a bearer token.",
        ),
        // The published 403 speaks of an entity's creator, and most operations print none: a key without the scope opens nothing here.
        Error::Forbidden | Error::ForbiddenFields(_) => {
            Problem::new(401, "Unauthorized", "The API key given does not have the partner scope.")
        }
        Error::NotFound(noun) => Problem::new(404, not_found(*noun), missing(*noun)),
        Error::NotYours(noun) => {
            Problem::new(not_yours(*noun), "InvalidTriggeredBy", "The entity was not created by the caller.")
        }
        Error::VersionMismatch(_) => Problem::new(
            409,
            "EntityVersionMismatch",
            "The entity was updated in the meantime: get and retry.",
        ),
        Error::Duplicate(noun) => Problem::new(409, "DuplicateEntity", duplicate(*noun)),
        Error::LimitExceeded { limit, after } => Problem {
            details: Details::LimitThresholdExceeded { limit_threshold_exceeded_reason: exceeded(*limit) },
            after: Some(*after),
            ..Problem::new(429, "LimitThresholdExceeded", "Too many requests: try again later.")
        },
        // Nothing of this dialect chooses ids that can contradict each other.
        Error::Conflict(_) => unexpected(),
        Error::Transition { from, to, .. } => Problem::new(
            400,
            "InvalidRedirectSessionStateTransition",
            format!("The redirect session is {from} and cannot become {to}."),
        ),
        Error::Unavailable(_) => unavailable(),
        Error::Internal(_) => unexpected(),
    }
}

fn of_trouble(trouble: &Trouble) -> Problem<'static> {
    match trouble {
        Trouble::NotFound => Problem::new(404, "ResourceNotFound", "There is nothing at this path."),
        Trouble::MethodNotAllowed => Problem::new(
            405,
            "MethodNotAllowed",
            "This path has no such method; the Allow header lists those it has.",
        ),
        Trouble::UnsupportedMediaType => {
            Problem::new(415, "UnsupportedMediaType", "The request body must be application/json.")
        }
        Trouble::PayloadTooLarge { bytes_max } => Problem::new(
            413,
            "PayloadTooLarge",
            format!("The request body is larger than {bytes_max} bytes."),
        ),
        Trouble::BrokenBody => Problem {
            details: Details::Validation {
                validation_error_reasons: vec![Reason {
                    field_name: "body",
                    error_message: "ended before it was complete",
                }],
            },
            ..Problem::new(400, "Validation", "The request body could not be read.")
        },
        Trouble::TimedOut => Problem::new(408, "RequestTimeout", "The request body took too long to arrive."),
        Trouble::Overran => unavailable(),
        Trouble::Panicked => unexpected(),
    }
}

fn unavailable() -> Problem<'static> {
    let detail = "The service is not available right now: try again later.";
    Problem { after: Some(UNAVAILABLE_FOR), ..Problem::new(503, "ServiceUnavailable", detail) }
}

fn unexpected() -> Problem<'static> {
    Problem::new(500, "GeneralErrorOccurred", "An unexpected technical error occurred.")
}

fn invalid(violations: &Violations) -> Problem<'_> {
    let reasons: Vec<Reason<'_>> =
        violations.iter().map(|one| Reason { field_name: &one.field, error_message: &one.message }).collect();
    let message = match reasons.as_slice() {
        [only] => format!("The field \"{}\" could not be validated.", only.field_name),
        several => {
            let more = if violations.has_more() { "more than " } else { "" };
            format!("The request has {more}{} fields that could not be validated.", several.len())
        }
    };
    Problem {
        details: Details::Validation { validation_error_reasons: reasons },
        ..Problem::new(400, "Validation", message)
    }
}

fn not_found(noun: Noun) -> &'static str {
    match noun {
        Noun::Subscription => "SubscriptionNotFound",
        Noun::Session => "RedirectSessionNotFound",
        Noun::Customer => "CustomerNotFound",
        Noun::Callback | Noun::Event | Noun::Delivery | Noun::Partner | Noun::Key | Noun::Replay => {
            "ResourceNotFound"
        }
    }
}

fn missing(noun: Noun) -> &'static str {
    match noun {
        Noun::Subscription => "There is no subscription with this id.",
        Noun::Session => "There is no redirect session with this id.",
        Noun::Customer => "There is no customer with this id.",
        Noun::Callback | Noun::Event | Noun::Delivery | Noun::Partner | Noun::Key | Noun::Replay => {
            "There is no such thing."
        }
    }
}

/// The status of InvalidTriggeredBy: the published pages print it under 403 for subscriptions and under 400 for sessions.
fn not_yours(noun: Noun) -> u16 {
    match noun {
        Noun::Session => 400,
        Noun::Subscription
        | Noun::Customer
        | Noun::Callback
        | Noun::Event
        | Noun::Delivery
        | Noun::Partner
        | Noun::Key
        | Noun::Replay => 403,
    }
}

fn duplicate(noun: Noun) -> &'static str {
    match noun {
        Noun::Subscription => {
            "Another subscription of yours has this callbackUrl and one of these event types."
        }
        Noun::Session => "The redirect session exists already with other content.",
        Noun::Customer
        | Noun::Callback
        | Noun::Event
        | Noun::Delivery
        | Noun::Partner
        | Noun::Key
        | Noun::Replay => "The entity exists already.",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    code: &'static str,
    message: String,
    more_info: String,
    correlation_id: &'a str,
    details: Details<'a>,
}

/// Only the member that the code calls for.
#[derive(Serialize)]
#[serde(untagged)]
enum Details<'a> {
    #[serde(rename_all = "camelCase")]
    Validation {
        validation_error_reasons: Vec<Reason<'a>>,
    },
    #[serde(rename_all = "camelCase")]
    LimitThresholdExceeded {
        limit_threshold_exceeded_reason: &'static str,
    },
    Nothing {},
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reason<'a> {
    field_name: &'a str,
    error_message: &'a str,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::error::Limit;

    fn exchange() -> Exchange {
        let conversation = Conversation { request_id: "r".into(), correlation_id: "c-1".into() };
        Exchange::new(crate::surfaces::kit::tests::api().settings, conversation)
    }

    fn body(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[tokio::test]
    async fn every_error_has_its_published_status_and_code() {
        let transition = Error::Transition { noun: Noun::Session, from: "Expired", to: "Cancelled" };
        for (error, status, code) in [
            (Error::invalid("a", "b"), 400, "Validation"),
            (Error::Unauthorized, 401, "Unauthorized"),
            (Error::Forbidden, 401, "Unauthorized"),
            (Error::NotFound(Noun::Subscription), 404, "SubscriptionNotFound"),
            (Error::NotFound(Noun::Session), 404, "RedirectSessionNotFound"),
            (Error::NotFound(Noun::Customer), 404, "CustomerNotFound"),
            (Error::NotFound(Noun::Key), 404, "ResourceNotFound"),
            (Error::NotYours(Noun::Subscription), 403, "InvalidTriggeredBy"),
            (Error::NotYours(Noun::Session), 400, "InvalidTriggeredBy"),
            (Error::VersionMismatch(Noun::Session), 409, "EntityVersionMismatch"),
            (Error::Duplicate(Noun::Session), 409, "DuplicateEntity"),
            (Error::Duplicate(Noun::Subscription), 409, "DuplicateEntity"),
            (transition, 400, "InvalidRedirectSessionStateTransition"),
            (Error::unavailable("canary"), 503, "ServiceUnavailable"),
            (Error::internal("canary"), 500, "GeneralErrorOccurred"),
        ] {
            let answer = exchange().render(Err::<Answer, _>(error), |answer| answer);
            let body = body(&answer);
            assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)));
            assert!(
                body["message"].as_str().is_some_and(|text| !text.is_empty() && !text.contains("canary"))
            );
            assert_eq!(body["correlationId"], "c-1");
            let has = |name: &str| answer.headers.iter().any(|(known, _)| known == name);
            assert_eq!((has("retry-after"), has("www-authenticate")), (status == 503, status == 401));
        }
    }

    #[tokio::test]
    async fn rule_14_a_limit_says_its_reason_and_when_to_come_again() {
        let error = Error::LimitExceeded { limit: Limit::Requests, after: Duration::from_millis(1_200) };
        let answer = exchange().render(Err::<Answer, _>(error), |answer| answer);
        assert_eq!((answer.status, &body(&answer)["code"]), (429, &json!("LimitThresholdExceeded")));
        let details = body(&answer)["details"].clone();
        assert!(details["limitThresholdExceededReason"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(details.as_object().unwrap().len(), 1);
        assert!(answer.headers.contains(&("retry-after".to_owned(), "2".to_owned())), "{:?}", answer.headers);
    }

    #[tokio::test]
    async fn validation_gives_one_reason_for_each_wrong_field() {
        let mut violations = Violations::one("callbackUrl", "is required");
        violations.add("transactionData.amount", "must be a number");
        let answer = exchange().render(Err::<Answer, _>(violations.into()), |answer| answer);
        assert_eq!(
            body(&answer),
            json!({
                "code": "Validation",
                "message": "The request has 2 fields that could not be validated.",
                "moreInfo": "https://herald.example/base/errors#Validation",
                "correlationId": "c-1",
                "details": { "validationErrorReasons": [
                    { "fieldName": "callbackUrl", "errorMessage": "is required" },
                    { "fieldName": "transactionData.amount", "errorMessage": "must be a number" },
                ] },
            })
        );
        let one =
            exchange().render(Err::<Answer, _>(Error::invalid("apiKey", "is required")), |answer| answer);
        assert_eq!(body(&one)["message"], "The field \"apiKey\" could not be validated.");
    }
}
