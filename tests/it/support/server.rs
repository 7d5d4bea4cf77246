//! A server of one surface in this process, over a test's own database, and partners who call it.
//!
//! Every answer that a partner gets is judged by `openapi.yaml` before the test sees it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use axum::{Router, middleware};
use herald::domain::egress::EgressPolicy;
use herald::domain::id::{NodeId, PartnerId};
use herald::domain::key_ring::KeyRing;
use herald::domain::partner_key::{Scope, Scopes};
use herald::hub::deliveries::PolicyLimits;
use herald::hub::handoff::{Intake, handoff};
use herald::hub::ingest::LeaseTerms;
use herald::hub::{Hub, Settings};
use herald::surfaces::kit::conversation::converse;
use herald::surfaces::kit::{Api, ApiSettings, DefaultPolicy};
use herald::telemetry::{Health, Metrics};
use reqwest::header::HeaderMap;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::openapi::document::Document;

/// In bytes.
pub const BODY_MAX: usize = 16_384;
pub const SESSION_TTL: Duration = Duration::from_secs(15 * 60);
/// Long enough for the slowest machine; only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// In every secret that a test sends: an answer that holds it has leaked one.
pub const CANARY: &str = "canary";

pub struct Server {
    pub hub: Hub,
    /// Without a slash at its end.
    pub url: String,
    /// Takes what would go to the engine, so that it has somewhere to go.
    _intake: Intake,
    serving: JoinHandle<()>,
}

async fn conversing(request: Request, next: Next) -> Response {
    converse(request, |request| next.run(request)).await
}

impl Server {
    /// Serves what `listener` makes of the API. A second server over the same pool and keys is the first one restarted.
    pub async fn start(
        pool: &PgPool,
        keys: &KeyRing,
        request_timeout: Duration,
        listener: impl FnOnce(Api) -> Router,
    ) -> Server {
        let (handoff, intake) = handoff(100);
        let policy_limits = PolicyLimits {
            timeout_max: Duration::from_secs(15),
            retries_max: 10,
            retry_delay_max: Duration::from_secs(86_400),
            rate_per_s_max: 1_000,
        };
        let settings = Settings { session_ttl: SESSION_TTL, policy_limits, partner_rate_per_s: None };
        let lease = LeaseTerms { node: NodeId::new(), duration: Duration::from_secs(30) };
        let hub = Hub::new(
            pool.clone(),
            keys.clone(),
            settings,
            handoff,
            lease,
            &Health::default(),
            &Metrics::default(),
        );
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let settings = ApiSettings {
            egress: Arc::new(EgressPolicy::development()),
            public_url: url.parse().unwrap(),
            body_bytes_max: BODY_MAX,
            request_timeout,
            keys: keys.clone(),
            default_policy: DefaultPolicy::default(),
            trusted_proxies: Arc::from([]),
        };
        let api = Api { hub: hub.clone(), settings: Arc::new(settings) };
        let router = listener(api).layer(middleware::from_fn(conversing));
        let serving = tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        Server { hub, url, _intake: intake, serving }
    }

    /// A new partner with a key of the partner scope.
    pub async fn partner(&self, name: &str) -> Partner {
        let (id, _) = self.hub.create_partner(name).await.unwrap();
        let key = self.key(id, Scope::Partner).await;
        Partner { id, key, url: self.url.clone(), mount: "" }
    }

    pub async fn key(&self, partner: PartnerId, scope: Scope) -> String {
        let key = self.hub.create_key(partner, Scopes::only(scope), None).await.unwrap();
        key.text.expose_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
pub struct Partner {
    pub id: PartnerId,
    pub key: String,
    pub url: String,
    /// What stands before every path that is asked.
    pub mount: &'static str,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Partner {
    /// The same partner, who comes by another way.
    pub fn at(&self, mount: &'static str) -> Partner {
        Partner { mount, ..self.clone() }
    }

    /// The same partner as another server sees it.
    pub fn of(&self, server: &Server) -> Partner {
        Partner { url: server.url.clone(), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None).await
    }

    /// Sends a request with the partner's key; a body goes as JSON unless a header says otherwise.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let text = body.map(|body| body.to_string());
        let mut all = vec![("x-api-key", self.key.as_str())];
        if text.is_some() {
            all.push(("content-type", "application/json"));
        }
        all.extend(headers);
        self.send_raw(method, path, &all, text).await
    }

    /// Sends a request as it is given, without a key unless there is one among its headers.
    pub async fn send_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Reply {
        let url = format!("{}{}{path}", self.url, self.mount);
        let mut request = client().request(method.parse().unwrap(), &url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let reply = Reply { status, headers, text: response.text().await.unwrap() };
        reply.assert_documented(method, &format!("{}{path}", self.mount));
        reply
    }
}

impl Reply {
    /// Panics unless the body is JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and code in one, for comparing.
    pub fn failure(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// The fields that a Validation names.
    pub fn wrong_fields(&self) -> Vec<String> {
        assert_eq!(self.failure(), (400, "Validation".to_owned()), "{self:?}");
        let reasons = self.json()["details"]["validationErrorReasons"].as_array().unwrap().clone();
        reasons.iter().map(|reason| reason["fieldName"].as_str().unwrap().to_owned()).collect()
    }

    /// Holds of every answer: it is documented, carries the ids of its conversation, and holds no secret.
    fn assert_documented(&self, method: &str, path_and_query: &str) {
        assert!(!self.text.contains(CANARY), "a secret leaked: {self:?}");
        let path = path_and_query.split('?').next().unwrap();
        let document = Document::load();
        let Some(template) = document.path_template(path).filter(|_| self.status != 405) else {
            let error = if path.starts_with("/rest") { "NotificationsError" } else { "RedirectError" };
            return document.validate(&format!("/components/schemas/{error}"), &self.json()).unwrap();
        };
        let method = if method == "HEAD" { "GET" } else { method };
        let body = (!self.text.is_empty()).then(|| self.json());
        if body.is_some() || self.status == 200 && method == "DELETE" {
            let content_type = Some(self.header("content-type"));
            document.validate_response(method, &template, self.status, content_type, body.as_ref()).unwrap();
        }
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        document.validate_response_headers(method, &template, self.status, &headers).unwrap();
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}
