//! The one door through which Herald calls a partner: deliveries, verifications and test events alike.
//!
//! It knows addresses, phases and bytes. It does not know what a delivery is, whether an answer counts as success,
//! or when to try again. Whatever goes wrong comes back as a value, never as an `Err`.
//!
//! - `resolve`: names to addresses.
//! - `connect`: addresses vetted, TCP and TLS set up, each within its own limit. Nothing reaches a socket past it.
//! - `pool`: connections that wait for their next request, by origin.
//! - `exchange`: one request and its answer on one connection.
//! - `reply`: how a call ended.
//! - `mask`: blanks the secrets that a receiver echoes.
//!
//! No redirects, no proxy from the environment, no decompression, no referer: there is no code here that does them.

mod connect;
mod exchange;
mod mask;
mod pool;
mod reply;
mod resolve;
mod stream;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use thiserror::Error;
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::CertificateDer;

use self::connect::Connector;
use self::exchange::{Exchange, exchange};
use self::pool::{Connection, Pool};
pub use self::reply::{Phase, Reply, ReplyKind};
pub use self::resolve::{Lookup, Resolve};
use self::resolve::{Lookups, SystemResolver};
use self::stream::Received;
use crate::domain::callback_url::CallbackUrl;
use crate::domain::egress::EgressPolicy;
use crate::domain::egress_proxy::EgressProxy;
use crate::domain::error::with_causes;

const DEFAULT_USER_AGENT: &str = concat!("Herald/", env!("CARGO_PKG_VERSION"));

/// How long each phase of a call may take, and how much of an answer is read. The total is each request's own.
#[derive(Clone, Debug)]
pub struct Limits {
    pub dns: Duration,
    /// For all addresses of a name together.
    pub connect: Duration,
    pub tls: Duration,
    /// From handing the request over to the first byte of any answer.
    pub first_byte: Duration,
    pub response_body_bytes_max: usize,
    /// At least 8,192, which is the least that hyper can be told.
    pub response_header_bytes_max: usize,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// Connections that may wait, whatever their origin: hundreds of callbacks can have one in common, and then need as many.
    pub idle_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            dns: Duration::from_secs(3),
            connect: Duration::from_secs(5),
            tls: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            response_body_bytes_max: 16 * 1024,
            response_header_bytes_max: 32 * 1024,
            idle: Duration::from_secs(60),
            idle_max: 2_048,
        }
    }
}

/// What a deployment, or a test, sets beside policy and limits.
pub struct Extras {
    /// Certificates of a private CA, trusted beside the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    pub resolver: Arc<dyn Resolve>,
    /// Where every call goes through. It resolves names, and has to keep the rule about addresses.
    pub proxy: Option<EgressProxy>,
}

impl Default for Extras {
    fn default() -> Extras {
        Extras { extra_roots: Vec::new(), resolver: Arc::new(Lookups::new(SystemResolver)), proxy: None }
    }
}

/// Why no outbound client could be made: said once, at start.
#[derive(Debug, Error)]
pub enum OutboundError {
    #[error("no CA certificates were found on this system; install the ca-certificates package")]
    NoRoots,
    #[error("a configured CA certificate cannot be used: {0}")]
    BadRoot(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// How many headers this adds to those that it is given: `Host`, and `User-Agent` where the caller has none.
pub const OWN_HEADERS: usize = 2;

/// One call. Its headers may hold credentials, so it has no `Debug`.
pub struct Post<'a> {
    pub url: &'a CallbackUrl,
    /// Everything but `Host` and `Content-Length`, with room for [`OWN_HEADERS`] more; credentials marked sensitive by the caller.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From now to the last byte of the answer's body that is read.
    pub timeout: Duration,
    /// Secrets to blank in the stored body, should the receiver echo them.
    pub mask: &'a [&'a [u8]],
}

