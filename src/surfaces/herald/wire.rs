//! What this API's JSON looks like, and how the core's values become it. Times have milliseconds; what is not there is left out.

mod delivery;
mod replay;

use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::domain::time::wire_time_ms;
use crate::domain::{Error, Violations};
use crate::hub::deliveries::{NewSigningKey, PolicyChange, SubscriptionStanding};
use crate::hub::probe::Tested;
use crate::store::deliveries::DeliveryView;
use crate::store::events::EventView;
use crate::store::subscriptions::PolicyRow;
use crate::surfaces::kit::DefaultPolicy;
use crate::surfaces::kit::fields::{Fields, Nullable};

pub use delivery::{Attempt, Delivery, DeliveryWithAttempts};
pub use replay::{NewReplay, Replay};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `null` on the last page.
    pub next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    id: Uuid,
    r#type: String,
    source: String,
    time: String,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    matched: i32,
    deliveries: Vec<Delivery>,
    /// Where its deliveries go on; `null` on the last page.
    next_cursor: Option<String>,
}

impl Event {
    pub fn new(
        view: EventView,
        deliveries: Vec<DeliveryView>,
        next_cursor: Option<String>,
    ) -> Result<Self, Error> {
        let attributes = view.attributes.map(RawValue::from_string).transpose().map_err(Error::internal)?;
        Ok(Self {
            id: view.event.id.0,
            r#type: view.event.kind,
            source: view.event.source,
            time: wire_time_ms(view.event.occurred_at),
            data: as_sent(view.event.payload)?,
            attributes,
            ordering_key: view.ordering_key,
            matched: view.matched,
            deliveries: deliveries.into_iter().map(Delivery::from).collect(),
            next_cursor,
        })
    }
}

