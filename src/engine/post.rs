//! One delivery or batch, sent once: rendered, signed, posted, and whatever happened turned into an outcome.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use uuid::Uuid;

use super::outbound::{self, Outbound, Post, Reply, ReplyKind};
use super::targets::{Sending, Target};
use crate::clock;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::Lease;
use crate::domain::dialect::{Dialect, Outgoing, OutgoingHeader};
use crate::domain::event::Event;
use crate::domain::secret::Secret;
use crate::domain::signature::{self, SigningKey};

/// What came of a post, in full.
pub struct Posted {
    pub outcome: Outcome,
    pub status: Option<u16>,
    pub latency_ms: i32,
    pub response: Option<Vec<u8>>,
    pub retry_after: Option<String>,
    pub answered_at: Option<String>,
    /// For the operator.
    pub detail: Option<String>,
    /// Whether a connection was had; `None` when none was tried.
    pub reached: Option<bool>,
    /// Whether something on our side kept it from being sent; that speaks against nobody.
    pub ours: bool,
}

pub async fn post(outbound: &Outbound, dialect: &Arc<dyn Dialect>, target: &Target, lease: &Lease) -> Posted {
    send(outbound, dialect, target, (lease.webhook_id(), lease.attempts), &lease.events()).await
}

/// A panic is a defect of ours, and an attempt that failed. What was sent by then is not known; what it said is in the log.
async fn surely(sending: impl Future<Output = Posted>) -> Posted {
    let panicked = |_| unsent("the sender panicked".to_owned());
    AssertUnwindSafe(sending).catch_unwind().await.unwrap_or_else(panicked)
}

/// Events, or none at all, under one id, after so many failed attempts.
pub async fn send(
    outbound: &Outbound,
    dialect: &Arc<dyn Dialect>,
    target: &Target,
    named: (Uuid, i32),
    events: &[&Event],
) -> Posted {
    surely(try_to_send(outbound, dialect, target, named, events)).await
}

async fn try_to_send(
    outbound: &Outbound,
    dialect: &Arc<dyn Dialect>,
    target: &Target,
    (id, failures): (Uuid, i32),
    events: &[&Event],
) -> Posted {
    let sending = match &target.sending {
        Ok(sending) => sending,
        Err(reason) => return unsent(reason.clone()),
    };
    let credentials = sending.credentials.as_ref();
    let rendered = dialect.render(&Outgoing { id, events, credentials });
    let headers = match headers(rendered.headers, sending, id, &rendered.body) {
        Ok(headers) => headers,
        Err(reason) => return unsent(reason),
    };
    let mut secrets = credentials.map(|secret| dialect.spellings(secret)).unwrap_or_default();
    secrets.extend(sending.signing_keys.iter().flat_map(SigningKey::spellings));
    let mask: Vec<&[u8]> = secrets.iter().map(Secret::expose).collect();
    let (url, is_backup) = sending.url(failures);
    let request =
        Post { url, headers, body: Bytes::from(rendered.body), timeout: target.timeout, mask: &mask };
    let posted = classify(outbound.post(request).await, dialect.as_ref());
    match is_backup {
        true => Posted { detail: Some(at_the_backup_url(posted.detail)), ..posted },
        false => posted,
    }
}

fn at_the_backup_url(detail: Option<String>) -> String {
    detail.map_or_else(
        || "sent to the backup URL".to_owned(),
        |detail| format!("sent to the backup URL: {detail}"),
    )
}

/// The dialect's own headers, and the Standard Webhooks ones beside them (SECURITY rule 8): the id is the delivery's or the batch's and the same
/// on every attempt, the timestamp is this attempt's, and what is signed are the bytes that are sent.
fn headers(own: Vec<OutgoingHeader>, sending: &Sending, id: Uuid, body: &[u8]) -> Result<HeaderMap, String> {
    let (id, timestamp) = (id.to_string(), clock::now().timestamp());
    let is_signed = !sending.signing_keys.is_empty();
    let signature = is_signed.then(|| signature::sign(&sending.signing_keys, &id, timestamp, body));
    let mut all = own;
    all.push(OutgoingHeader::plain("webhook-id", id));
    all.push(OutgoingHeader::plain("webhook-timestamp", timestamp.to_string()));
    all.extend(signature.map(|signature| OutgoingHeader::plain("webhook-signature", signature)));
    // One piece of memory for all values: a request is copied in case it has to be made again, and copies of these share it.
    let mut text = BytesMut::with_capacity(all.iter().map(|header| header.value.len()).sum());
    let mut headers = HeaderMap::with_capacity(all.len() + outbound::OWN_HEADERS);
    for header in all {
        text.extend_from_slice(&header.value);
        let mut value = HeaderValue::from_maybe_shared(text.split().freeze())
            .map_err(|_| format!("the value of {} cannot be sent in a header", header.name))?;
        value.set_sensitive(header.sensitive);
        headers.insert(HeaderName::from_static(header.name), value);
    }
    Ok(headers)
}

/// Something on our side keeps it from being sent; nothing went out.
fn unsent(reason: String) -> Posted {
    Posted {
        outcome: Outcome::Blocked,
        status: None,
        latency_ms: 0,
        response: None,
        retry_after: None,
        answered_at: None,
        detail: Some(reason),
        reached: None,
        ours: true,
    }
}

