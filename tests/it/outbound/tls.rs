//! Certificates: which receivers are believed.

use std::net::{IpAddr, Ipv4Addr};

use herald::engine::outbound::{Limits, OutboundError, ReplyKind};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::receiver::Receiver;
use super::*;

pub struct Authority {
    pub root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Authority { root, issuer: Issuer::new(params, key) }
    }

    /// A server that shows a certificate for this machine's own address.
    pub fn signs_for_loopback(&self) -> TlsAcceptor {
        let mut params = names(&[]);
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        self.signs(&params)
    }

    fn signs(&self, params: &CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        acceptor(params.signed_by(&key, &self.issuer).unwrap().der().clone(), &key)
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap()
}

fn trusting(authority: &Authority) -> Outbound {
    let extras = Extras {
        extra_roots: vec![authority.root.clone()],
        resolver: Arc::new(Names(|| vec!["127.0.0.1"])),
        ..Extras::default()
    };
    Outbound::with(Arc::new(EgressPolicy::development()), Limits::default(), extras).unwrap()
}

async fn receiver(acceptor: TlsAcceptor) -> Receiver {
    Receiver::tls(acceptor, |mut peer| async move {
        while peer.request().await {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await
}

#[tokio::test]
async fn rule_03_a_private_ca_is_trusted_when_it_is_configured() {
    let authority = Authority::new();
    let receiver = receiver(authority.signs(&names(&["partner.example"]))).await;
    let outbound = trusting(&authority);
    for host in ["partner.example", "partner.example.", "PARTNER.example"] {
        let reply = post(&outbound, &format!("https://{host}:{}/", receiver.port), AMPLE).await;
        assert_eq!(status(&reply), 200, "{host}");
        settle().await;
    }
    assert_eq!(receiver.requests().len(), 3);
    assert_eq!(receiver.connections(), 2, "one for the name, one for the name with a dot");
}

#[tokio::test]
async fn an_address_can_carry_a_certificate() {
    let authority = Authority::new();
    let receiver = receiver(authority.signs_for_loopback()).await;
    let reply = post(&trusting(&authority), &format!("https://127.0.0.1:{}/", receiver.port), AMPLE).await;
    assert_eq!(status(&reply), 200);
}

#[tokio::test]
async fn certificates_that_are_not_believed() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mut expired = names(&["partner.example"]);
    expired.not_before = date_time_ymd(2001, 1, 1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let mut not_yet = names(&["partner.example"]);
    not_yet.not_before = date_time_ymd(4000, 1, 1);
    let own_key = KeyPair::generate().unwrap();
    let mut self_signed = names(&["partner.example"]);
    self_signed.distinguished_name.push(DnType::CommonName, "partner.example");
    let self_signed = self_signed.self_signed(&own_key).unwrap().der().clone();
    for (acceptor, expected) in [
        (authority.signs(&expired), "expired"),
        (authority.signs(&not_yet), "not valid yet"),
        (authority.signs(&names(&["other.example"])), "not valid for name"),
        (acceptor(self_signed, &own_key), "UnknownIssuer"),
        (stranger.signs(&names(&["partner.example"])), "BadSignature"), // a CA that took the same name,
    ] {
        let receiver = receiver(acceptor).await;
        let target = format!("https://partner.example:{}/", receiver.port);
        let reply = post(&trusting(&authority), &target, AMPLE).await;
        let ReplyKind::Unreachable { reason } = &reply.result else {
            panic!("{expected}: {:?}", reply.result)
        };
        assert!(reason.contains(expected), "{reason}");
        assert!(reply.reached, "{expected}: the network worked");
        assert_eq!(receiver.requests().len(), 0, "{expected}");
    }
}

#[tokio::test]
async fn a_receiver_that_speaks_no_tls_is_unreachable() {
    let plain = Receiver::answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let garbage = Receiver::start(|mut peer| async move {
        peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.stall().await;
    })
    .await;
    for receiver in [garbage, plain] {
        let target = format!("https://127.0.0.1:{}/", receiver.port);
        let reply = post(&trusting(&Authority::new()), &target, SHORT).await;
        assert!(!matches!(reply.result, ReplyKind::Answered { .. }), "{:?}", reply.result);
        assert!(receiver.requests().is_empty());
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_up_without_tls_goodbye_has_still_answered() {
    let authority = Authority::new();
    let receiver = Receiver::tls(authority.signs(&names(&["partner.example"])), |mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\n\r\nno length").await;
    })
    .await;
    let target = format!("https://partner.example:{}/", receiver.port);
    let reply = post(&trusting(&authority), &target, AMPLE).await;
    let ReplyKind::Answered { status: 200, body, body_complete: true, .. } = reply.result else {
        panic!("{:?}", reply.result)
    };
    assert_eq!(body, b"no length");
}

#[tokio::test]
async fn a_ca_that_is_none_is_refused_at_start() {
    let extras = Extras { extra_roots: vec![CertificateDer::from(vec![1, 2, 3])], ..Extras::default() };
    let refused = Outbound::with(Arc::new(EgressPolicy::production()), Limits::default(), extras);
    assert!(matches!(refused, Err(OutboundError::BadRoot(_))));
}
