//! Deliveries and their attempts, as much of them as a partner may see.

use chrono::TimeDelta;
use serde::Serialize;
use uuid::Uuid;

use crate::domain::attempt::{self, Outcome};
use crate::domain::delivery::DeliveryState;
use crate::domain::time::wire_time_ms;
use crate::store::deliveries::DeliveryView;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    id: Uuid,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    event: EventReference,
    subscription: SubscriptionReference,
    callback_url: String,
    attempt_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
}

#[derive(Serialize)]
struct EventReference {
    id: Uuid,
    r#type: String,
}

#[derive(Serialize)]
struct SubscriptionReference {
    surface: &'static str,
    id: String,
}

impl From<DeliveryView> for Delivery {
    fn from(view: DeliveryView) -> Self {
        Self {
            id: view.id.0,
            state: view.state.as_str(),
            reason: reason(view.state),
            event: EventReference { id: view.event.0, r#type: view.event_type },
            subscription: SubscriptionReference { surface: view.surface.as_str(), id: view.external_key },
            callback_url: view.callback_url,
            attempt_count: view.attempts,
            next_attempt_at: view.due_at.map(wire_time_ms),
            created_at: wire_time_ms(view.id.moment()),
            finished_at: view.ended_at.map(wire_time_ms),
        }
    }
}

/// Why a delivery ended that its attempts say nothing of. Each of these states has one cause.
fn reason(state: DeliveryState) -> Option<&'static str> {
    match state {
        DeliveryState::Cancelled => Some("The subscription was deleted."),
        DeliveryState::Expired => Some("The event left the retention window before it was delivered."),
        DeliveryState::Pending | DeliveryState::Held | DeliveryState::Delivered | DeliveryState::Dead => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryWithAttempts {
    #[serde(flatten)]
    pub delivery: Delivery,
    pub attempts: Vec<Attempt>,
    /// Where its earlier attempts are; `null` where there are none.
    pub next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    id: Uuid,
    number: usize,
    started_at: String,
    ended_at: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    latency_ms: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body: Option<String>,
    late: bool,
}

impl Attempt {
    /// Attempts of one delivery, in their order, of which so many are before these. Ends that no attempt made are not among them: the delivery's
    /// state tells those.
    pub fn numbered(history: Vec<attempt::Attempt>, earlier: usize) -> Vec<Self> {
        let attempts = history.into_iter().filter_map(|one| Some((partners_word(one.outcome)?, one)));
        attempts.zip(earlier + 1..).map(|((outcome, one), number)| Self::new(number, outcome, one)).collect()
    }

    /// The operator's `detail` is not carried over.
    fn new(number: usize, outcome: &'static str, attempt: attempt::Attempt) -> Self {
        let ended_at = attempt.started_at + TimeDelta::milliseconds(attempt.latency_ms.into());
        Self {
            id: attempt.id.0,
            number,
            started_at: wire_time_ms(attempt.started_at),
            ended_at: wire_time_ms(ended_at),
            outcome,
            status: attempt.status.filter(|status| *status >= 100),
            latency_ms: attempt.latency_ms,
            response_body: attempt.response.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            late: attempt.late,
        }
    }
}

/// What a partner is told. Blocked looks like any other connection that did not come about, so that nobody can use us to look around
/// networks that they cannot reach themselves (SECURITY rule 6).
fn partners_word(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Delivered => Some("delivered"),
        Outcome::Refused => Some("refused"),
        Outcome::TimedOut => Some("timedOut"),
        Outcome::Unreachable | Outcome::Blocked => Some("unreachable"),
        Outcome::Cancelled | Outcome::Expired | Outcome::Crashed => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::id::AttemptId;
    use serde_json::json;

    fn attempt(outcome: Outcome) -> attempt::Attempt {
        attempt::Attempt {
            id: AttemptId::new(),
            outcome,
            status: None,
            started_at: DateTime::UNIX_EPOCH,
            latency_ms: 1_500,
            response: None,
            detail: Some("10.0.0.1 is not allowed".to_owned()),
            late: false,
        }
    }

    fn shown(outcome: Outcome) -> Vec<serde_json::Value> {
        let attempts = Attempt::numbered(vec![attempt(outcome)], 0);
        attempts.iter().map(|attempt| serde_json::to_value(attempt).unwrap()).collect()
    }

    #[test]
    fn rule_06_blocked_and_unreachable_look_alike_and_details_stay_inside() {
        for outcome in [Outcome::Blocked, Outcome::Unreachable] {
            let mut told = shown(outcome).pop().unwrap();
            told["id"] = json!("any");
            let expected = json!({
                "id": "any", "number": 1, "startedAt": "1970-01-01T00:00:00.000Z", "endedAt": "1970-01-01T00:00:01.500Z",
                "outcome": "unreachable", "latencyMs": 1500, "late": false,
            });
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn only_attempts_are_shown_and_numbered_in_their_order() {
        let history =
            [Outcome::TimedOut, Outcome::Crashed, Outcome::Refused, Outcome::Cancelled].map(attempt);
        let told: Vec<_> =
            Attempt::numbered(history.into(), 7).iter().map(|one| (one.number, one.outcome)).collect();
        assert_eq!(told, [(8, "timedOut"), (9, "refused")]);
    }

    #[test]
    fn an_answer_that_is_no_text_is_shown_as_well_as_can_be() {
        let bytes = b"a\0\x1b[31m\xff</script>".to_vec();
        let one = attempt::Attempt { response: Some(bytes), status: Some(99), ..attempt(Outcome::Refused) };
        let told = serde_json::to_value(Attempt::new(1, "refused", one)).unwrap();
        assert_eq!(told["responseBody"], "a\0\u{1b}[31m\u{fffd}</script>");
        assert_eq!(told.get("status"), None, "a status that HTTP does not have");
    }
}
