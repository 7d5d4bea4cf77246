//! Both listeners in this process, over a database of their own, with the test in the place of the engine: it decides what came of each
//! attempt. Every answer whose operation is documented is judged by `openapi.yaml`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use herald::app;
use herald::domain::attempt::Outcome;
use herald::domain::delivery::{DeliveryState, Lease};
use herald::domain::egress::EgressPolicy;
use herald::domain::id::{NodeId, PartnerId};
use herald::domain::key_ring::KeyRing;
use herald::domain::partner_key::Scopes;
use herald::domain::retry::RetryPolicy;
use herald::hub::deliveries::PolicyLimits;
use herald::hub::handoff::{Handed, handoff};
use herald::hub::ingest::LeaseTerms;
use herald::hub::{Hub, Settings};
use herald::listener::{self, Responder};
use herald::operator::{self, Operator};
use herald::store::queue::{self, Books, Ending, Finish, Record};
use herald::surfaces::kit::{Api, ApiSettings, DefaultPolicy};
use herald::telemetry::{Health, Metrics};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use uuid::Uuid;

use super::cluster::{self, TestDatabase};
use super::leases;
use crate::openapi::document::Document;

const BODY_BYTES_MAX: usize = 4_096;
const LEASE: Duration = Duration::from_secs(30);

pub struct Desk {
    pub database: TestDatabase,
    pub hub: Hub,
    pub health: Health,
    pub metrics: Metrics,
    leases: Mutex<UnboundedReceiver<Handed>>,
    due: Arc<Notify>,
    node: NodeId,
    api: String,
    operator: String,
    client: reqwest::Client,
    document: &'static Document,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Api,
    Operator,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// As text; JSON is in `body`, too.
    pub text: String,
    pub body: Value,
}

impl Answer {
    /// Status and code of a problem.
    pub fn problem(&self) -> (u16, &str) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        assert_eq!(self.body["correlationId"], self.headers["x-correlation-id"].to_str().unwrap());
        assert_eq!(self.body["status"], self.status);
        (self.status, self.body["code"].as_str().unwrap())
    }

    /// The fields that a Validation names.
    pub fn fields(&self) -> Vec<&str> {
        assert_eq!(self.problem(), (400, "Validation"), "{}", self.text);
        self.body["errors"].as_array().unwrap().iter().map(|one| one["field"].as_str().unwrap()).collect()
    }
}

impl Desk {
    pub async fn open() -> Desk {
        Desk::open_limited(None).await
    }

    /// Where a partner may send only so many requests a second.
    pub async fn open_limited(partner_rate_per_s: Option<u32>) -> Desk {
        let database = cluster::database().await;
        let (keys, _) = KeyRing::generate();
        let node = NodeId::new();
        let (hand, intake) = handoff(100);
        let policy_limits = PolicyLimits {
            timeout_max: Duration::from_secs(15),
            retries_max: 3,
            retry_delay_max: Duration::from_secs(604_800),
            rate_per_s_max: 10_000,
        };
        let settings = Settings { session_ttl: Duration::from_secs(900), policy_limits, partner_rate_per_s };
        let terms = LeaseTerms { node, duration: LEASE };
        let (health, metrics) = (Health::default(), Metrics::default());
        let hub = Hub::new(database.pool.clone(), keys.clone(), settings, hand, terms, &health, &metrics);
        let request_timeout = Duration::from_secs(10);
        let settings = ApiSettings {
            egress: Arc::new(EgressPolicy::development()),
            public_url: "http://127.0.0.1/".parse().unwrap(),
            body_bytes_max: BODY_BYTES_MAX,
            request_timeout,
            keys,
            default_policy: DefaultPolicy {
                retry: RetryPolicy::default(),
                timeout: Duration::from_secs(15),
                rate_per_s: None,
            },
            trusted_proxies: Arc::from([]),
        };
        let api = Api { hub: hub.clone(), settings: Arc::new(settings) };
        let settings = Arc::new(operator::Settings {
            body_bytes_max: BODY_BYTES_MAX,
            request_timeout,
            trusted_proxies: Arc::from([]),
        });
        let operator = Operator::new(hub.clone(), health.clone(), metrics.clone(), settings);
        Desk {
            api: serve(app::api(api, metrics.clone())).await,
            operator: serve(app::operator(operator)).await,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            document: Document::load(),
            database,
            hub,
            health,
            metrics,
            leases: Mutex::new(intake.leases),
            due: intake.bells.due,
            node,
        }
    }

