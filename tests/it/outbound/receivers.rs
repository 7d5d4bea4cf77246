//! Receivers that are slow, endless, broken or odd.

use std::io;
use std::time::Duration;

use herald::engine::outbound::{Limits, Lookup, Phase, ReplyKind, Resolve};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::receiver::Receiver;
use super::*;

/// Posts once with a short total, and sees to it that the total held.
async fn cut_short(receiver: &Receiver) -> ReplyKind {
    let reply = post(&outbound(Limits::default()), &receiver.url(), SHORT).await;
    assert!(reply.latency < SHORT + Duration::from_secs(2), "took {:?}", reply.latency);
    assert!(reply.reached);
    reply.result
}

async fn answer_to(bytes: &'static [u8]) -> ReplyKind {
    let receiver = Receiver::answering(bytes).await;
    post(&outbound(Limits::default()), &receiver.url(), AMPLE).await.result
}

#[tokio::test]
async fn rule_05_headers_byte_by_byte() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nX-Slow: ").await;
        peer.drip("z").await;
    })
    .await;
    assert_eq!(cut_short(&receiver).await, ReplyKind::TimedOut { phase: Phase::Headers });
}

#[tokio::test]
async fn rule_05_the_first_byte_has_its_own_limit_and_slow_headers_do_not_break_it() {
    let limits = Limits { first_byte: SHORT / 4, ..Limits::default() };
    let silent = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.stall().await;
    })
    .await;
    let reply = post(&outbound(limits.clone()), &silent.url(), AMPLE).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::FirstByte });
    assert!(reply.latency < AMPLE / 2, "its own limit, not the total");

    let slow = Receiver::start(|mut peer| async move {
        peer.request().await;
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        for byte in b"HTTP/1.1 204 No Content\r\n\r\n" {
            pace.tick().await;
            peer.say([*byte]).await;
        }
    })
    .await;
    let reply = post(&outbound(limits), &slow.url(), AMPLE).await;
    assert_eq!(status(&reply), 204);
    assert!(reply.latency > SHORT / 4);
}

#[tokio::test]
async fn rule_05_body_byte_by_byte() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n").await;
        peer.drip("z").await;
    })
    .await;
    assert_eq!(cut_short(&receiver).await, ReplyKind::TimedOut { phase: Phase::Body { status: 200 } });
}

#[tokio::test]
async fn rule_05_success_then_stall_is_a_timeout() {
    for head in ["Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "\r\nok"] {
        let receiver = Receiver::start(move |mut peer| async move {
            peer.request().await;
            peer.say(format!("HTTP/1.1 200 OK\r\n{head}")).await;
            peer.stall().await;
        })
        .await;
        assert_eq!(
            cut_short(&receiver).await,
            ReplyKind::TimedOut { phase: Phase::Body { status: 200 } },
            "{head}"
        );
        receiver.ended().await; // the connection was dropped, not left open
    }
}

#[tokio::test]
async fn rule_05_an_endless_body_is_cut_and_the_connection_dropped() {
    for (head, chunk) in [
        ("Transfer-Encoding: chunked\r\n\r\n", "3e8\r\n".to_owned() + &"x".repeat(1000) + "\r\n"),
        ("\r\n", "x".repeat(1000)),
        ("Content-Length: 9999999999\r\n\r\n", "x".repeat(1000)),
    ] {
        let receiver = Receiver::start(move |mut peer| {
            let chunk = chunk.clone();
            async move {
                peer.request().await;
                peer.say(format!("HTTP/1.1 200 OK\r\n{head}")).await;
                peer.say_for_ever(chunk.as_bytes()).await;
            }
        })
        .await;
        let outbound = outbound(Limits::default());
        let reply = post(&outbound, &receiver.url(), AMPLE).await;
        let ReplyKind::Answered { status: 200, body, body_complete: false, .. } = reply.result else {
            panic!("{head}: {:?}", reply.result)
        };
        assert_eq!((body.len(), body.iter().all(|byte| *byte == b'x')), (16 * 1024, true), "{head}");
        receiver.ended().await;
    }
}

