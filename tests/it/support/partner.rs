//! A partner at work: the verbs that the stories are told in, over a server's base URL. Knows not whether the server is in this process.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// Only a broken test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const CALLBACK_KEY: &str = "callback-key";
/// Between looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct Partner {
    pub base: String,
    pub key: String,
    client: reqwest::Client,
}

impl Partner {
    pub fn new(base: impl Into<String>, key: impl Into<String>) -> Partner {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Partner { base: base.into(), key: key.into(), client }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).header("x-api-key", &self.key)
    }

    /// Status and body; a body that is not there is `null`.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Subscribes to cancelled sessions, with [`CALLBACK_KEY`].
    pub async fn subscribe(&self, callback_url: &str) -> Uuid {
        let id = Uuid::new_v4();
        let body = json!({ "callbackUrl": callback_url, "apiKey": CALLBACK_KEY, "eventTypes": ["RedirectSessionCancelled"] });
        let (status, body) = self.ask(Method::PUT, &subscription_path(id), Some(body)).await;
        assert_eq!(status, 201, "{body}");
        id
    }

    /// PATCHes what its owner published.
    pub async fn change(&self, subscription: Uuid, change: Value) {
        let (status, body) = self.ask(Method::PATCH, &subscription_path(subscription), Some(change)).await;
        assert_eq!(status, 200, "{body}");
    }

    pub async fn unsubscribe(&self, subscription: Uuid) {
        let (status, body) = self.ask(Method::DELETE, &subscription_path(subscription), None).await;
        assert_eq!(status, 200, "{body}");
    }

    pub async fn open_session(&self) -> Uuid {
        let id = Uuid::new_v4();
        let (status, body) = self.try_to_open(id).await;
        assert_eq!(status, 200, "{body}");
        id
    }

    /// Asks for a session of this id; the same again is answered the same.
    pub async fn try_to_open(&self, id: Uuid) -> (u16, Value) {
        let url = "https://shop.example/";
        let body = json!({ "type": "NewCustomer", "redirectData":
            { "successUrl": url, "failureUrl": url, "abortUrl": url, "qrCodeSuccessUrl": url } });
        self.ask(Method::PUT, &format!("/redirect-sessions/{id}"), Some(body)).await
    }

    /// Cancels a session; the status, if there was an answer at all.
    pub async fn cancel(&self, session: Uuid) -> Option<u16> {
        let answer = self.request(Method::POST, &format!("/redirect-sessions/{session}/cancel")).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// Opens a session and cancels it; its id as callbacks tell it.
    pub async fn cancel_one(&self) -> String {
        let session = self.open_session().await;
        assert_eq!(self.cancel(session).await, Some(200));
        session.to_string()
    }

    /// Publishes events, as whoever may: all of them or, when one is wrong, none. Returns their ids.
    pub async fn publish(&self, events: &[Value]) -> Vec<String> {
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        let request = self.request(Method::POST, "/events").header("content-type", "application/x-ndjson");
        let answer = request.body(lines).send().await.unwrap();
        let status = answer.status().as_u16();
        let answer = answer.text().await.unwrap();
        assert_eq!(status, 202, "{answer}");
        answer.lines().map(|line| text(&serde_json::from_str::<Value>(line).unwrap()["id"])).collect()
    }

    /// The id of an event's only delivery.
    pub async fn delivery_of(&self, event: &str) -> String {
        let event = self.get(&format!("/herald/v1/events/{event}")).await;
        let deliveries = event["deliveries"].as_array().unwrap();
        assert_eq!(deliveries.len(), 1, "{event}");
        text(&deliveries[0]["id"])
    }

    /// The newest hundred deliveries, newest first.
    pub async fn deliveries(&self) -> Vec<Value> {
        self.deliveries_that("").await
    }

    /// Narrowed by a query such as `state=held`.
    pub async fn deliveries_that(&self, query: &str) -> Vec<Value> {
        let page = self.get(&format!("/herald/v1/deliveries?limit=100&{query}")).await;
        page["items"].as_array().unwrap().clone()
    }

    /// The id of the only delivery there is.
    pub async fn the_delivery(&self) -> String {
        let deliveries = self.deliveries().await;
        assert_eq!(deliveries.len(), 1, "{deliveries:?}");
        text(&deliveries[0]["id"])
    }

    pub async fn delivery(&self, id: &str) -> Value {
        self.get(&format!("/herald/v1/deliveries/{id}")).await
    }

    /// Waits until the delivery is as wished; returns it.
    pub async fn wait_for(&self, id: &str, what: &str, wished: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let delivery = self.delivery(id).await;
            if wished(&delivery) {
                return delivery;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {delivery}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub async fn wait_for_state(&self, id: &str, state: &str) -> Value {
        self.wait_for(id, state, |delivery| delivery["state"] == state).await
    }

    /// Waits until this many attempts are in the history.
    pub async fn wait_for_attempts(&self, id: &str, count: usize) -> Value {
        let what = format!("{count} attempts");
        self.wait_for(id, &what, |delivery| delivery["attempts"].as_array().unwrap().len() >= count).await
    }

    pub async fn redeliver(&self, id: &str) -> (u16, Value) {
        self.ask(Method::POST, &format!("/herald/v1/deliveries/{id}/redeliver"), None).await
    }

    /// How a subscription is doing.
    pub async fn standing(&self, subscription: Uuid) -> Value {
        self.get(&own_path(subscription, "")).await
    }

    pub async fn set_policy(&self, subscription: Uuid, policy: Value) -> (u16, Value) {
        self.ask(Method::PATCH, &own_path(subscription, ""), Some(policy)).await
    }

    /// A new signing key's text.
    pub async fn roll_signing_key(&self, subscription: Uuid) -> String {
        let (status, body) = self.ask(Method::POST, &own_path(subscription, "/signing-keys"), None).await;
        assert_eq!(status, 201, "{body}");
        text(&body["key"])
    }

    /// Sends a test event; status and answer.
    pub async fn test(&self, subscription: Uuid) -> (u16, Value) {
        self.ask(Method::POST, &own_path(subscription, "/test"), None).await
    }
}

fn subscription_path(id: Uuid) -> String {
    format!("/redirect-session-events/subscriptions/{id}")
}

/// Where Herald's own API has a redirect subscription.
pub fn own_path(id: Uuid, below: &str) -> String {
    format!("/herald/v1/subscriptions/redirect/{id}{below}")
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// One member of each attempt, in their order.
pub fn of_attempts(delivery: &Value, member: &str) -> Vec<Value> {
    delivery["attempts"].as_array().unwrap().iter().map(|attempt| attempt[member].clone()).collect()
}
