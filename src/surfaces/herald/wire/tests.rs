//! What is shown and what is read, case by case.

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
    let attempts = Attempt::numbered(vec![attempt(outcome)]);
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
    let history = [Outcome::TimedOut, Outcome::Crashed, Outcome::Refused, Outcome::Cancelled].map(attempt);
    let told: Vec<_> =
        Attempt::numbered(history.into()).iter().map(|one| (one.number, one.outcome)).collect();
    assert_eq!(told, [(1, "timedOut"), (2, "refused")]);
}

#[test]
fn an_answer_that_is_no_text_is_shown_as_well_as_can_be() {
    let bytes = b"a\0\x1b[31m\xff</script>".to_vec();
    let one = attempt::Attempt { response: Some(bytes), status: Some(99), ..attempt(Outcome::Refused) };
    let told = serde_json::to_value(Attempt::new(1, "refused", one)).unwrap();
    assert_eq!(told["responseBody"], "a\0\u{1b}[31m\u{fffd}</script>");
    assert_eq!(told.get("status"), None, "a status that HTTP does not have");
}

#[test]
fn an_events_data_is_shown_as_it_was_sent() {
    for (payload, shown) in [
        (r#"{"n":1.10,"n":12345678901234567890123}"#.as_bytes(), r#"{"n":1.10,"n":12345678901234567890123}"#),
        (b"plain", r#""plain""#),
        (b"\xff", "\"\u{fffd}\""),
    ] {
        assert_eq!(as_sent(payload.to_vec()).unwrap().get(), shown);
    }
}

#[test]
fn a_policy_changes_by_member_and_null_is_the_default() {
    let change = policy_change(br#"{"retryDelaysS":[5,30],"ratePerS":null,"other":1}"#).unwrap();
    let delays = [5, 30].map(Duration::from_secs).to_vec();
    assert_eq!(change.retry_delays, Some(Some(delays)));
    assert_eq!((change.timeout, change.rate_per_s), (None, Some(None)));
    for (body, field) in [
        (r#"{}"#, "body"),
        (r#"{"other":1}"#, "body"),
        (r#"[]"#, "body"),
        (r#"{"retryDelaysS":5}"#, "retryDelaysS"),
        (r#"{"retryDelaysS":[null]}"#, "retryDelaysS"),
        (r#"{"retryDelaysS":[-1]}"#, "retryDelaysS"),
        (r#"{"timeoutMs":1.5}"#, "timeoutMs"),
        (r#"{"timeoutMs":1e400}"#, "timeoutMs"),
        (r#"{"timeoutMs":-5}"#, "timeoutMs"),
        (r#"{"ratePerS":4294967296}"#, "ratePerS"),
        (r#"{"ratePerS":"5"}"#, "ratePerS"),
        (r#"{"ratePerS":5,"ratePerS":6}"#, "ratePerS"),
    ] {
        let refused = policy_change(body.as_bytes()).expect_err(body);
        assert_eq!(refused.iter().next().map(|one| one.field.as_str()), Some(field), "{body}");
    }
}

#[test]
fn the_policy_in_force_is_the_partners_own_where_there_is_one() {
    let defaults = DefaultPolicy {
        retry: crate::domain::retry::RetryPolicy { delays: vec![Duration::from_secs(9)] },
        timeout: Duration::from_secs(15),
    };
    let own = PolicyRow { retry_delays_ms: Some(vec![]), timeout_ms: None, rate_per_s: Some(3) };
    let told = serde_json::to_value(Policy::in_force(own, &defaults)).unwrap();
    assert_eq!(told, json!({ "retryDelaysS": [], "timeoutMs": 15000, "ratePerS": 3 }));
    let told = serde_json::to_value(Policy::in_force(PolicyRow::default(), &defaults)).unwrap();
    assert_eq!(told, json!({ "retryDelaysS": [9], "timeoutMs": 15000 }));
}