    /// A partner with one key of these scopes.
    pub async fn partner(&self, scopes: &str) -> (PartnerId, String) {
        let (partner, _) = self.hub.create_partner("Example Shop").await.unwrap();
        let key = self.hub.create_key(partner, Scopes::parse(scopes).unwrap(), None).await.unwrap();
        (partner, key.text.expose_str().unwrap().to_owned())
    }

    /// From here on nobody gets a connection. Not waited for: the writer of events keeps one.
    pub fn take_database_away(&self) {
        drop(self.database.pool.close());
    }

    pub async fn get(&self, key: &str, path: &str) -> Answer {
        self.api(Method::GET, key, path, None).await
    }

    pub async fn post(&self, key: &str, path: &str) -> Answer {
        self.api(Method::POST, key, path, None).await
    }

    pub async fn api(&self, method: Method, key: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask(&self.api, method, key, path, body).await
    }

    pub async fn operator(&self, method: Method, key: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask(&self.operator, method, key, path, body).await
    }

    /// A request to the API listener that is no JSON.
    pub async fn raw(
        &self,
        key: &str,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.client.patch(format!("{}{path}", self.api)).header("x-api-key", key);
        self.send("PATCH", path, request.header("content-type", content_type).body(body)).await
    }

    /// A request to either listener with a body of whatever type, or none. A test that wants to know whether an answer comes at all has
    /// `within`: `None` when it did not.
    pub async fn request(
        &self,
        listener: Listener,
        method: &str,
        key: &str,
        path: &str,
        body: Option<(&str, String)>,
        within: Duration,
    ) -> Option<Answer> {
        let base = match listener {
            Listener::Api => &self.api,
            Listener::Operator => &self.operator,
        };
        let mut request = self.client.request(method.parse().unwrap(), format!("{base}{path}"));
        if !key.is_empty() {
            request = request.header("x-api-key", key);
        }
        if let Some((content_type, body)) = body {
            request = request.header("content-type", content_type).body(body);
        }
        tokio::time::timeout(within, self.send(method, path, request)).await.ok()
    }

    /// A request to the operator listener whose body is of any type.
    pub async fn operator_raw(
        &self,
        key: &str,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.client.post(format!("{}{path}", self.operator)).header("x-api-key", key);
        self.send("POST", path, request.header("content-type", content_type).body(body)).await
    }

