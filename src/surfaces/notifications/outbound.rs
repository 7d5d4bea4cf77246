//! What a notifications callback receives: an array of events, each the producer's own object with the type of the event in it, and the
//! callback's user name and password.

use serde_json::value::RawValue;

use crate::domain::credentials::BasicCredentials;
use crate::domain::dialect::{Dialect, Outgoing, OutgoingHeader, Rendered};
use crate::domain::event::Event;
use crate::domain::secret::Secret;
use crate::surfaces::kit::fields::members;

/// The published name of the member that tells an event's type.
const TYPE_MEMBER: &str = "failureType";

/// The dialect of this surface's callbacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notifications;

impl Dialect for Notifications {
    fn render(&self, outgoing: &Outgoing<'_>) -> Rendered {
        let mut headers = vec![OutgoingHeader::plain("content-type", "application/json")];
        if let Some(credentials) = outgoing.credentials {
            let value = BasicCredentials::header(credentials);
            headers.push(OutgoingHeader::sensitive("authorization", value));
        }
        let mut body = vec![b'['];
        for (place, event) in outgoing.events.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            write_event(event, &mut body);
        }
        body.push(b']');
        Rendered { headers, body }
    }

    fn spellings(&self, credentials: &Secret) -> Vec<Secret> {
        BasicCredentials::spellings(credentials)
    }
}

/// The producer's bytes, with the type put in before the closing brace. Data that is no object goes under `data`.
fn write_event(event: &Event, body: &mut Vec<u8>) {
    let data = event.payload.trim_ascii();
    let kind = serde_json::to_vec(&event.kind).expect("a text can always be written as JSON");
    let Some(members) = data.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")) else {
        body.extend_from_slice(b"{\"data\":");
        body.extend_from_slice(data);
        body.push(b',');
        write_type(&kind, body);
        return body.push(b'}');
    };
    let own = own_types(data);
    if own.is_empty() {
        body.push(b'{');
        body.extend_from_slice(members);
        if !members.trim_ascii().is_empty() {
            body.push(b',');
        }
        write_type(&kind, body);
        return body.push(b'}');
    }
    // A second member of that name would leave it to the reader which one counts: what the producer says there gives way.
    let mut written = 0;
    for (start, end) in own {
        body.extend_from_slice(&data[written..start]);
        body.extend_from_slice(&kind);
        written = end;
    }
    body.extend_from_slice(&data[written..]);
}

fn write_type(kind: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(format!("\"{TYPE_MEMBER}\":").as_bytes());
    body.extend_from_slice(kind);
}

/// Where in the object the values of members of that name stand.
fn own_types(object: &[u8]) -> Vec<(usize, usize)> {
    // Nearly every object has none, which can be seen without reading it, unless the name is spelt with an escape.
    let spelt_out = object.windows(TYPE_MEMBER.len()).any(|window| window == TYPE_MEMBER.as_bytes());
    if !spelt_out && !object.contains(&b'\\') {
        return Vec::new();
    }
    let raw = std::str::from_utf8(object).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let all = raw.and_then(|raw| members(raw).ok()).unwrap_or_default();
    let ours = all.into_iter().filter(|(name, _)| name == TYPE_MEMBER);
    ours.map(|(_, value)| {
        let start = value.get().as_ptr() as usize - object.as_ptr() as usize;
        (start, start + value.get().len())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::EventId;
    use chrono::DateTime;
    use uuid::Uuid;

    fn event(kind: &str, payload: &str) -> Event {
        Event {
            id: EventId(Uuid::from_u128(1)),
            kind: kind.to_owned(),
            source: "/events".to_owned(),
            payload: payload.as_bytes().to_vec(),
            occurred_at: DateTime::from_timestamp(1_548_935_999, 0).unwrap(),
        }
    }

    fn body(events: &[&Event]) -> String {
        let outgoing = Outgoing { id: Uuid::from_u128(2), events, credentials: None };
        String::from_utf8(Notifications.render(&outgoing).body).unwrap()
    }

    #[test]
    fn each_event_is_the_producers_object_byte_for_byte_with_its_type_in_it() {
        for (payload, written) in [
            ("{}", r#"[{"failureType":"SMS_FAILED"}]"#),
            ("{ }", r#"[{ "failureType":"SMS_FAILED"}]"#),
            (
                r#"{ "b" : 1.10,"a":"\u00e9\"}" }"#,
                r#"[{ "b" : 1.10,"a":"\u00e9\"}" ,"failureType":"SMS_FAILED"}]"#,
            ),
            (r#"{"a":{"failureType":1}}"#, r#"[{"a":{"failureType":1},"failureType":"SMS_FAILED"}]"#),
            (r#"{"failureType": "Hard", "a":1}"#, r#"[{"failureType": "SMS_FAILED", "a":1}]"#),
            (
                r#"{"failure\u0054ype":{"x":[]},"failureType":2}"#,
                r#"[{"failure\u0054ype":"SMS_FAILED","failureType":"SMS_FAILED"}]"#,
            ),
            ("[1, 2]", r#"[{"data":[1, 2],"failureType":"SMS_FAILED"}]"#),
            (r#""{}""#, r#"[{"data":"{}","failureType":"SMS_FAILED"}]"#),
            ("null", r#"[{"data":null,"failureType":"SMS_FAILED"}]"#),
        ] {
            let body = body(&[&event("SMS_FAILED", payload)]);
            assert_eq!(body, written);
            let read: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(read[0]["failureType"], "SMS_FAILED");
        }
    }

    #[test]
    fn a_batch_is_one_array_in_its_order_and_trying_a_callback_out_is_an_empty_one() {
        let (one, other) = (event("A", r#"{"n":1}"#), event("B", r#"{"n":2}"#));
        assert_eq!(body(&[&one, &other]), r#"[{"n":1,"failureType":"A"},{"n":2,"failureType":"B"}]"#);
        assert_eq!(body(&[]), "[]");
    }

    #[test]
    fn rule_13_user_name_and_password_go_in_a_sensitive_header_and_nowhere_else() {
        let (event, stored) = (event("A", "{}"), Secret::from("canary:user".to_owned()));
        let outgoing = Outgoing { id: Uuid::from_u128(2), events: &[&event], credentials: Some(&stored) };
        let rendered = Notifications.render(&outgoing);
        let headers: Vec<_> = rendered
            .headers
            .iter()
            .map(|header| (header.name, std::str::from_utf8(&header.value).unwrap(), header.sensitive))
            .collect();
        let basic = "Basic Y2FuYXJ5OnVzZXI=";
        assert_eq!(headers, [("content-type", "application/json", false), ("authorization", basic, true)]);
        assert!(!String::from_utf8(rendered.body).unwrap().contains("canary"));
    }
}
