//! SECURITY rules 1 and 2 where they matter: addresses that must never be called, each with a canary listening on it.
//!
//! Each test runs its scenario in a process of its own inside a network namespace of its own, whose loopback device
//! carries the addresses. Nothing is ever dialled from the host's network. Where no namespace can be had the tests
//! fail: skipped they would prove nothing.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion, also in its helpers")]

mod attacker;
mod house;
mod names;
mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald::domain::callback_url::CallbackUrl;
use herald::domain::egress::{EgressPolicy, Nat64Prefix, PortRule, Refusal};
use herald::engine::outbound::{Extras, Limits, Lookup, Outbound, Post, Reply, ReplyKind, Resolve};
use hyper::HeaderMap;

use self::house::{Canaries, in_a_network_of_its_own, is_inside};

/// What a cloud, an office or a cluster has behind its servers.
const FORBIDDEN: [&str; 14] = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "198.18.0.1",
    "192.0.2.1",
    "::1",
    "fd00:ec2::254",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
];

/// Public addresses, which in here are as local as the others.
const PUBLIC: [&str; 2] = ["8.8.8.8", "2606:4700::1111"];

#[test]
fn rule_01_and_02_forbidden_addresses_see_no_connection() {
    in_a_network_of_its_own("inside_forbidden_addresses");
}

#[test]
fn rule_02_networks_the_operator_allows_are_reached() {
    in_a_network_of_its_own("inside_allowed_networks");
}

#[test]
fn rule_01_names_that_lead_to_forbidden_addresses() {
    in_a_network_of_its_own("inside_names");
}

#[tokio::test]
#[ignore = "runs inside a namespace, started by rule_01_and_02_forbidden_addresses_see_no_connection"]
async fn inside_forbidden_addresses() {
    if !is_inside() {
        return;
    }
    let canaries = Canaries::on(&[&FORBIDDEN[..], &PUBLIC].concat()).await;
    let outbound = outbound(production(), Vec::new());
    for (host, port) in canaries.hosts_of(&FORBIDDEN) {
        let reply = post(&outbound, &format!("http://{host}:{port}/")).await;
        assert!(is_blocked(&reply), "{host}: {reply:?}");
    }
    for disguise in
        ["2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518", "2130706433", "0", "localhost"]
    {
        if let Ok(url) = CallbackUrl::parse(&format!("http://{disguise}:{}/", canaries.port), &anything()) {
            let reply = post(&outbound, url.as_str()).await;
            assert!(matches!(reply.result, ReplyKind::Blocked { .. }), "{disguise}: {reply:?}");
        }
    }
    assert_eq!(canaries.called(), Vec::<String>::new());
    // The canaries do sing: the same policy reaches a public address that lives on the same device.
    for (host, port) in canaries.hosts_of(&PUBLIC) {
        let reply = post(&outbound, &format!("http://{host}:{port}/")).await;
        assert!(matches!(reply.result, ReplyKind::Answered { status: 200, .. }), "{host}: {reply:?}");
    }
    assert_eq!(canaries.called(), PUBLIC);
}

#[tokio::test]
#[ignore = "runs inside a namespace, started by rule_02_networks_the_operator_allows_are_reached"]
async fn inside_allowed_networks() {
    if !is_inside() {
        return;
    }
    let canaries = Canaries::on(&FORBIDDEN).await;
    let mut policy = production();
    policy.allow = vec!["10.0.0.0/24".parse().unwrap(), "fd00:ec2::/32".parse().unwrap()];
    policy.nat64_prefix = Some(Nat64Prefix::parse("64:ff9b::/96").unwrap());
    let outbound = outbound(policy, Vec::new());
    let allowed = ["10.0.0.1", "fd00:ec2::254"];
    for (host, port) in canaries.hosts_of(&FORBIDDEN) {
        let reply = post(&outbound, &format!("http://{host}:{port}/")).await;
        let is_allowed = allowed.iter().any(|address| host.contains(address));
        assert_eq!(
            matches!(reply.result, ReplyKind::Answered { status: 200, .. }),
            is_allowed,
            "{host}: {reply:?}"
        );
        assert_eq!(is_blocked(&reply), !is_allowed, "{host}: {reply:?}");
    }
    assert_eq!(canaries.called(), allowed);
}

#[tokio::test]
#[ignore = "runs inside a namespace, started by rule_01_names_that_lead_to_forbidden_addresses"]
async fn inside_names() {
    if !is_inside() {
        return;
    }
    let canaries = Canaries::on(&[&FORBIDDEN[..], &PUBLIC].concat()).await;
    let target = format!("http://partner.example:{}/", canaries.port);
    for forbidden in FORBIDDEN {
        for answer in [vec![forbidden], vec![PUBLIC[0], forbidden], vec![forbidden, PUBLIC[0]]] {
            let shown = format!("{answer:?}");
            let reply = post(&outbound(production(), vec![answer]), &target).await;
            assert!(is_blocked(&reply), "{shown}: {reply:?}");
        }
    }
    assert_eq!(canaries.called(), Vec::<String>::new());

    // A name that is public when first asked for and something else from then on. The canaries close after each
    // answer, so that every request needs a connection of its own.
    let rebinding = outbound(production(), vec![vec![PUBLIC[0]], vec!["169.254.169.254"]]);
    let first = post(&rebinding, &target).await;
    assert!(matches!(first.result, ReplyKind::Answered { status: 200, .. }), "{first:?}");
    let second = post(&rebinding, &target).await;
    assert!(is_blocked(&second), "{second:?}");
    assert_eq!(canaries.called(), [PUBLIC[0]]);
}

/// Production's rules, but plain http and the canaries' port.
fn production() -> EgressPolicy {
    EgressPolicy { http_allowed: true, ports: PortRule::Any, ..EgressPolicy::production() }
}

/// Lets any URL through its parsing, so that only the outbound client stands between it and the canaries.
fn anything() -> EgressPolicy {
    let allow = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    EgressPolicy { allow, ..EgressPolicy::development() }
}

fn outbound(policy: EgressPolicy, answers: Vec<Vec<&'static str>>) -> Outbound {
    let extras = Extras { resolver: Arc::new(Answers::new(answers)), ..Extras::default() };
    Outbound::with(Arc::new(policy), Limits::default(), extras).unwrap()
}

async fn post(outbound: &Outbound, raw: &str) -> Reply {
    let url = CallbackUrl::parse(raw, &anything()).unwrap();
    let (headers, body, timeout) = (HeaderMap::new(), Bytes::new(), Duration::from_secs(20));
    outbound.post(Post { url: &url, headers, body, timeout, mask: &[] }).await
}

fn is_blocked(reply: &Reply) -> bool {
    matches!(reply.result, ReplyKind::Blocked { reason: Refusal::Address { .. } }) && !reply.reached
}

/// Answers one after the other; the last one stays.
struct Answers(std::sync::Mutex<Vec<Vec<&'static str>>>);

impl Answers {
    fn new(mut answers: Vec<Vec<&'static str>>) -> Answers {
        answers.reverse();
        Answers(std::sync::Mutex::new(answers))
    }
}

impl Resolve for Answers {
    fn resolve(&self, _name: &str) -> Lookup {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        let addresses = answer.unwrap_or_default().iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(async move { Ok(addresses) })
    }
}