/// How far a call has got, for whoever finds that its time is up.
struct Progress {
    phase: Phase,
    reached: bool,
    /// The counter of the connection in use, and where it stood when the request was handed over.
    received: Option<(Received, u64)>,
}

impl Progress {
    fn start() -> Progress {
        Progress { phase: Phase::Dns, reached: false, received: None }
    }

    fn answer_has_begun(&self) -> bool {
        self.received.as_ref().is_some_and(|(received, before)| received.bytes() > *before)
    }

    /// The phase a call is in, seen from outside while it waits.
    fn phase_now(&self) -> Phase {
        match self.phase {
            Phase::FirstByte if self.answer_has_begun() => Phase::Headers,
            phase => phase,
        }
    }
}

/// The client. Clones share their connections.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    pool: Arc<Pool>,
    limits: Limits,
}

impl Outbound {
    /// Reads the system's CA certificates. Must be called inside a tokio runtime.
    pub fn new(policy: Arc<EgressPolicy>, limits: Limits) -> Result<Outbound, OutboundError> {
        Outbound::with(policy, limits, Extras::default())
    }

    pub fn with(
        policy: Arc<EgressPolicy>,
        limits: Limits,
        extras: Extras,
    ) -> Result<Outbound, OutboundError> {
        let pool = Pool::start(&limits);
        let connector = Connector::new(policy, limits.clone(), extras)?;
        Ok(Outbound { shared: Arc::new(Shared { connector, pool, limits }) })
    }

    /// Sends the request once. Only where a *reused* connection turns out to have been closed before a byte of the
    /// answer came back is it sent again, on a fresh connection and in what is left of the same time.
    ///
    /// Dropping the future closes the connection.
    pub async fn post(&self, post: Post<'_>) -> Reply {
        let started = Instant::now();
        let mut progress = Progress::start();
        let result = match tokio::time::timeout(post.timeout, self.shared.attempt(&post, &mut progress)).await
        {
            Ok(result) => result,
            Err(_) => ReplyKind::TimedOut { phase: progress.phase_now() },
        };
        Reply { result, latency: started.elapsed(), reached: progress.reached }
    }
}

impl Shared {
    async fn attempt(&self, post: &Post<'_>, progress: &mut Progress) -> ReplyKind {
        if let Err(reason) = self.connector.vet(post.url) {
            return ReplyKind::Blocked { reason };
        }
        if let Some(reused) = self.pool.take(post.url.origin()) {
            progress.reached = true;
            match self.on(reused, post, progress).await {
                Exchange::ClosedUnanswered { .. } => {}
                Exchange::Settled(result) => return result,
            }
            *progress = Progress::start();
        }
        // Boxed: most calls find a connection, and would carry the room for this along.
        let stream = match Box::pin(self.connector.connect(post.url, progress)).await {
            Ok(stream) => stream,
            Err(result) => return result,
        };
        let fresh = match Connection::open(stream, &self.limits).await {
            Ok(fresh) => fresh,
            Err(error) => return ReplyKind::Unreachable { reason: with_causes(&error) },
        };
        match self.on(fresh, post, progress).await {
            Exchange::ClosedUnanswered { reason } => ReplyKind::BadResponse { status: None, reason },
            Exchange::Settled(result) => result,
        }
    }

    async fn on(&self, connection: Connection, post: &Post<'_>, progress: &mut Progress) -> Exchange {
        let Some(request) = request(post) else {
            let reason = "the URL cannot be written on a request line".to_owned();
            return Exchange::Settled(ReplyKind::Unreachable { reason });
        };
        exchange(connection, request, post, &self.limits, &self.pool, progress).await
    }
}

fn request(post: &Post<'_>) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(post.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(post.url.request_target()).ok()?;
    let mut headers = post.headers.clone();
    headers.insert(HOST, HeaderValue::from_str(post.url.authority()).ok()?);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(DEFAULT_USER_AGENT));
    *request.headers_mut() = headers;
    Some(request)
}
