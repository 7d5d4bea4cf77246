//! Calls through the operator's proxy: it is asked for the name as it stands, literals are judged before it is asked, and what it answers is
//! believed as far as it is a tunnel.

use std::sync::Mutex;

use herald::domain::egress::PortRule;
use herald::domain::egress_proxy::EgressProxy;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::receiver::{Peer, Receiver};
use super::*;

/// Production's rules about addresses, with plain http on any port.
fn through(proxy: &Receiver, limits: Limits) -> Outbound {
    let policy = EgressPolicy { http_allowed: true, ports: PortRule::Any, ..EgressPolicy::production() };
    let extras = Extras {
        resolver: Arc::new(Names(|| panic!("names are the proxy's to resolve"))),
        proxy: EgressProxy::parse(&format!("http://127.0.0.1:{}", proxy.port)),
        ..Extras::default()
    };
    Outbound::with(Arc::new(policy), limits, extras).unwrap()
}

/// Opens a tunnel to this port of this machine, whatever it is asked for.
pub async fn tunnel(mut peer: Peer, port: u16) {
    if peer.request().await && peer.say("HTTP/1.1 200 Connection established\r\n\r\n").await {
        let mut receiver = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let _either_hung_up = tokio::io::copy_bidirectional(&mut peer.io, &mut receiver).await;
        let _gone = receiver.shutdown().await;
    }
}

#[tokio::test]
async fn rule_03_an_explicit_proxy_is_asked_for_the_name_and_carries_the_call() {
    let receiver = Receiver::answering(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let port = receiver.port;
    let proxy = Receiver::start(move |peer| tunnel(peer, port)).await;
    let outbound = through(&proxy, Limits::default());
    for _ in 0..2 {
        let reply = post(&outbound, "http://partner.example:8080/hook", AMPLE).await;
        assert_eq!(status(&reply), 204);
        assert!(reply.reached);
    }
    let asked = "CONNECT partner.example:8080 HTTP/1.1\r\nHost: partner.example:8080\r\n\r\n";
    assert_eq!(proxy.requests(), [asked], "once: the tunnel is kept like any connection");
    assert_eq!(receiver.requests().len(), 2);
    assert!(receiver.requests()[0].starts_with("POST /hook HTTP/1.1\r\n"));
}

#[tokio::test]
async fn rule_02_literals_are_judged_before_a_proxy_is_asked() {
    let proxy = Receiver::answering(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let outbound = through(&proxy, Limits::default());
    for host in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "2130706433",
        "[64:ff9b::a9fe:a9fe]",
    ] {
        let raw = format!("http://{host}:8080/");
        let lenient = EgressPolicy {
            allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            ..EgressPolicy::development()
        };
        let url = CallbackUrl::parse(&raw, &lenient).unwrap();
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let reply = outbound.post(Post { url: &url, headers, body, timeout: AMPLE, mask: &[] }).await;
        assert!(matches!(reply.result, ReplyKind::Blocked { .. }), "{host}: {reply:?}");
    }
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn rule_05_a_proxy_that_refuses_rambles_or_says_nothing_is_an_unreachable_host() {
    let refusals: Mutex<Vec<String>> = Mutex::default();
    for answer in [
        &b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"[..],
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"",
    ] {
        let proxy = Receiver::start(move |mut peer| async move {
            peer.request().await;
            peer.say(answer).await;
        })
        .await;
        let reply = post(&through(&proxy, Limits::default()), "http://partner.example/", AMPLE).await;
        let ReplyKind::Unreachable { reason } = reply.result else { panic!("{:?}", reply.result) };
        assert!(reason.contains("egress proxy") && !reply.reached, "{reason}");
        refusals.lock().unwrap().push(reason);
    }
    assert!(refusals.lock().unwrap()[0].contains("403"));

    let endless = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\n").await;
        peer.say_for_ever(b"X: y\r\n").await;
    })
    .await;
    let reply = post(&through(&endless, Limits::default()), "http://partner.example/", AMPLE).await;
    assert!(matches!(reply.result, ReplyKind::Unreachable { .. }), "{reply:?}");

    let silent = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.stall().await;
    })
    .await;
    let limits = Limits { connect: SHORT, ..Limits::default() };
    let reply = post(&through(&silent, limits), "http://partner.example/", AMPLE).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: herald::engine::outbound::Phase::Connect });
}
