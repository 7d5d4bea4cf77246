//! From a URL to an open stream. Every address is vetted here, literal or resolved, once per connection, and only
//! the addresses that were vetted are dialled: a name that changes between check and use gains nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::stream::Stream;
use super::tunnel;
use super::{Extras, Limits, OutboundError, Phase, Progress, ReplyKind, Resolve};
use crate::domain::callback_url::{CallbackUrl, Host};
use crate::domain::egress::{EgressPolicy, Refusal};
use crate::domain::egress_proxy::EgressProxy;

/// More addresses than this of one name are vetted but not tried.
const ADDRESSES_TRIED_MAX: usize = 8;

pub(super) struct Connector {
    policy: Arc<EgressPolicy>,
    limits: Limits,
    tls: TlsConnector,
    resolver: Arc<dyn Resolve>,
    proxy: Option<EgressProxy>,
}

impl Connector {
    pub(super) fn new(
        policy: Arc<EgressPolicy>,
        limits: Limits,
        extras: Extras,
    ) -> Result<Connector, OutboundError> {
        let roots = trusted_roots(extras.extra_roots)?;
        // A developer's receivers speak plain http, so a machine without certificates will do there.
        if roots.is_empty() && !policy.loopback_allowed {
            return Err(OutboundError::NoRoots);
        }
        Ok(Connector {
            policy,
            limits,
            tls: tls_connector(roots)?,
            resolver: extras.resolver,
            proxy: extras.proxy,
        })
    }

    /// Judges the URL under this connector's policy, whichever policy it was parsed under.
    pub(super) fn vet(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        url.vet(&self.policy)
    }

    pub(super) async fn connect(
        &self,
        url: &CallbackUrl,
        progress: &mut Progress,
    ) -> Result<Stream, ReplyKind> {
        let tcp = match &self.proxy {
            Some(proxy) => self.tunnel(proxy, url, progress).await?,
            None => self.direct(url, progress).await?,
        };
        progress.reached = true;
        if !url.is_https() {
            return Ok(Stream::plain(tcp));
        }
        progress.phase = Phase::Tls;
        self.secure(url, tcp).await
    }

    async fn direct(&self, url: &CallbackUrl, progress: &mut Progress) -> Result<TcpStream, ReplyKind> {
        let addresses = self.addresses(url).await?;
        for address in &addresses {
            self.policy.vet_address(*address).map_err(|reason| ReplyKind::Blocked { reason })?;
        }
        progress.phase = Phase::Connect;
        dial(&addresses, url.port(), self.limits.connect).await
    }

    /// Through the operator's proxy, whose own address is the operator's matter. A literal is judged all the same; where a name leads is not
    /// known here.
    async fn tunnel(
        &self,
        proxy: &EgressProxy,
        url: &CallbackUrl,
        progress: &mut Progress,
    ) -> Result<TcpStream, ReplyKind> {
        if let Host::Address(address) = url.host() {
            self.policy.vet_address(address).map_err(|reason| ReplyKind::Blocked { reason })?;
        }
        let addresses = match proxy.host().parse() {
            Ok(address) => vec![address],
            Err(_) => self.resolve(proxy.host()).await?,
        };
        progress.phase = Phase::Connect;
        let deadline = Instant::now() + self.limits.connect;
        let mut tcp = dial(&addresses, proxy.port(), self.limits.connect).await?;
        let host = url.authority();
        let authority = if has_port(host) { host.to_owned() } else { format!("{host}:{}", url.port()) };
        match timeout_at(deadline, tunnel::open(&mut tcp, &authority)).await {
            Err(_) => Err(ReplyKind::TimedOut { phase: Phase::Connect }),
            Ok(Err(reason)) => Err(unreachable(reason)),
            Ok(Ok(())) => Ok(tcp),
        }
    }

