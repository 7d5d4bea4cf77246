//! The webhooks surface over HTTP: a whole server, its engine included, and the clients of a ServiceStack service.

mod binding;
mod delivery;
mod formats;
mod large_answers;
mod lists;
mod notices;
mod secrets;
mod subscriptions;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::openapi::document::Document;
use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::{Partner, text};

const MOUNTS: [&str; 2] = ["/sync", "/async"];
/// In every secret that a test sends: an answer that holds it has leaked one.
const SECRET: &str = "canary00c2VjcmV0";
const NEW_SECRET: &str = "canary11c2VjcmV0";
const ANY_URL: &str = "http://127.0.0.1:9/in";
const NO_ID: &str = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";

/// A server with its database.
struct World {
    database: TestDatabase,
    app: App,
}

async fn world() -> World {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    World { database, app }
}

/// An answer, whole.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Status, code and message of an error.
    fn failure(&self) -> (u16, String, String) {
        let status = &self.json()["responseStatus"];
        assert!(status.get("stackTrace").is_none(), "{self:?}");
        (self.status, text(&status["errorCode"]), text(&status["message"]))
    }

    /// Status and code of an error.
    fn code(&self) -> (u16, String) {
        let (status, code, _) = self.failure();
        (status, code)
    }

    /// The fields that a 400 names.
    fn wrong_fields(&self) -> Vec<String> {
        assert_eq!(self.code(), (400, "BadRequest".to_owned()), "{self:?}");
        let errors = self.json()["responseStatus"]["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| text(&error["fieldName"])).collect()
    }
}

fn failed(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Sends a request as it is. The answer is judged by `openapi.yaml` and may hold no secret.
async fn send(
    partner: &Partner,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Reply {
    let mut request = partner.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.body(body).send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let reply = Reply { status, headers, text: answer.text().await.unwrap() };
    assert!(!reply.text.contains("canary"), "a secret leaked: {reply:?}");
    judge(method, path, &reply);
    reply
}

fn judge(method: &str, path: &str, reply: &Reply) {
    let path = path.split('?').next().unwrap();
    let Some(template) = Document::load().path_template(path).filter(|_| reply.status != 405) else { return };
    let content_type = reply.header("content-type");
    let body = if content_type.contains("json") { reply.json() } else { Value::String(reply.text.clone()) };
    Document::load()
        .validate_response(method, &template, reply.status, Some(content_type), Some(&body))
        .unwrap();
    let headers: Vec<_> = reply
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    Document::load().validate_response_headers(method, &template, reply.status, &headers).unwrap();
}

async fn get(partner: &Partner, path: &str) -> Reply {
    send(partner, "GET", path, &[], "").await
}

async fn post(partner: &Partner, path: &str, body: Value) -> Reply {
    send(partner, "POST", path, &[("content-type", "application/json")], body.to_string()).await
}

fn at(mount: &str, below: &str) -> String {
    format!("{mount}/webhooks/subscriptions{below}")
}

/// Subscribes to events at a URL with [`SECRET`]; the ids.
async fn subscribe(partner: &Partner, url: &str, events: &[&str]) -> Vec<String> {
    let body = json!({ "events": events, "url": url, "secret": SECRET });
    let made = post(partner, &at("/sync", "/create"), body).await;
    assert_eq!(made.status, 200, "{made:?}");
    made.json().as_array().unwrap().iter().map(|one| text(&one["subscription"]["id"])).collect()
}

async fn subscribe_one(partner: &Partner, url: &str, event: &str) -> String {
    subscribe(partner, url, &[event]).await.remove(0)
}

async fn delete(partner: &Partner, id: &str, secret: &str) -> Reply {
    post(partner, &at("/async", &format!("/{id}/delete")), json!({ "secret": secret })).await
}

async fn update(partner: &Partner, id: &str, change: Value) -> Reply {
    let mut body = json!({ "currentSecret": SECRET });
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    post(partner, &at("/async", &format!("/{id}/update")), body).await
}

impl World {
    /// Says that something happened.
    async fn publish(&self, event: &str, data: Value) -> Value {
        let body = json!({ "type": event, "data": data });
        let (status, receipt) = self.app.operator().ask(Method::POST, "/events", Some(body)).await;
        assert_eq!(status, 202, "{receipt}");
        receipt
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database.pool).await.unwrap()
    }
}
