//! A partner who means harm: everything that he can have called, on every surface.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

const CALLBACKS: &str = "/rest/api/v1.3/notifications/callbacks";
const SUBSCRIPTIONS: &str = "/redirect-session-events/subscriptions";
const WEBHOOKS: &str = "/sync/webhooks/subscriptions";
const SECRET: &str = "c2VjcmV0LXRleHQ=";

pub struct Attacker {
    /// Of the API and of the operator's side.
    base: [String; 2],
    key: String,
    client: reqwest::Client,
}

/// Somewhere a URL may be said. With the thing that is to be changed, where something is.
#[derive(Debug)]
pub enum Place {
    PutSubscription,
    PostSubscription,
    ReplaceSubscription(String),
    ChangeSubscription(String),
    Callback,
    Backup,
    ChangeCallback(String),
    ChangeBackup(String),
    Webhook(&'static str),
    ChangeWebhook(String),
}

impl Place {
    /// All of them; what there is to change has this URL so far.
    pub async fn all(attacker: &Attacker, url: &str) -> Vec<Place> {
        let subscription = attacker.subscribe(url).await;
        let webhook = attacker.make_webhook(url, "known", "order_seen").await;
        attacker.make_callback("known", url, None).await;
        vec![
            Place::PutSubscription,
            Place::PostSubscription,
            Place::ReplaceSubscription(subscription.clone()),
            Place::ChangeSubscription(subscription),
            Place::Callback,
            Place::Backup,
            Place::ChangeCallback("known".to_owned()),
            Place::ChangeBackup("known".to_owned()),
            Place::Webhook("/sync/webhooks/subscriptions/create"),
            Place::Webhook("/async/webhooks/subscriptions/create"),
            Place::Webhook("/json/reply/CreateWebhookSubscriptions"),
            Place::ChangeWebhook(webhook),
        ]
    }
}

impl Attacker {
    pub fn new(base: [String; 2], key: &str) -> Attacker {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Attacker { base, key: key.to_owned(), client }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask_at(0, method, path, body).await
    }

    async fn ask_at(&self, side: usize, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.base[side]));
        let answer = request.header("x-api-key", &self.key).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// Says a URL in a place.
    pub async fn say(&self, place: &Place, url: &str) -> (u16, Value) {
        let subscription = subscription(url);
        let credentials = authentication();
        let other = "http://nowhere.attack.example:8080/other";
        let fresh = || Uuid::new_v4().simple().to_string();
        match place {
            Place::PutSubscription => {
                self.ask("PUT", &format!("{SUBSCRIPTIONS}/{}", Uuid::new_v4()), subscription).await
            }
            Place::PostSubscription => self.ask("POST", SUBSCRIPTIONS, subscription).await,
            Place::ReplaceSubscription(id) => {
                self.ask("PUT", &format!("{SUBSCRIPTIONS}/{id}"), subscription).await
            }
            Place::ChangeSubscription(id) => {
                self.ask("PATCH", &format!("{SUBSCRIPTIONS}/{id}"), json!({ "callbackUrl": url })).await
            }
            Place::Callback => {
                let wish =
                    json!({ "name": fresh(), "url": url, "batchSize": 1, "authentication": credentials });
                self.ask("POST", CALLBACKS, wish).await
            }
            Place::Backup => {
                let wish = json!({
                    "name": fresh(), "url": other, "backupUrl": url, "batchSize": 1, "authentication": credentials
                });
                self.ask("POST", CALLBACKS, wish).await
            }
            Place::ChangeCallback(name) => {
                let wish = json!({ "url": url, "authentication": credentials });
                self.ask("PUT", &format!("{CALLBACKS}/{name}"), wish).await
            }
            Place::ChangeBackup(name) => {
                let wish = json!({ "url": other, "backupUrl": url, "authentication": credentials });
                self.ask("PUT", &format!("{CALLBACKS}/{name}"), wish).await
            }
            Place::Webhook(path) => self.ask("POST", path, webhook(url, &fresh(), "order_seen")).await,
            Place::ChangeWebhook(id) => {
                self.ask(
                    "POST",
                    &format!("{WEBHOOKS}/{id}/update"),
                    json!({ "currentSecret": SECRET, "url": url }),
                )
                .await
            }
        }
    }

    pub async fn subscribe(&self, url: &str) -> String {
        let id = Uuid::new_v4().to_string();
        let (status, answer) = self.ask("PUT", &format!("{SUBSCRIPTIONS}/{id}"), subscription(url)).await;
        assert_eq!(status, 201, "{url}: {answer}");
        id
    }

    pub async fn make_callback(&self, name: &str, url: &str, backup: Option<&str>) {
        let mut wish =
            json!({ "name": name, "url": url, "batchSize": 1, "authentication": authentication() });
        if let Some(backup) = backup {
            wish["backupUrl"] = json!(backup);
        }
        let (status, answer) = self.ask("POST", CALLBACKS, wish).await;
        assert_eq!(status, 200, "{url}: {answer}");
    }

    /// A subscription of the same name as its callback.
    pub async fn make_notification(&self, callback: &str, kind: &str) {
        let wish = json!({ "name": callback, "callBackName": callback, "eventTypes": [kind] });
        let (status, answer) = self.ask("POST", "/rest/api/v1.3/notifications/subscriptions", wish).await;
        assert_eq!(status, 200, "{callback}: {answer}");
    }

    pub async fn make_webhook(&self, url: &str, account: &str, event: &str) -> String {
        let (status, answer) =
            self.ask("POST", &format!("{WEBHOOKS}/create"), webhook(url, account, event)).await;
        assert_eq!(status, 200, "{url}: {answer}");
        answer[0]["subscription"]["id"].as_str().unwrap().to_owned()
    }

    /// The status of trying a callback out.
    pub async fn verify(&self, below: &str) -> u16 {
        self.ask("GET", &format!("{CALLBACKS}{below}"), Value::Null).await.0
    }

    /// A test event, which reaches nobody and says no more than that.
    pub async fn test(&self, surface: &str, id: &str) {
        let path = format!("/herald/v1/subscriptions/{surface}/{id}/test");
        let (status, tested) = self.ask("POST", &path, json!({})).await;
        assert_eq!((status, &tested["attempt"]["outcome"]), (200, &json!("unreachable")), "{path}: {tested}");
        assert!(tested["attempt"].get("status").is_none() && tested["attempt"].get("responseBody").is_none());
    }

    pub async fn cancel_one(&self) {
        let id = Uuid::new_v4();
        let url = "https://shop.example/";
        let urls = json!({ "successUrl": url, "failureUrl": url, "abortUrl": url, "qrCodeSuccessUrl": url });
        let body = json!({ "type": "NewCustomer", "redirectData": urls });
        assert_eq!(self.ask("PUT", &format!("/redirect-sessions/{id}"), body).await.0, 200);
        assert_eq!(self.ask("POST", &format!("/redirect-sessions/{id}/cancel"), json!({})).await.0, 200);
    }

    pub async fn publish(&self, kind: &str) {
        let (status, answer) = self.ask_at(1, "POST", "/events", json!({ "type": kind, "data": {} })).await;
        assert_eq!(status, 202, "{answer}");
    }
}

fn subscription(url: &str) -> Value {
    json!({ "callbackUrl": url, "apiKey": "key", "eventTypes": ["RedirectSessionCancelled"] })
}

fn authentication() -> Value {
    json!({ "type": "B", "data": { "userName": "u", "password": "p" } })
}

fn webhook(url: &str, account: &str, event: &str) -> Value {
    json!({ "name": "x", "events": [event], "url": url, "secret": SECRET, "accountId": account })
}