#[tokio::test]
async fn rule_05_a_body_of_exactly_the_limit_is_whole() {
    let receiver = Receiver::start(|mut peer| async move {
        while peer.request().await {
            let body = "y".repeat(16 * 1024);
            peer.say(format!("HTTP/1.1 500 Oh\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let reply = post(&outbound(Limits::default()), &receiver.url(), AMPLE).await;
    let ReplyKind::Answered { status: 500, body, body_complete: true, .. } = reply.result else {
        panic!("{:?}", reply.result)
    };
    assert_eq!(body.len(), 16 * 1024);
}

#[tokio::test]
async fn rule_05_headers_are_capped() {
    let one_long = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say(format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(400_000))).await;
    })
    .await;
    let many = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\n").await;
        peer.say_for_ever(b"X-Many: 1\r\n").await;
    })
    .await;
    let just_over = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say(format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(33_000))).await;
    })
    .await;
    for receiver in [one_long, many, just_over] {
        let reply = post(&outbound(Limits::default()), &receiver.url(), AMPLE).await;
        let expected = "the answer's headers are too large".to_owned();
        assert_eq!(reply.result, ReplyKind::BadResponse { status: None, reason: expected });
    }
    let long_but_fine = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say(format!("HTTP/1.1 204 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000))).await;
    })
    .await;
    assert_eq!(status(&post(&outbound(Limits::default()), &long_but_fine.url(), AMPLE).await), 204);
}

#[tokio::test]
async fn rule_05_endless_interim_answers() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say_for_ever(b"HTTP/1.1 102 Processing\r\n\r\n").await;
    })
    .await;
    let ReplyKind::BadResponse { status: None, reason } = cut_short(&receiver).await else {
        panic!("they are not read until the time is up")
    };
    assert!(reason.contains("too much came before the answer's head"), "{reason}");
}

#[tokio::test]
async fn rule_05_bodies_and_headers_that_are_no_text() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Odd: \xff\xfe\r\nRetry-After: \xff1\r\nDate: \xff2\r\nContent-Length: 10\r\n\r\n\x00\xff\x1b[31m<s>";
    let ReplyKind::Answered { status: 200, body, retry_after, answered_at, body_complete: true } =
        answer_to(answer).await
    else {
        panic!()
    };
    assert_eq!(body, b"\x00\xff\x1b[31m<s>");
    assert_eq!((retry_after.as_deref(), answered_at.as_deref()), (Some("\u{fffd}1"), Some("\u{fffd}2")));
}

#[tokio::test]
async fn rule_05_of_what_an_answer_says_of_times_little_is_kept() {
    let long = "9".repeat(65);
    for (said, kept) in [
        ("Retry-After: 1\r\nDate: 2\r\n".to_owned(), (Some("1"), Some("2"))),
        (format!("Retry-After: 1\r\nDate: {long}\r\n"), (Some("1"), None)),
        (format!("Retry-After: {long}\r\nDate: 2\r\n"), (None, None)),
        ("Date: 2\r\n".to_owned(), (None, None)),
    ] {
        let answer = format!("HTTP/1.1 503 Not now\r\n{said}Content-Length: 0\r\n\r\n");
        let ReplyKind::Answered { retry_after, answered_at, .. } =
            answer_to(answer.into_bytes().leak()).await
        else {
            panic!("{said}")
        };
        assert_eq!((retry_after.as_deref(), answered_at.as_deref()), kept, "{said}");
    }
}