    async fn addresses(&self, url: &CallbackUrl) -> Result<Vec<IpAddr>, ReplyKind> {
        let name = match url.host() {
            Host::Address(address) => return Ok(vec![address]),
            Host::Name(name) => name,
        };
        self.resolve(name).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ReplyKind> {
        match timeout(self.limits.dns, self.resolver.resolve(name)).await {
            Err(_) => Err(ReplyKind::TimedOut { phase: Phase::Dns }),
            Ok(Err(error)) => Err(unreachable(format!("{name} cannot be resolved: {error}"))),
            Ok(Ok(none)) if none.is_empty() => Err(unreachable(format!("{name} has no addresses"))),
            Ok(Ok(addresses)) => Ok(addresses),
        }
    }

    async fn secure(&self, url: &CallbackUrl, tcp: TcpStream) -> Result<Stream, ReplyKind> {
        let server_name = match url.host() {
            Host::Address(address) => ServerName::from(address),
            Host::Name(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| unreachable("no certificate can carry the host's name".to_owned()))?,
        };
        match timeout(self.limits.tls, self.tls.connect(server_name, tcp)).await {
            Err(_) => Err(ReplyKind::TimedOut { phase: Phase::Tls }),
            Ok(Err(error)) => Err(unreachable(format!("the TLS handshake failed: {error}"))),
            Ok(Ok(tls)) => Ok(Stream::tls(tls)),
        }
    }
}

/// Whether an authority, without user information, says a port.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Tries the addresses in turn, each within an even share of the time that is left, so that one which swallows
/// packets leaves room for the next.
async fn dial(addresses: &[IpAddr], port: u16, budget: Duration) -> Result<TcpStream, ReplyKind> {
    let deadline = Instant::now() + budget;
    let tried = &addresses[..addresses.len().min(ADDRESSES_TRIED_MAX)];
    let mut last = ReplyKind::TimedOut { phase: Phase::Connect };
    for (index, address) in (0u32..).zip(tried) {
        let address = SocketAddr::new(*address, port);
        let still_to_try = u32::try_from(tried.len()).unwrap_or(u32::MAX) - index;
        let share = deadline.saturating_duration_since(Instant::now()) / still_to_try;
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => match tcp.set_nodelay(true) {
                Ok(()) => return Ok(tcp),
                Err(error) => unreachable(format!("setting up the connection to {address}: {error}")),
            },
            Ok(Err(error)) => unreachable(format!("connecting to {address}: {error}")),
            Err(_) => ReplyKind::TimedOut { phase: Phase::Connect },
        };
    }
    Err(last)
}

/// A certificate may name ten thousand hosts, and the message that refuses it lists them.
const REASON_CHARS_MAX: usize = 300;

pub(super) fn unreachable(mut reason: String) -> ReplyKind {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push('…');
    }
    ReplyKind::Unreachable { reason }
}

fn trusted_roots(extra: Vec<CertificateDer<'static>>) -> Result<RootCertStore, OutboundError> {
    let mut roots = RootCertStore::empty();
    // System stores hold the odd certificate that no library can parse; the others are what counts.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in extra {
        roots.add(certificate).map_err(|error| OutboundError::BadRoot(error.to_string()))?;
    }
    Ok(roots)
}

fn tls_connector(roots: RootCertStore) -> Result<TlsConnector, OutboundError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OutboundError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn connector(policy: EgressPolicy) -> Connector {
        Connector::new(Arc::new(policy), Limits::default(), Extras::default()).unwrap()
    }

    /// `Outbound::post` vets the URL before it comes here, so this is the second of the two checks, by itself.
    #[tokio::test]
    async fn rule_01_literals_are_vetted_where_connections_are_made() {
        let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = canary.local_addr().unwrap().port();
        for host in ["127.0.0.1", "2130706433", "0x7f.1", "0177.1", "①②⑦.⓪.⓪.①", "127.0.0.1."] {
            let raw = format!("http://{host}:{port}/");
            let url = CallbackUrl::parse(&raw, &EgressPolicy::development()).unwrap();
            let mut progress = Progress::start();
            let refused = connector(EgressPolicy::production()).connect(&url, &mut progress).await;
            assert!(matches!(refused, Err(ReplyKind::Blocked { reason: Refusal::Address { .. } })), "{host}");
            assert!(!progress.reached, "{host}");
            let taken = connector(EgressPolicy::development()).connect(&url, &mut progress).await;
            assert!(taken.is_ok(), "{host}");
            canary.accept().await.unwrap();
        }
    }

    #[test]
    fn a_reason_is_kept_short() {
        let ReplyKind::Unreachable { reason } = unreachable("ä".repeat(10_000)) else { panic!() };
        assert_eq!(reason.chars().count(), REASON_CHARS_MAX + 1);
    }
}
