//! The redirect surface over HTTP, at both of its mounts, on a real database.

mod around;
mod remembered;
mod repeats;
mod sessions;
mod subscriptions;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use herald::domain::id::CustomerId;
use herald::domain::key_ring::KeyRing;
use herald::surfaces::kit::Api;
use herald::surfaces::redirect;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::cluster::{self, TestDatabase};
use crate::support::server::{Partner, Reply, Server};

const MOUNTS: [&str; 2] = ["", redirect::MOUNT];
const SUBSCRIPTIONS: &str = "/redirect-session-events/subscriptions";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A server with two partners who know nothing of each other.
struct World {
    database: TestDatabase,
    keys: KeyRing,
    server: Server,
    ann: Partner,
    ben: Partner,
}

async fn world() -> World {
    let database = cluster::database().await;
    let (keys, _) = KeyRing::generate();
    let server = serve(&database.pool, &keys, REQUEST_TIMEOUT).await;
    let (ann, ben) = (server.partner("ann").await, server.partner("ben").await);
    World { database, keys, server, ann, ben }
}

async fn serve(pool: &PgPool, keys: &KeyRing, request_timeout: Duration) -> Server {
    Server::start(pool, keys, request_timeout, both_mounts).await
}

fn both_mounts(api: Api) -> Router {
    let site = Arc::new(redirect::Site::new(api));
    Router::new().fallback(async move |request: Request| site.answer(request).await)
}

fn subscription(id: Uuid) -> String {
    format!("{SUBSCRIPTIONS}/{id}")
}

fn session(id: Uuid) -> String {
    format!("/redirect-sessions/{id}")
}

/// A good request for a subscription; the key is a canary.
fn wish(url: &str) -> Value {
    json!({ "callbackUrl": url, "apiKey": "canary-key", "eventTypes": ["RedirectSessionCancelled"] })
}

fn redirect_data() -> Value {
    json!({
        "successUrl": "https://shop.example/success", "failureUrl": "https://shop.example/failure",
        "abortUrl": "https://shop.example/abort", "qrCodeSuccessUrl": "https://shop.example/qr",
    })
}

fn new_customer() -> Value {
    json!({ "type": "NewCustomer", "redirectData": redirect_data() })
}

impl Partner {
    async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[], Some(body)).await
    }

    async fn patch(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        self.send("PATCH", path, headers, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], None).await
    }

    async fn cancel(&self, id: Uuid, headers: &[(&str, &str)]) -> Reply {
        self.send("POST", &format!("{}/cancel", session(id)), headers, None).await
    }

    /// Makes a subscription to a URL of its own.
    async fn subscribed(&self) -> Uuid {
        let id = Uuid::new_v4();
        let made = self.put(&subscription(id), &wish(&format!("https://partner.example/{id}"))).await;
        assert_eq!(made.status, 201, "{made:?}");
        id
    }

    /// Opens a session.
    async fn opened(&self) -> Uuid {
        let id = Uuid::new_v4();
        let made = self.put(&session(id), &new_customer()).await;
        assert_eq!(made.status, 200, "{made:?}");
        id
    }
}

impl World {
    async fn customer(&self, partner: &Partner) -> CustomerId {
        let customer = CustomerId::new();
        self.server.hub.create_customer(partner.id, customer).await.unwrap();
        customer
    }

    async fn erase(&self, customer: CustomerId) {
        let mut connection = self.database.pool.acquire().await.unwrap();
        assert!(herald::store::customers::erase(&mut connection, customer).await.unwrap());
    }

    async fn count(&self, table: &'static str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(sql).fetch_one(&self.database.pool).await.unwrap()
    }
}

fn failed(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
