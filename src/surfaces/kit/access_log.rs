//! One log line and one count for each request, on either listener.
//!
//! What is never logged: query strings, headers, bodies, and what a path has beyond a length.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use futures_util::FutureExt as _;
use ipnet::IpNet;

use super::guard;
use crate::domain::client_address::client_address;
use crate::domain::id::PartnerId;
use crate::telemetry::Metrics;

const PATH_CHARS_MAX: usize = 200;

/// What it takes to write it.
pub struct AccessLog {
    pub metrics: Metrics,
    /// The surface that a path belongs to, as one of a few fixed words.
    pub surface_of: fn(&str) -> &'static str,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
}

/// An extension of every request: whoever finds out who sends it says so here.
#[derive(Debug, Clone, Default)]
pub struct CallerSlot(Arc<OnceLock<PartnerId>>);

impl CallerSlot {
    /// The first word counts.
    pub fn note(&self, partner: PartnerId) {
        let _already_known = self.0.set(partner);
    }
}

/// Right inside [`super::conversation::converse`], whose ids it logs.
pub fn record<F>(
    mut request: Request,
    log: Arc<AccessLog>,
    answer: impl FnOnce(Request) -> F,
) -> impl Future<Output = Response>
where
    F: Future<Output = Response>,
{
    let began = Instant::now();
    let method = request.method().clone();
    let surface = (log.surface_of)(request.uri().path());
    let path = beginning(request.uri().path(), PATH_CHARS_MAX).to_owned();
    let conversation = guard::conversation(&request);
    let client = client(&request, &log.trusted_proxies);
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());

    answer(request).map(move |response| {
        let (took, status) = (began.elapsed(), response.status().as_u16());
        log.metrics.request_answered(surface, method.as_str(), status, took);
        tracing::info!(
            target: "herald::access",
            surface,
            method = %method,
            path = ?path,
            status,
            // Of whole microseconds, so that no line ends in the digits of a float.
            latency_ms = took.as_micros() as f64 / 1_000.0,
            request_id = %conversation.request_id,
            correlation_id = %conversation.correlation_id,
            client = client.map(tracing::field::display),
            partner = caller.0.get().map(tracing::field::display),
            "answered"
        );
        response
    })
}

fn beginning(text: &str, chars_max: usize) -> &str {
    let end = text.char_indices().nth(chars_max).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

/// Whose request it is; `None` where nobody told who opened the connection.
fn client(request: &Request, trusted: &[IpNet]) -> Option<IpAddr> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    let lines: Vec<&str> = request
        .headers()
        .get_all("x-forwarded-for")
        .iter()
        // A line that is no text hides what stands before it.
        .map(|line| line.to_str().unwrap_or_default())
        .collect();
    Some(client_address(peer.ip(), lines.into_iter(), trusted))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::{Next, from_fn};
    use axum::routing::get;
    use tower::ServiceExt as _;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::surfaces::kit::conversation::converse;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    async fn observed(request: Request, log: Arc<AccessLog>, next: Next) -> Response {
        converse(request, |request| record(request, log, |request| next.run(request))).await
    }

    #[test]
    fn of_a_long_path_its_first_characters_are_kept() {
        for (text, kept) in [("", ""), ("/é", "/é"), ("/éa", "/é"), ("/a/b", "/a")] {
            assert_eq!(beginning(text, 2), kept);
        }
    }

    #[tokio::test]
    async fn rule_14_a_forwarded_address_is_logged_only_if_a_trusted_proxy_says_it() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
        let _here = tracing::subscriber::set_default(subscriber);
        let trusted_proxies: Arc<[IpNet]> = Arc::from(["10.0.0.0/8".parse().unwrap()]);
        let log =
            Arc::new(AccessLog { metrics: Metrics::default(), surface_of: |_| "redirect", trusted_proxies });
        let router = Router::new()
            .route("/greet", get(async || "hello"))
            .layer(from_fn(move |request, next| observed(request, log.clone(), next)));
        for peer in ["10.0.0.1:1", "192.0.2.9:1"] {
            let mut request =
                Request::get("/greet").header("x-forwarded-for", "198.51.100.7").body(Body::empty()).unwrap();
            request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
            router.clone().oneshot(request).await.unwrap();
        }
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains(r#""client":"198.51.100.7""#), "{text}");
        assert!(lines[1].contains(r#""client":"192.0.2.9""#) && !lines[1].contains("198.51"), "{text}");
    }

    #[tokio::test]
    async fn rule_10_a_line_tells_who_asked_what_and_none_of_the_secrets() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
        let _here = tracing::subscriber::set_default(subscriber);
        let partner = PartnerId::new();
        let greet = get(move |request: Request| async move {
            request.extensions().get::<CallerSlot>().unwrap().note(partner);
            "hello"
        });
        let metrics = Metrics::default();
        let log = Arc::new(AccessLog {
            metrics: metrics.clone(),
            surface_of: |_| "redirect",
            trusted_proxies: Arc::from([]),
        });
        let router = Router::new()
            .route("/greet", greet)
            .layer(from_fn(move |request, next| observed(request, log.clone(), next)));
        let request = Request::get("/greet?password=canary-query")
            .header("x-api-key", "canary-header")
            .header("x-request-id", "r-1")
            .body(Body::from("canary-body"))
            .unwrap();
        router.oneshot(request).await.unwrap();

        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains("canary"), "{text}");
        for part in ["/greet", "r-1", r#""status":200"#, "latency_ms", &partner.to_string()] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(metrics.render(None, &[]).contains(r#"surface="redirect",method="GET",status="2xx"} 1"#));
    }
}