    async fn ask(&self, base: &str, method: Method, key: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.client.request(method.clone(), format!("{base}{path}"));
        if !key.is_empty() {
            request = request.header("x-api-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(method.as_str(), path, request).await
    }

    async fn send(&self, method: &str, path: &str, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer { status, headers, text, body };
        self.judge(method, path.split('?').next().unwrap(), &answer);
        answer
    }

    fn judge(&self, method: &str, path: &str, answer: &Answer) {
        let Some(template) = self.document.path_template(path) else { return };
        // Of a method that the path does not have there is nothing to read.
        if answer.status == 405 {
            return;
        }
        let content_type = answer.headers.get("content-type").map(|value| value.to_str().unwrap());
        let is_json = content_type.is_some_and(|it| it.contains("json") && !it.contains("ndjson"));
        let text = Value::String(answer.text.clone());
        // A body of a type may be empty: a table without rows is, as CSV.
        let has_body = content_type.is_some() || !answer.text.is_empty();
        let body = if is_json { Some(&answer.body) } else { Some(&text).filter(|_| has_body) };
        self.document.validate_response(method, &template, answer.status, content_type, body).unwrap();
        let headers: Vec<(String, String)> = answer
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        self.document.validate_response_headers(method, &template, answer.status, &headers).unwrap();
    }

    /// Subscribes over the redirect surface; returns the subscription's id.
    pub async fn subscribe(&self, key: &str) -> Uuid {
        let id = Uuid::now_v7();
        let body = json!({
            "callbackUrl": format!("http://127.0.0.1:9/{id}"), "apiKey": "callback-key",
            "eventTypes": ["RedirectSessionCancelled"],
        });
        let path = format!("/redirect-session-events/subscriptions/{id}");
        let answer = self.api(Method::PUT, key, &path, Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        id
    }

    pub async fn unsubscribe(&self, key: &str, id: Uuid) {
        let path = format!("/redirect-session-events/subscriptions/{id}");
        assert_eq!(self.api(Method::DELETE, key, &path, None).await.status, 200);
    }

    /// Opens a session.
    pub async fn open_session(&self, key: &str) -> Uuid {
        let id = Uuid::now_v7();
        let urls = json!({
            "successUrl": "https://partner.example/s", "failureUrl": "https://partner.example/f",
            "abortUrl": "https://partner.example/a", "qrCodeSuccessUrl": "https://partner.example/q",
        });
        let body = json!({ "type": "NewCustomer", "redirectData": urls });
        let answer = self.api(Method::PUT, key, &format!("/redirect-sessions/{id}"), Some(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        id
    }

    /// Opens a session and cancels it, which is an event.
    pub async fn cancel_a_session(&self, key: &str) -> Uuid {
        let id = self.open_session(key).await;
        let answer = self.post(key, &format!("/redirect-sessions/{id}/cancel")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        id
    }

    /// The next delivery that the engine would send: handed over by the hub, or due in the database.
    pub async fn take(&self) -> Option<Lease> {
        let handed = self.leases.lock().unwrap().try_recv();
        if let Ok(handed) = handed {
            return Some(handed.lease);
        }
        let mut connection = self.database.pool.acquire().await.unwrap();
        let mut claimed = queue::claim(&mut connection, self.node, 1, 30_000).await.unwrap();
        claimed.pop().map(leases::claimed)
    }

    /// The next delivery, as soon as there is one.
    pub async fn wait_and_take(&self) -> Lease {
        loop {
            if let Some(lease) = self.take().await {
                return lease;
            }
            self.due.notified().await;
        }
    }

    /// Sends the next delivery, in a manner of speaking.
    pub async fn attempt(
        &self,
        outcome: Outcome,
        status: Option<u16>,
        response: Option<&[u8]>,
        ending: Ending,
    ) {
        let lease = self.take().await.expect("there is something to send");
        self.finish(&lease, ending, Some((outcome, status, response))).await;
    }

    pub async fn deliver(&self) {
        let ending = Ending::Final(DeliveryState::Delivered);
        self.attempt(Outcome::Delivered, Some(204), Some(b""), ending).await;
    }

    pub async fn finish(&self, lease: &Lease, ending: Ending, attempt: Option<Made<'_>>) {
        let record = attempt.map(|(outcome, status, response)| Record {
            status,
            started_ago_ms: 12,
            latency_ms: 12,
            response: response.map(<[u8]>::to_vec),
            detail: Some("for-the-operator-only".to_owned()),
            ..leases::record(outcome)
        });
        let mut connection = self.database.pool.acquire().await.unwrap();
        let batch = [Finish { lease, ending, record }];
        assert_eq!(
            queue::finish(&mut connection, &mut Books::default(), self.node, &batch).await.unwrap().changed,
            1
        );
    }
}

/// An attempt's outcome, status and answer.
type Made<'a> = (Outcome, Option<u16>, Option<&'a [u8]>);

async fn serve(answer: impl Responder) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (_never, stop) = watch::channel(false);
        let bounds = listener::Bounds {
            connections_max: 1_000,
            unread_within: listener::UNREAD_WITHIN,
            drain: Duration::ZERO,
        };
        listener::serve(listener, answer, bounds, stop).await;
    });
    format!("http://{address}")
}
