//! What a webhook receives: the event's data as it is, the event's name, and a signature under the secret of the subscription.

use std::fmt::Write as _;

use aws_lc_rs::hmac;

use crate::domain::dialect::{Dialect, Outgoing, OutgoingHeader, Rendered};
use crate::domain::webhook::CONTENT_TYPE;

/// The dialect of this surface's callbacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Webhooks;

impl Dialect for Webhooks {
    fn render(&self, outgoing: &Outgoing<'_>) -> Rendered {
        let event = outgoing.only();
        let mut headers = vec![
            OutgoingHeader::plain("content-type", CONTENT_TYPE),
            OutgoingHeader::plain("x-webhook-delivery", outgoing.id.simple().to_string()),
            OutgoingHeader::plain("x-webhook-event", event.kind.as_str()),
        ];
        if let Some(secret) = outgoing.credentials {
            let signature = signature(secret.expose(), &event.payload);
            headers.push(OutgoingHeader::plain("x-hub-signature", signature));
        }
        Rendered { headers, body: event.payload.clone() }
    }
}

/// HMAC-SHA256, in hexadecimal digits. The label says `sha1` because the published library's does, and receivers that were built with it
/// compare the whole value.
fn signature(secret: &[u8], body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body);
    let mut text = "sha1=".to_owned();
    for byte in tag.as_ref() {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::event::Event;
    use crate::domain::id::EventId;
    use crate::domain::secret::Secret;

    #[test]
    fn a_webhook_gets_the_data_byte_for_byte_under_the_published_headers() {
        let event = Event {
            id: EventId(Uuid::from_u128(1)),
            kind: "order_paid".to_owned(),
            source: "/shop".to_owned(),
            payload: b"{ \"b\" : 1.0,\"a\":\"\\u00e9\" }".to_vec(),
            occurred_at: DateTime::from_timestamp(0, 0).unwrap(),
        };
        let secret = Secret::new("c2VjcmV0");
        let id = Uuid::from_u128(0x0197_a5c0_3b5e_7d21_9f6b_3a8f_5a0c_7e11);
        let outgoing = Outgoing { id, events: &[&event], credentials: Some(&secret) };
        let rendered = Webhooks.render(&outgoing);
        assert_eq!(rendered.body, event.payload);
        let headers: Vec<_> = rendered
            .headers
            .iter()
            .map(|header| (header.name, std::str::from_utf8(&header.value).unwrap()))
            .collect();
        assert_eq!(
            headers[..3],
            [
                ("content-type", "application/json"),
                ("x-webhook-delivery", "0197a5c03b5e7d219f6b3a8f5a0c7e11"),
                ("x-webhook-event", "order_paid"),
            ]
        );
        assert_eq!(headers[3].0, "x-hub-signature");
    }

    /// RFC 4231, test case 2, under the published label.
    #[test]
    fn the_signature_is_an_hmac_of_sha_256_that_says_sha1() {
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "sha1=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
