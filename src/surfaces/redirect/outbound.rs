//! What a subscriber of redirect session events receives: a CloudEvents 1.0 event in structured JSON, with the key that it asked for.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::dialect::{Dialect, Outgoing, OutgoingHeader, Rendered};
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::EventId;
use crate::domain::publication::Attributes;
use crate::domain::redirect_session::RedirectSession;
use crate::domain::subscription::REDIRECT_SESSION_CANCELLED;
use crate::domain::time::wire_time;

const SOURCE: &str = "/customer-authentication-service";

/// The dialect of this surface's callbacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Redirect;

impl Dialect for Redirect {
    fn render(&self, outgoing: &Outgoing<'_>) -> Rendered {
        let mut headers = vec![
            OutgoingHeader::plain("content-type", "application/json"),
            OutgoingHeader::plain("x-request-id", outgoing.id.to_string()),
        ];
        if let Some(key) = outgoing.credentials {
            headers.push(OutgoingHeader::sensitive("x-api-key", key.expose()));
        }
        Rendered { headers, body: cloud_event(outgoing) }
    }
}

/// The published member order, with the stored data last and byte for byte: what was committed is what is signed and sent.
fn cloud_event(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let event = outgoing.only();
    let envelope = Envelope {
        specversion: "1.0",
        id: event.id.0,
        source: source(event),
        time: wire_time(event.occurred_at),
        datacontenttype: "application/json",
        kind: &event.kind,
    };
    let mut body = serde_json::to_vec(&envelope).expect("texts and a uuid can always be written as JSON");
    let closing_brace = body.pop();
    debug_assert_eq!(closing_brace, Some(b'}'));
    body.reserve(event.payload.len() + 16);
    body.extend_from_slice(b",\"data\":");
    body.extend_from_slice(&event.payload);
    body.push(b'}');
    body
}

/// Of this surface's own event it is the published one, whoever made the event.
fn source(event: &Event) -> &str {
    if event.kind == REDIRECT_SESSION_CANCELLED { SOURCE } else { &event.source }
}

/// The event of a session that was just cancelled.
pub fn cancelled(session: &RedirectSession) -> NewEvent {
    let data = CancelledData {
        id: session.id,
        state: session.state.as_str(),
        kind: session.kind.as_str(),
        created_on: wire_time(session.created_at),
        last_modified_on: wire_time(session.updated_at),
    };
    NewEvent {
        id: EventId::new(),
        partner: session.partner,
        kind: REDIRECT_SESSION_CANCELLED.to_owned(),
        source: SOURCE.to_owned(),
        payload: serde_json::to_vec(&data).expect("texts and a uuid can always be written as JSON"),
        occurred_at: session.updated_at,
        attributes: Attributes::default(),
        ordering_key: None,
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: Uuid,
    source: &'a str,
    time: String,
    datacontenttype: &'static str,
    #[serde(rename = "type")]
    kind: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelledData {
    id: Uuid,
    state: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    created_on: String,
    last_modified_on: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{CustomerId, PartnerId};
    use crate::domain::redirect_session::{SessionKind, SessionState};
    use crate::domain::secret::Secret;
    use crate::domain::version::Version;
    use chrono::{DateTime, TimeDelta};

    fn event(payload: &[u8]) -> Event {
        Event {
            id: EventId(Uuid::from_u128(1)),
            kind: "Some\"Kind".to_owned(),
            source: SOURCE.to_owned(),
            payload: payload.to_vec(),
            occurred_at: DateTime::from_timestamp(1_548_935_999, 999_000_000).unwrap(),
        }
    }

    #[test]
    fn a_callback_is_a_cloud_event_in_the_published_order_with_its_data_untouched() {
        let payload = b"{ \"b\" : 1.0,\"a\":\"\\u00e9\" }";
        let event = event(payload);
        let outgoing = Outgoing { id: Uuid::from_u128(2), events: &[&event], credentials: None };
        let body = String::from_utf8(Redirect.render(&outgoing).body).unwrap();
        assert_eq!(
            body,
            format!(
                "{{\"specversion\":\"1.0\",\"id\":\"00000000-0000-0000-0000-000000000001\",\
                 \"source\":\"/customer-authentication-service\",\"time\":\"2019-01-31T11:59:59Z\",\
                 \"datacontenttype\":\"application/json\",\"type\":\"Some\\\"Kind\",\"data\":{}}}",
                std::str::from_utf8(payload).unwrap()
            )
        );
        serde_json::from_str::<serde_json::Value>(&body).unwrap();
        assert_eq!(Redirect.render(&outgoing).body, body.as_bytes(), "the same on every attempt");
    }

    #[test]
    fn rule_13_the_callbacks_key_goes_in_a_sensitive_header_and_nowhere_else() {
        let (event, key) = (event(b"{}"), Secret::from("canary-key".to_owned()));
        let outgoing = Outgoing { id: Uuid::from_u128(2), events: &[&event], credentials: Some(&key) };
        let rendered = Redirect.render(&outgoing);
        let headers: Vec<_> = rendered
            .headers
            .iter()
            .map(|header| (header.name, std::str::from_utf8(&header.value).unwrap(), header.sensitive))
            .collect();
        assert_eq!(
            headers,
            [
                ("content-type", "application/json", false),
                ("x-request-id", "00000000-0000-0000-0000-000000000002", false),
                ("x-api-key", "canary-key", true),
            ]
        );
        assert!(!String::from_utf8(rendered.body).unwrap().contains("canary"));
    }

    #[test]
    fn a_cancelled_session_announces_how_it_stands() {
        let created_at = DateTime::from_timestamp(1_548_935_999, 0).unwrap();
        let session = RedirectSession {
            id: Uuid::from_u128(3),
            partner: PartnerId::new(),
            state: SessionState::Cancelled,
            kind: SessionKind::NewTransactionIntent,
            customer: Some(CustomerId::new()),
            version: Version(2),
            created_at,
            updated_at: created_at + TimeDelta::seconds(61),
            expires_at: created_at + TimeDelta::minutes(15),
        };
        let event = cancelled(&session);
        assert_eq!(
            String::from_utf8(event.payload).unwrap(),
            "{\"id\":\"00000000-0000-0000-0000-000000000003\",\"state\":\"Cancelled\",\"type\":\"NewTransactionIntent\",\
             \"createdOn\":\"2019-01-31T11:59:59Z\",\"lastModifiedOn\":\"2019-01-31T12:01:00Z\"}"
        );
        assert_eq!((event.kind.as_str(), event.source.as_str()), ("RedirectSessionCancelled", SOURCE));
        assert_eq!((event.partner, event.occurred_at), (session.partner, session.updated_at));
    }
}