#[tokio::test]
async fn rule_05_an_echoed_secret_is_masked() {
    let receiver = Receiver::start(|mut peer| async move {
        while peer.request().await {
            let body = "{\"you sent\":\"canary\\/secret\",\"raw\":\"canary/secret\"}";
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let reply = outbound(Limits::default())
        .post(Post {
            url: &url(&receiver.url()),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: AMPLE,
            mask: &[b"canary/secret"],
        })
        .await;
    let ReplyKind::Answered { body, .. } = reply.result else { panic!("{:?}", reply.result) };
    assert_eq!(String::from_utf8(body).unwrap(), r#"{"you sent":"[masked]","raw":"[masked]"}"#);
}

#[tokio::test]
async fn rule_05_a_secret_cut_by_the_limit_is_masked() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        let body = "x".repeat(16 * 1024 - 7) + "canary-secret";
        peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    })
    .await;
    let reply = outbound(Limits::default())
        .post(Post {
            url: &url(&receiver.url()),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: AMPLE,
            mask: &[b"canary-secret"],
        })
        .await;
    let ReplyKind::Answered { body, body_complete: false, .. } = reply.result else {
        panic!("{:?}", reply.result)
    };
    assert!(!String::from_utf8(body).unwrap().contains("canary"));
}

#[tokio::test]
async fn every_status_is_just_a_number_here() {
    for (answer, expected) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], 204),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", 410),
        (b"HTTP/1.1 999 Whatever\r\nContent-Length: 0\r\n\r\n", 999),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 101),
    ] {
        match answer_to(answer).await {
            ReplyKind::Answered { status, .. } => assert_eq!(status, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn answers_that_are_not_http() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/1.1 1000 Too Much\r\n\r\n",
        b"HTTP/1.1 099 Too Little\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nBad Header: 1\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
    ] {
        let result = answer_to(answer).await;
        assert!(
            matches!(result, ReplyKind::BadResponse { status: None, .. }),
            "{:?}: {result:?}",
            String::from_utf8_lossy(answer)
        );
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_answer() {
    for head in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\nzz\r\n"] {
        let receiver = Receiver::start(move |mut peer| async move {
            peer.request().await;
            peer.say(format!("HTTP/1.1 200 OK\r\n{head}")).await;
        })
        .await;
        let reply = post(&outbound(Limits::default()), &receiver.url(), AMPLE).await;
        assert!(
            matches!(reply.result, ReplyKind::BadResponse { status: Some(200), .. }),
            "{:?}",
            reply.result
        );
    }
}

#[tokio::test]
async fn rule_05_accepted_by_the_kernel_and_never_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/", listener.local_addr().unwrap());
    let reply = post(&outbound(Limits::default()), &target, SHORT).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::FirstByte });
    assert!(reply.reached);
}

#[tokio::test]
async fn rule_05_connecting_has_its_own_limit() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Fill the backlog: from then on the kernel ignores whoever knocks.
    let mut waiting = Vec::new();
    while let Ok(Ok(tcp)) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(tcp);
    }
    let limits = Limits { connect: SHORT / 2, ..Limits::default() };
    let reply = post(&outbound(limits), &format!("http://{address}/"), AMPLE).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::Connect });
    assert!(reply.latency < AMPLE / 2, "its own limit, not the total");
    assert!(!reply.reached);
}

#[tokio::test]
async fn rule_05_the_tls_handshake_has_its_own_limit() {
    let receiver = Receiver::start(|mut peer| async move { peer.stall().await }).await;
    let limits = Limits { tls: SHORT / 2, ..Limits::default() };
    let target = format!("https://127.0.0.1:{}/", receiver.port);
    let reply = post(&outbound(limits), &target, AMPLE).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::Tls });
    assert!(reply.latency < AMPLE / 2, "its own limit, not the total");
    assert!(reply.reached);
}

struct Silence;

impl Resolve for Silence {
    fn resolve(&self, _name: &str) -> Lookup {
        Box::pin(std::future::pending())
    }
}

struct NoSuchName;

impl Resolve for NoSuchName {
    fn resolve(&self, _name: &str) -> Lookup {
        Box::pin(async { Err(io::Error::other("no such name")) })
    }
}

#[tokio::test]
async fn rule_05_resolving_has_its_own_limit() {
    let limits = Limits { dns: SHORT / 2, ..Limits::default() };
    let extras = Extras { resolver: Arc::new(Silence), ..Extras::default() };
    let outbound = Outbound::with(Arc::new(EgressPolicy::development()), limits, extras).unwrap();
    let reply = post(&outbound, "http://partner.example/", AMPLE).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::Dns });
    assert!(reply.latency < AMPLE / 2, "its own limit, not the total");
    assert!(!reply.reached);
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let refused = post(&outbound(Limits::default()), &format!("http://{closed}/"), AMPLE).await;
    let unknown = post(&outbound_with_names(NoSuchName), "http://partner.example/", AMPLE).await;
    let empty = post(&outbound_with_names(Names(Vec::new)), "http://partner.example/", AMPLE).await;
    for (reply, expected) in [(refused, "refused"), (unknown, "no such name"), (empty, "no addresses")] {
        let ReplyKind::Unreachable { reason } = &reply.result else { panic!("{:?}", reply.result) };
        assert!(reason.contains(expected), "{reason}");
        assert!(!reply.reached);
    }
}