/// The payload as it is, digit for digit. Bytes that are no JSON are shown as a string.
fn as_sent(payload: Vec<u8>) -> Result<Box<RawValue>, Error> {
    let text = String::from_utf8(payload);
    let json = text.as_ref().ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    match (json, &text) {
        (Some(json), _) => Ok(json.to_owned()),
        (None, Ok(text)) => to_raw_value(text).map_err(Error::internal),
        (None, Err(error)) => {
            to_raw_value(&String::from_utf8_lossy(error.as_bytes())).map_err(Error::internal)
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionState {
    surface: &'static str,
    id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    held_count: i64,
    health: Health,
    policy: Policy,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure_at: Option<String>,
    consecutive_failures: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    retry_delays_s: Vec<u64>,
    timeout_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_s: Option<u32>,
}

impl SubscriptionState {
    pub fn new(standing: SubscriptionStanding, defaults: &DefaultPolicy) -> Self {
        let SubscriptionStanding { subscription, held, health, policy } = standing;
        Self {
            surface: subscription.surface.as_str(),
            id: subscription.external_key,
            state: subscription.state.as_str(),
            reason: subscription.state_reason.filter(|reason| !reason.is_empty()),
            held_count: held,
            health: Health {
                last_success_at: health.last_success_at.map(wire_time_ms),
                last_failure_at: health.last_failure_at.map(wire_time_ms),
                consecutive_failures: health.consecutive_failures,
            },
            policy: Policy::in_force(policy, defaults),
        }
    }
}

impl Policy {
    /// The partner's own where there is one, as far as the operator's limits let it be, else the operator's default.
    fn in_force(own: PolicyRow, defaults: &DefaultPolicy) -> Self {
        let own_delays_s = own.retry_delays_ms.map(|delays| {
            delays.into_iter().map(|ms| u64::try_from(ms / 1_000).unwrap_or_default()).collect()
        });
        let default_delays_s = || defaults.retry.delays.iter().map(Duration::as_secs).collect();
        let own_timeout_ms = own.timeout_ms.and_then(|ms| u128::try_from(ms).ok());
        let own_rate_per_s = own.rate_per_s.and_then(|rate| u32::try_from(rate).ok());
        let timeout_max_ms = defaults.timeout.as_millis();
        Self {
            retry_delays_s: own_delays_s.unwrap_or_else(default_delays_s),
            timeout_ms: own_timeout_ms.unwrap_or(timeout_max_ms).min(timeout_max_ms),
            rate_per_s: own_rate_per_s.into_iter().chain(defaults.rate_per_s).min(),
        }
    }
}

/// Reads a policy's change. Errors: every member that is wrong by itself; the operator's limits are not known here.
pub fn policy_change(body: &[u8]) -> Result<PolicyChange, Violations> {
    let mut fields = Fields::parse(body, "body")?;
    let known = ["retryDelaysS", "timeoutMs", "ratePerS"];
    if !known.iter().any(|name| fields.has(name)) && fields.violations.is_empty() {
        return Err(Violations::one(
            "body",
            "must have at least one of retryDelaysS, timeoutMs and ratePerS",
        ));
    }
    let change = PolicyChange {
        retry_delays: fields.optional("retryDelaysS", |delays: Nullable<Vec<i64>>| {
            delays.0.map(|delays| delays.into_iter().map(seconds).collect()).transpose()
        }),
        timeout: fields.optional("timeoutMs", |ms: Nullable<i64>| ms.0.map(milliseconds).transpose()),
        rate_per_s: fields.optional("ratePerS", |rate: Nullable<i64>| {
            rate.0.map(|rate| u32::try_from(rate).map_err(|_| "must be a positive number")).transpose()
        }),
    };
    if fields.violations.is_empty() { Ok(change) } else { Err(fields.violations) }
}

fn seconds(s: i64) -> Result<Duration, &'static str> {
    u64::try_from(s).map(Duration::from_secs).map_err(|_| "each must be a positive number of seconds")
}

fn milliseconds(ms: i64) -> Result<Duration, &'static str> {
    u64::try_from(ms).map(Duration::from_millis).map_err(|_| "must be a positive number of milliseconds")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SigningKey {
    key: String,
    created_at: String,
    previous_valid_until: String,
}

impl SigningKey {
    /// The one place where a signing key's text leaves.
    pub fn shown_once(new: &NewSigningKey) -> Result<Self, Error> {
        let key = new.text.expose_str().ok_or_else(|| Error::internal("a signing key is no text"))?;
        Ok(Self {
            key: key.to_owned(),
            created_at: wire_time_ms(new.created_at),
            previous_valid_until: wire_time_ms(new.previous_valid_until),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestResult {
    delivery_id: Uuid,
    attempt: Attempt,
}

impl TryFrom<Tested> for TestResult {
    type Error = Error;

    fn try_from(tested: Tested) -> Result<Self, Error> {
        let attempt = Attempt::numbered(vec![tested.attempt], 0).pop();
        let attempt = attempt.ok_or_else(|| Error::internal("a test event without an attempt"))?;
        Ok(Self { delivery_id: tested.delivery.0, attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_events_data_is_shown_as_it_was_sent() {
        for (payload, shown) in [
            (
                r#"{"n":1.10,"n":12345678901234567890123}"#.as_bytes(),
                r#"{"n":1.10,"n":12345678901234567890123}"#,
            ),
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
            rate_per_s: None,
        };
        let own = PolicyRow { retry_delays_ms: Some(vec![]), timeout_ms: None, rate_per_s: Some(3) };
        let told = serde_json::to_value(Policy::in_force(own, &defaults)).unwrap();
        assert_eq!(told, json!({ "retryDelaysS": [], "timeoutMs": 15000, "ratePerS": 3 }));
        let told = serde_json::to_value(Policy::in_force(PolicyRow::default(), &defaults)).unwrap();
        assert_eq!(told, json!({ "retryDelaysS": [9], "timeoutMs": 15000 }));
        // The operator has become stricter since.
        let stricter = DefaultPolicy { timeout: Duration::from_secs(5), rate_per_s: Some(10), ..defaults };
        for (own, in_force) in [(None, 10), (Some(3), 3), (Some(50), 10)] {
            let own = PolicyRow { retry_delays_ms: None, timeout_ms: Some(9_000), rate_per_s: own };
            let told = serde_json::to_value(Policy::in_force(own, &stricter)).unwrap();
            assert_eq!(told, json!({ "retryDelaysS": [9], "timeoutMs": 5000, "ratePerS": in_force }));
        }
    }
}
