//! One log line and one count for each request, on either listener.
//!
//! What is never logged: query strings, headers, bodies, and what a path has beyond a length.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::guard;
use crate::domain::id::PartnerId;
use crate::telemetry::Metrics;

const PATH_CHARS_MAX: usize = 200;

/// What the layer stands on.
#[derive(Clone)]
pub struct AccessLog {
    pub metrics: Metrics,
    /// The surface that a path belongs to, as one of a few fixed words.
    pub surface_of: fn(&str) -> &'static str,
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

/// The layer right inside [`super::conversation::converse`], whose ids it logs.
pub async fn record(mut request: Request, next: Next, log: AccessLog) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let surface = (log.surface_of)(request.uri().path());
    let path: String = request.uri().path().chars().take(PATH_CHARS_MAX).collect();
    let conversation = guard::conversation(&request);
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());

    let response = next.run(request).await;

    let (took, status) = (began.elapsed(), response.status().as_u16());
    log.metrics.request_answered(surface, method.as_str(), status, took);
    tracing::info!(
        target: "herald::access",
        surface,
        method = %method,
        path = ?path,
        status,
        latency_ms = took.as_secs_f64() * 1_000.0,
        request_id = %conversation.request_id,
        correlation_id = %conversation.correlation_id,
        partner = caller.0.get().map(tracing::field::display),
        "answered"
    );
    response
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
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
        let log = AccessLog { metrics: metrics.clone(), surface_of: |_| "redirect" };
        let router = Router::new()
            .route("/greet", greet)
            .layer(from_fn(move |request, next| record(request, next, log.clone())))
            .layer(from_fn(converse));
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
        assert!(metrics.render(None).contains(r#"surface="redirect",method="GET",status="2xx"} 1"#));
    }
}
