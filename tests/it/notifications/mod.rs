//! The notifications surface over HTTP, on a real database; what its callbacks receive, in `delivery`.

mod callbacks;
mod delivery;
mod subscriptions;
mod tokens;
mod update;
mod verify;

use std::time::Duration;

use herald::domain::key_ring::KeyRing;
use herald::surfaces::notifications;
use serde_json::{Value, json};

use crate::support::cluster::{self, TestDatabase};
use crate::support::server::{Partner, Reply, Server};

const CALLBACKS: &str = "/rest/api/v1.3/notifications/callbacks";
const SUBSCRIPTIONS: &str = "/rest/api/v1.3/notifications/subscriptions";
const TOKEN: &str = "/rest/api/v1.3/auth/token";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A server with two partners who know nothing of each other.
struct World {
    database: TestDatabase,
    server: Server,
    ann: Partner,
    ben: Partner,
}

async fn world() -> World {
    let database = cluster::database().await;
    let (keys, _) = KeyRing::generate();
    let server = Server::start(&database.pool, &keys, REQUEST_TIMEOUT, notifications::router).await;
    let (ann, ben) = (server.partner("ann").await, server.partner("ben").await);
    World { database, server, ann, ben }
}

fn callback_path(name: &str) -> String {
    format!("{CALLBACKS}/{name}")
}

fn subscription_path(name: &str) -> String {
    format!("{SUBSCRIPTIONS}/{name}")
}

/// The password is a canary: no answer may hold it.
fn authentication() -> Value {
    json!({ "type": "B", "data": { "userName": "someone", "password": "canary-password" } })
}

/// A good request for a callback.
fn callback(name: &str) -> Value {
    json!({
        "name": name, "url": format!("https://partner.example/{name}"), "batchSize": 100,
        "authentication": authentication(),
    })
}

/// A good request for a subscription to the callback `c`.
fn subscription(name: &str, event_types: &[&str]) -> Value {
    json!({ "name": name, "callBackName": "c", "eventTypes": event_types })
}

fn filter(event_type: &str, campaigns: &[&str]) -> Value {
    json!({ "eventTypes": [event_type], "values": [{ "campaignNames": campaigns }] })
}

impl Partner {
    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], Some(body)).await
    }

    async fn put_json(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[], Some(body)).await
    }

    async fn remove(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], None).await
    }

    /// Makes the callback `c`.
    async fn with_callback(self) -> Partner {
        let made = self.post(CALLBACKS, &callback("c")).await;
        assert_eq!(made.status, 200, "{made:?}");
        self
    }

    async fn notified(&self, name: &str, event_types: &[&str]) -> Value {
        let made = self.post(SUBSCRIPTIONS, &subscription(name, event_types)).await;
        assert_eq!(made.status, 200, "{made:?}");
        made.json()
    }
}

impl Reply {
    /// The answer as it must be, if it is a success.
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store");
        self.json()
    }

    /// Status, code and detail of an error whose shape, and title if that is published, are the published ones.
    fn told(&self) -> (u16, String, String) {
        let body = self.json();
        let text = |member: &str| body[member].as_str().unwrap().to_owned();
        let title = match text("errorCode").as_str() {
            "OBJECT_NOT_FOUND" => "Object not found".to_owned(),
            "INVALID_PARAMETER" => "Invalid request parameters".to_owned(),
            "INVALID_USER_NAME_PASSWORD" => "Invalid username or password".to_owned(),
            "TOKEN_EXPIRED" => "Authentication token expired".to_owned(),
            _ => text("title"),
        };
        assert_eq!(
            body,
            json!({ "type": "", "title": title, "errorCode": text("errorCode"), "detail": text("detail"), "errorDetails": [] })
        );
        assert_eq!(self.header("content-type"), "application/json");
        (self.status, text("errorCode"), text("detail"))
    }
}

fn not_found(detail: &str) -> (u16, String, String) {
    (404, "OBJECT_NOT_FOUND".to_owned(), detail.to_owned())
}

fn invalid(detail: &str) -> (u16, String, String) {
    (400, "INVALID_PARAMETER".to_owned(), detail.to_owned())
}
