//! What is refused before anything is dialled, and what the client never does by itself.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use herald::domain::egress::{PortRule, Refusal};
use herald::engine::outbound::{Limits, ReplyKind};
use hyper::header::HeaderValue;

use super::receiver::Receiver;
use super::*;

fn is_blocked_address(reply: &Reply) -> bool {
    matches!(reply.result, ReplyKind::Blocked { reason: Refusal::Address { .. } }) && !reply.reached
}

#[tokio::test]
async fn rule_01_a_literal_is_no_way_round() {
    let canary = Receiver::answering(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let strict = EgressPolicy { http_allowed: true, ports: PortRule::Any, ..EgressPolicy::production() };
    let outbound = Outbound::new(Arc::new(strict), Limits::default()).unwrap();
    for host in
        ["127.0.0.1", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "%31%32%37.0.0.1", "127.0.0.1."]
    {
        let reply = post(&outbound, &format!("http://{host}:{}/", canary.port), AMPLE).await;
        assert!(is_blocked_address(&reply), "{host}: {reply:?}");
    }
    let reply = post(&outbound, &format!("http://localhost:{}/", canary.port), AMPLE).await;
    assert_eq!(reply.result, ReplyKind::Blocked { reason: Refusal::LoopbackName });
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn rule_01_one_bad_address_spoils_the_name() {
    let canary = Receiver::answering(b"HTTP/1.1 200 OK\r\n\r\n").await;
    for addresses in [
        vec!["127.0.0.1", "10.0.0.1"],
        vec!["10.0.0.1", "127.0.0.1"],
        vec!["127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1"],
        vec!["127.0.0.1", "169.254.169.254"],
        vec!["8.8.8.8", "10.0.0.1"],
    ] {
        let shown = format!("{addresses:?}");
        let outbound = outbound_with_names(Names(move || addresses.clone()));
        let reply = post(&outbound, &format!("http://partner.example:{}/", canary.port), AMPLE).await;
        assert!(is_blocked_address(&reply), "{shown}: {reply:?}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn rule_01_a_name_that_changes_is_vetted_again_on_each_new_connection() {
    let receiver =
        Receiver::answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let outbound = outbound_with_names(Names(move || match counted.fetch_add(1, Ordering::SeqCst) {
        0 => vec!["127.0.0.1"],
        _ => vec!["10.0.0.1"],
    }));
    let target = format!("http://partner.example:{}/", receiver.port);
    assert_eq!(status(&post(&outbound, &target, AMPLE).await), 200);
    settle().await;
    assert!(is_blocked_address(&post(&outbound, &target, AMPLE).await));
    assert_eq!((lookups.load(Ordering::SeqCst), receiver.connections()), (2, 1));
}

#[tokio::test]
async fn rule_01_a_name_is_resolved_once_per_connection() {
    let receiver = Receiver::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let outbound = outbound_with_names(Names(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        vec!["127.0.0.1"]
    }));
    let target = format!("http://partner.example:{}/", receiver.port);
    for _ in 0..3 {
        assert_eq!(status(&post(&outbound, &target, AMPLE).await), 200);
        settle().await;
    }
    assert_eq!((lookups.load(Ordering::SeqCst), receiver.connections()), (1, 1));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let receiver = Receiver::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let outbound = outbound_with_names(Names(|| vec!["127.0.0.2", "127.0.0.1"])); // nobody listens on the first
    let reply = post(&outbound, &format!("http://partner.example:{}/", receiver.port), AMPLE).await;
    assert_eq!(status(&reply), 200);
}

#[tokio::test]
async fn rule_04_a_url_of_yesterdays_policy_is_judged_by_todays() {
    let outbound = Outbound::new(Arc::new(EgressPolicy::production()), Limits::default()).unwrap();
    for (raw, expected) in [
        ("http://partner.example/", Refusal::PlainHttp),
        ("https://partner.example:22/", Refusal::Port(22)),
        ("https://receiver/", Refusal::SingleLabelName),
    ] {
        assert_eq!(post(&outbound, raw, AMPLE).await.result, ReplyKind::Blocked { reason: expected });
    }
}

#[tokio::test]
async fn rule_03_redirects_are_not_followed() {
    let canary = Receiver::answering(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let location = canary.url();
    for code in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let receiver = Receiver::start(move |mut peer| {
            let location = location.clone();
            async move {
                peer.request().await;
                peer.say(format!(
                    "HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
            }
        })
        .await;
        assert_eq!(status(&post(&outbound(Limits::default()), &receiver.url(), AMPLE).await), code);
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn rule_03_the_request_holds_what_was_asked_for_and_nothing_else() {
    let receiver = Receiver::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut headers = HeaderMap::new();
    let mut key = HeaderValue::from_static("canary-key");
    key.set_sensitive(true);
    headers.insert("x-api-key", key);
    headers.insert("host", HeaderValue::from_static("elsewhere.example"));
    let target = url(&format!("http://LOCALHOST:{}/a%20b/ä?q=1&r={{}}", receiver.port));
    let body = Bytes::from_static(b"\x00exactly\xff these bytes");
    let length = body.len();
    let post = Post { url: &target, headers, body, timeout: AMPLE, mask: &[] };
    assert_eq!(status(&outbound(Limits::default()).post(post).await), 200);

    let request = receiver.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "\u{0}exactly\u{fffd} these bytes");
    let mut lines: Vec<String> = head.split("\r\n").map(str::to_lowercase).collect();
    lines[1..].sort();
    let expected = [
        "post /a%20b/%c3%a4?q=1&r={} http/1.1".to_owned(),
        format!("content-length: {length}"),
        format!("host: localhost:{}", receiver.port),
        format!("user-agent: herald/{}", env!("CARGO_PKG_VERSION")),
        "x-api-key: canary-key".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn rule_03_nothing_is_decompressed() {
    // A gzip stream's first bytes; whatever follows them is the receiver's business.
    let answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00";
    let receiver = Receiver::answering(answer).await;
    let reply = post(&outbound(Limits::default()), &receiver.url(), AMPLE).await;
    let ReplyKind::Answered { body, .. } = reply.result else { panic!("{:?}", reply.result) };
    assert_eq!(body, b"\x1f\x8b\x08\x00");
}

const PROXY_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Runs `proxied_process` in a process of its own, since the environment cannot be changed in this one.
#[tokio::test]
async fn rule_03_a_proxy_in_the_environment_is_ignored() {
    let proxy = Receiver::answering(b"HTTP/1.1 418 Proxied\r\nContent-Length: 0\r\n\r\n").await;
    let mut inner = Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "outbound::guard::proxied_process", "--ignored", "--nocapture"]);
    for variable in PROXY_VARIABLES {
        inner.env(variable, proxy.url());
    }
    inner.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || inner.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
#[ignore = "run by rule_03_a_proxy_in_the_environment_is_ignored with proxy variables set"]
async fn proxied_process() {
    let receiver = Receiver::answering(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(status(&post(&outbound(Limits::default()), &receiver.url(), AMPLE).await), 204);
}
