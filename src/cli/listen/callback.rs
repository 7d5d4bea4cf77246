//! One callback as it arrived, and the verdicts on it.
//!
//! The api key and the signatures that came with it are judged here and then forgotten: they are in none of the fields.
//! How a callback is printed and answered is not known here.

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::domain::secret::Secret;
use crate::domain::signature::{Received, SigningKey, TOLERANCE_S, verify};

/// What callbacks must carry. Nothing is expected of what is not given.
pub struct Expected {
    pub api_key: Option<Secret>,
    pub signing_keys: Vec<SigningKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Unchecked,
    Right,
    Wrong(String),
}

pub struct Callback {
    pub at: DateTime<Utc>,
    pub method: Method,
    /// Path and query, as sent.
    pub path: String,
    pub webhook_id: Option<String>,
    /// Names of the events inside, as far as the surface's form is known.
    pub event_types: Vec<String>,
    pub api_key: Verdict,
    pub signature: Verdict,
    pub body: Bytes,
}

impl Callback {
    pub fn new(at: DateTime<Utc>, parts: Parts, body: Bytes, expected: &Expected) -> Callback {
        let path =
            parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |path| path.as_str()).to_owned();
        Callback {
            at,
            path,
            webhook_id: header(&parts.headers, "webhook-id").ok(),
            event_types: event_types(&parts.headers, &body),
            api_key: judge_api_key(&parts.headers, expected.api_key.as_ref()),
            signature: judge_signature(&parts.headers, &body, &expected.signing_keys, at.timestamp()),
            method: parts.method,
            body,
        }
    }
}

fn judge_api_key(headers: &HeaderMap, expected: Option<&Secret>) -> Verdict {
    let Some(expected) = expected else { return Verdict::Unchecked };
    match header(headers, "x-api-key") {
        Ok(sent) if Secret::from(sent.clone()) == *expected => Verdict::Right,
        Ok(_) => Verdict::Wrong("another key".to_owned()),
        Err(missing) => Verdict::Wrong(missing),
    }
}

fn judge_signature(headers: &HeaderMap, body: &[u8], keys: &[SigningKey], now: i64) -> Verdict {
    if keys.is_empty() {
        return Verdict::Unchecked;
    }
    let verified = || {
        let id = header(headers, "webhook-id")?;
        let timestamp = header(headers, "webhook-timestamp")?;
        let signature = header(headers, "webhook-signature")?;
        let received = Received { id: &id, timestamp: &timestamp, signature: &signature, body };
        verify(keys, received, now, TOLERANCE_S).map_err(|error| error.to_string())
    };
    verified().map_or_else(Verdict::Wrong, |()| Verdict::Right)
}

/// A header that must be there exactly once. Bytes that are not UTF-8 are replaced, which no key or id survives.
fn header(headers: &HeaderMap, name: &str) -> Result<String, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        (None, _) => Err(format!("no {name} was sent")),
        (Some(_), Some(_)) => Err(format!("{name} was sent more than once")),
    }
}

/// The webhooks surface names the event in a header, redirect in its CloudEvent, notifications in each of its array.
fn event_types(headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    if let Ok(name) = header(headers, "x-webhook-event") {
        return vec![name];
    }
    let text = |event: &Value, member: &str| event.get(member).and_then(Value::as_str).map(str::to_owned);
    match serde_json::from_slice(body) {
        Ok(Value::Array(events)) => {
            let mut types: Vec<String> =
                events.iter().filter_map(|event| text(event, "failureType")).collect();
            types.sort();
            types.dedup();
            types
        }
        Ok(event) => text(&event, "type").into_iter().collect(),
        Err(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::signature::sign;
    use axum::http::Request;

    const NOW: i64 = 1_614_265_330;
    const BODY: &str = r#"{"type":"RedirectSessionCancelled"}"#;

    fn judged(headers: &[(&str, &str)], expected: &Expected) -> Callback {
        let request = headers
            .iter()
            .fold(Request::post("/cb?x=1"), |request, (name, value)| request.header(*name, *value));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Callback::new(
            DateTime::from_timestamp(NOW, 0).unwrap(),
            parts,
            Bytes::from_static(BODY.as_bytes()),
            expected,
        )
    }

    #[test]
    fn api_keys() {
        let expected = Expected { api_key: Some(Secret::new("expected-key")), signing_keys: vec![] };
        let wrong = |why: &str| Verdict::Wrong(why.to_owned());
        for (headers, verdict) in [
            (vec![("x-api-key", "expected-key")], Verdict::Right),
            (vec![("x-api-key", "expected-keY")], wrong("another key")),
            (vec![], wrong("no x-api-key was sent")),
            (
                vec![("x-api-key", "expected-key"), ("x-api-key", "b")],
                wrong("x-api-key was sent more than once"),
            ),
        ] {
            assert_eq!(judged(&headers, &expected).api_key, verdict, "{headers:?}");
        }
        let nothing = Expected { api_key: None, signing_keys: vec![] };
        let callback = judged(&[("x-api-key", "a")], &nothing);
        assert_eq!((callback.api_key, callback.signature), (Verdict::Unchecked, Verdict::Unchecked));
        assert_eq!(callback.path, "/cb?x=1");
    }

    #[test]
    fn signatures() {
        let key = SigningKey::generate();
        let signature = sign(std::slice::from_ref(&key), "msg_1", NOW, BODY.as_bytes());
        let time = NOW.to_string();
        let expected = Expected { api_key: None, signing_keys: vec![SigningKey::generate(), key] };
        let whole =
            [("webhook-id", "msg_1"), ("webhook-timestamp", &time), ("webhook-signature", &signature)];
        assert_eq!(judged(&whole, &expected).signature, Verdict::Right);
        for left_out in 0..whole.len() {
            let mut headers = whole.to_vec();
            let (name, _) = headers.remove(left_out);
            assert_eq!(judged(&headers, &expected).signature, Verdict::Wrong(format!("no {name} was sent")));
        }
        let other = Expected { api_key: None, signing_keys: vec![SigningKey::generate()] };
        assert!(matches!(judged(&whole, &other).signature, Verdict::Wrong(_)));
    }

    #[test]
    fn event_types_of_all_three_surfaces() {
        let mut named = HeaderMap::new();
        named.insert("x-webhook-event", "report_filed".parse().unwrap());
        for (headers, body, types) in [
            (HeaderMap::new(), BODY, vec!["RedirectSessionCancelled"]),
            (named, r#"{"type":"other"}"#, vec!["report_filed"]),
            (
                HeaderMap::new(),
                r#"[{"failureType":"SMS_FAILED"},{"failureType":"EMAIL_BOUNCED"},{"failureType":"SMS_FAILED"}]"#,
                vec!["EMAIL_BOUNCED", "SMS_FAILED"],
            ),
            (HeaderMap::new(), "[]", vec![]),
            (HeaderMap::new(), r#"{"type":1}"#, vec![]),
            (HeaderMap::new(), "no json", vec![]),
        ] {
            assert_eq!(event_types(&headers, body.as_bytes()), types, "{body}");
        }
    }
}