fn classify(reply: Reply, dialect: &dyn Dialect) -> Posted {
    let latency_ms = i32::try_from(reply.latency.as_millis()).unwrap_or(i32::MAX);
    let nothing = Posted {
        outcome: Outcome::Unreachable,
        status: None,
        latency_ms,
        response: None,
        retry_after: None,
        answered_at: None,
        detail: None,
        reached: Some(reply.reached),
        ours: false,
    };
    match reply.result {
        ReplyKind::Answered { status, retry_after, answered_at, body, .. } => Posted {
            outcome: if dialect.accepts(status) { Outcome::Delivered } else { Outcome::Refused },
            status: Some(status),
            response: Some(body),
            retry_after,
            answered_at,
            ..nothing
        },
        // Who was not reached in time was not reached: a partner who could tell the two apart would have a port scanner (SECURITY rule 6).
        ReplyKind::TimedOut { phase } => Posted {
            outcome: if phase.is_before_the_request() { Outcome::Unreachable } else { Outcome::TimedOut },
            detail: Some(format!("timed out {phase}")),
            ..nothing
        },
        ReplyKind::Unreachable { reason } => Posted { detail: Some(reason), ..nothing },
        // Nobody was dialled, so this says nothing of our own network: else whoever names enough forbidden hosts could feign an outage.
        ReplyKind::Blocked { reason } => {
            Posted { outcome: Outcome::Blocked, detail: Some(reason.to_string()), reached: None, ..nothing }
        }
        ReplyKind::BadResponse { status, reason } => Posted { status, detail: Some(reason), ..nothing },
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;
    use crate::domain::dialect::Rendered;
    use crate::domain::egress::Refusal;
    use crate::engine::outbound::Phase;

    struct Plain;

    impl Dialect for Plain {
        fn render(&self, _outgoing: &Outgoing<'_>) -> Rendered {
            Rendered { headers: Vec::new(), body: Vec::new() }
        }
    }

    fn posted(result: ReplyKind, reached: bool) -> Posted {
        classify(Reply { result, latency: Duration::from_millis(7), reached }, &Plain)
    }

    #[tokio::test]
    async fn rule_23_a_post_that_panics_is_an_attempt_that_failed_on_our_side() {
        let posted = surely(async { panic!("as a test") }).await;
        assert_eq!((posted.outcome, posted.ours, posted.reached), (Outcome::Blocked, true, None));
        assert_eq!(posted.detail.as_deref(), Some("the sender panicked"));
    }

    #[test]
    fn rule_06_whatever_keeps_a_connection_from_coming_about_is_one_and_the_same_to_a_partner() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut details = Vec::new();
        for (result, reached) in [
            (ReplyKind::Blocked { reason: Refusal::Address { address, why: "it is private" } }, false),
            (ReplyKind::Blocked { reason: Refusal::LoopbackName }, false),
            (ReplyKind::Unreachable { reason: "connecting to 10.0.0.1:443: refused".to_owned() }, false),
            (ReplyKind::Unreachable { reason: "partner.example cannot be resolved".to_owned() }, false),
            (ReplyKind::TimedOut { phase: Phase::Dns }, false),
            (ReplyKind::TimedOut { phase: Phase::Connect }, false),
            (ReplyKind::TimedOut { phase: Phase::Tls }, true),
        ] {
            let posted = posted(result, reached);
            assert!(matches!(posted.outcome, Outcome::Unreachable | Outcome::Blocked), "{:?}", posted.detail);
            assert_eq!((posted.status, &posted.response, posted.latency_ms), (None, &None, 7));
            let tried = (posted.outcome != Outcome::Blocked).then_some(reached);
            assert_eq!(posted.reached, tried, "what is blocked is no sign of an outage of our own");
            details.push(posted.detail.unwrap());
        }
        let all = details.len();
        details.dedup();
        assert_eq!(details.len(), all, "the operator sees which");
    }

    #[test]
    fn what_came_of_a_request_that_was_made_is_told_as_it_was() {
        for phase in [Phase::FirstByte, Phase::Headers, Phase::Body { status: 200 }] {
            let posted = posted(ReplyKind::TimedOut { phase }, true);
            assert_eq!((posted.outcome, posted.status), (Outcome::TimedOut, None));
        }
        let broken = ReplyKind::BadResponse { status: Some(200), reason: "the body broke off".to_owned() };
        let broken = posted(broken, true);
        assert_eq!(
            (broken.outcome, broken.status, broken.reached),
            (Outcome::Unreachable, Some(200), Some(true))
        );
        for (status, outcome) in [(199, Outcome::Refused), (204, Outcome::Delivered), (300, Outcome::Refused)]
        {
            let answered = ReplyKind::Answered {
                status,
                retry_after: Some("7".to_owned()),
                answered_at: Some("now".to_owned()),
                body: b"text".to_vec(),
                body_complete: true,
            };
            let posted = posted(answered, true);
            assert_eq!((posted.outcome, posted.status), (outcome, Some(status)));
            assert_eq!(
                (posted.response.as_deref(), posted.retry_after.as_deref(), posted.answered_at.as_deref()),
                (Some(&b"text"[..]), Some("7"), Some("now"))
            );
        }
    }
}
