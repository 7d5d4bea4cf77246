//! The operator's listener.

use herald::domain::delivery::DeliveryState;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::desk::{Answer, Desk};

async fn post(desk: &Desk, key: &str, path: &str, body: Value) -> Answer {
    desk.operator(Method::POST, key, path, Some(body)).await
}

async fn get(desk: &Desk, path: &str) -> Answer {
    desk.operator(Method::GET, "", path, None).await
}

#[tokio::test]
async fn rule_11_a_partner_gets_a_key_that_opens_the_api_until_it_is_revoked() {
    let desk = Desk::open().await;
    let (_, operator) = desk.partner("operator").await;
    let partner = post(&desk, &operator, "/partners", json!({ "name": "Example Café" })).await;
    assert_eq!((partner.status, &partner.body["name"]), (201, &json!("Example Café")));
    let keys = format!("/partners/{}/keys", partner.body["id"].as_str().unwrap());

    let used = post(&desk, &operator, &keys, json!({ "scopes": ["producer", "partner"] })).await;
    assert_eq!((used.status, &used.body["scopes"]), (201, &json!(["partner", "producer"])));
    let text = used.body["key"].as_str().unwrap();
    assert!(text.contains(used.body["prefix"].as_str().unwrap()));
    assert_eq!(desk.get(text, "/herald/v1/deliveries").await.status, 200);

    // Another, because a key that was used lately is believed for a moment.
    let revoked = post(&desk, &operator, &keys, json!({ "scopes": ["partner"] })).await;
    let path = format!("{keys}/{}", revoked.body["id"].as_str().unwrap());
    assert_eq!(desk.operator(Method::DELETE, &operator, &path, None).await.status, 204);
    let answer = desk.get(revoked.body["key"].as_str().unwrap(), "/herald/v1/deliveries").await;
    assert_eq!(answer.problem(), (401, "Unauthorized"));
    let again = desk.operator(Method::DELETE, &operator, &path, None).await;
    assert_eq!(again.problem(), (404, "KeyNotFound"));
}

#[tokio::test]
async fn rule_11_a_key_ends_when_it_was_said_to() {
    let desk = Desk::open().await;
    let (partner, _) = desk.partner("partner").await;
    let (_, operator) = desk.partner("operator").await;
    let keys = format!("/partners/{partner}/keys");
    let asked = |end: String| json!({ "scopes": ["partner"], "expiresAt": end });
    let in_minutes = |minutes| (herald::clock::now() + chrono::Duration::minutes(minutes)).to_rfc3339();
    let past = post(&desk, &operator, &keys, asked(in_minutes(-1))).await;
    assert_eq!(past.fields(), ["expiresAt"]);
    let key = post(&desk, &operator, &keys, asked(in_minutes(5))).await;
    assert_eq!(key.status, 201, "{}", key.text);
    desk.database.advance(chrono::Duration::minutes(6)).await;
    let answer = desk.get(key.body["key"].as_str().unwrap(), "/herald/v1/deliveries").await;
    assert_eq!(answer.problem(), (401, "Unauthorized"));
}

#[tokio::test]
async fn rule_11_keys_change_without_a_gap_and_the_old_one_ends_within_seconds_although_it_is_in_use() {
    let desk = Desk::open().await;
    let (partner, _) = desk.partner("partner").await;
    let (other, _) = desk.partner("partner").await;
    let (_, operator) = desk.partner("operator").await;
    let keys = format!("/partners/{partner}/keys");
    let make = async || post(&desk, &operator, &keys, json!({ "scopes": ["partner"] })).await.body;
    let (old, new) = (make().await, make().await);
    let text = |key: &Value| key["key"].as_str().unwrap().to_owned();
    let status = async |key: &Value| desk.get(&text(key), "/herald/v1/deliveries").await.status;
    assert_eq!((status(&old).await, status(&new).await), (200, 200), "both at once");

    let id = old["id"].as_str().unwrap();
    let foreign = format!("/partners/{other}/keys/{id}");
    assert_eq!(
        desk.operator(Method::DELETE, &operator, &foreign, None).await.problem(),
        (404, "KeyNotFound")
    );
    assert_eq!(desk.operator(Method::DELETE, &operator, &format!("{keys}/{id}"), None).await.status, 204);
    let revoked = std::time::Instant::now();
    while status(&old).await == 200 {
        assert!(revoked.elapsed() < std::time::Duration::from_secs(5), "it is believed for ever");
    }
    assert_eq!((status(&old).await, status(&new).await), (401, 200));
}

#[tokio::test]
async fn customers_come_and_go() {
    let desk = Desk::open().await;
    let (partner, key) = desk.partner("partner").await;
    let (_, operator) = desk.partner("operator").await;
    let customers = format!("/partners/{partner}/customers");
    let own = Uuid::now_v7();
    let named = post(&desk, &operator, &customers, json!({ "id": own })).await;
    assert_eq!(
        (named.status, &named.body["id"], &named.body["partnerId"]),
        (201, &json!(own), &json!(partner.0))
    );
    let taken = post(&desk, &operator, &customers, json!({ "id": own })).await;
    assert_eq!(taken.problem(), (409, "DuplicateEntity"));
    let bare = desk.operator(Method::POST, &operator, &customers, None).await;
    assert_eq!(bare.status, 201, "the server makes an id");

    let session = open_for(&desk, &key, own).await;
    let path = format!("/customers/{own}");
    assert_eq!(desk.operator(Method::DELETE, &operator, &path, None).await.status, 204);
    let gone = desk.operator(Method::DELETE, &operator, &path, None).await;
    assert_eq!(gone.problem(), (404, "CustomerNotFound"));
    let answer = desk.get(&key, &format!("/redirect-sessions/{session}")).await;
    assert_eq!((answer.status, &answer.body["code"]), (404, &json!("CustomerNotFound")));
    let complete = format!("/redirect-sessions/{session}/complete");
    let answer = desk.operator(Method::POST, &operator, &complete, None).await;
    assert_eq!(answer.problem(), (404, "CustomerNotFound"), "nothing is done for who is gone");
}

async fn open_for(desk: &Desk, key: &str, customer: Uuid) -> Uuid {
    let id = Uuid::now_v7();
    let urls = json!({
        "successUrl": "https://partner.example/s", "failureUrl": "https://partner.example/f",
        "abortUrl": "https://partner.example/a", "qrCodeSuccessUrl": "https://partner.example/q",
    });
    let body = json!({ "type": "NewCustomer", "redirectData": urls, "customerId": customer });
    let answer = desk.api(Method::PUT, key, &format!("/redirect-sessions/{id}"), Some(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    id
}

#[tokio::test]
async fn an_active_session_is_completed_once() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let (_, operator) = desk.partner("operator").await;
    let session = desk.open_session(&key).await;
    let path = format!("/redirect-sessions/{session}/complete");
    let done = desk.operator(Method::POST, &operator, &path, None).await;
    assert_eq!((done.status, &done.body["state"]), (200, &json!("Completed")));
    assert_eq!(desk.get(&key, &format!("/redirect-sessions/{session}")).await.body["state"], "Completed");
    let again = desk.operator(Method::POST, &operator, &path, None).await;
    assert_eq!(again.problem(), (409, "InvalidRedirectSessionStateTransition"));
    let unknown = format!("/redirect-sessions/{}/complete", Uuid::now_v7());
    let unknown = desk.operator(Method::POST, &operator, &unknown, None).await;
    assert_eq!(unknown.problem(), (404, "RedirectSessionNotFound"));
}

#[tokio::test]
async fn rule_11_only_an_operators_key_does_anything() {
    let desk = Desk::open().await;
    let (_, other) = desk.partner("partner,producer").await;
    let id = Uuid::now_v7();
    let operations = [
        (Method::POST, "/partners".to_owned()),
        (Method::POST, format!("/partners/{id}/keys")),
        (Method::DELETE, format!("/partners/{id}/keys/{id}")),
        (Method::POST, format!("/partners/{id}/customers")),
        (Method::DELETE, format!("/customers/{id}")),
        (Method::POST, format!("/redirect-sessions/{id}/complete")),
    ];
    for (method, path) in operations {
        let answer = desk.operator(method.clone(), "", &path, None).await;
        assert_eq!(answer.problem(), (401, "Unauthorized"), "{method} {path}");
        let answer = desk.operator(method.clone(), &other, &path, None).await;
        assert_eq!(answer.problem(), (403, "Forbidden"), "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let desk = Desk::open().await;
    let (_, operator) = desk.partner("operator").await;
    let id = Uuid::now_v7();
    for (path, body, fields) in [
        ("/partners".to_owned(), json!({ "name": "" }), vec!["name"]),
        ("/partners".to_owned(), json!({}), vec!["name"]),
        ("/partners/none/keys".to_owned(), json!({ "scopes": ["partner"] }), vec!["partnerId"]),
        (
            format!("/partners/{id}/keys"),
            json!({ "scopes": [], "expiresAt": 1 }),
            vec!["scopes", "expiresAt"],
        ),
        (format!("/partners/{id}/customers"), json!({ "id": "x" }), vec!["id"]),
    ] {
        assert_eq!(post(&desk, &operator, &path, body.clone()).await.fields(), fields, "{path} {body}");
    }
    for path in [format!("/partners/{id}/keys"), format!("/partners/{id}/customers")] {
        let answer = post(&desk, &operator, &path, json!({ "scopes": ["partner"] })).await;
        assert_eq!(answer.problem(), (404, "PartnerNotFound"), "{path}");
    }
    assert_eq!(get(&desk, "/nothing").await.problem(), (404, "ResourceNotFound"));
    let answer = desk.operator(Method::DELETE, "", "/metrics", None).await;
    assert_eq!(answer.problem(), (405, "MethodNotAllowed"));
    assert_eq!(answer.headers["allow"], "GET,HEAD");
}

fn failing(answer: &Answer) -> Vec<&str> {
    let checks = answer.body["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["status"] == "failing").map(|check| check["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn rule_24_readiness_names_what_is_not_well() {
    let desk = Desk::open().await;
    let dispatcher = desk.health.worker("dispatcher");
    let starting = get(&desk, "/readyz").await;
    assert_eq!((starting.status, failing(&starting)), (503, vec!["phase"]));
    desk.health.serving();
    let serving = get(&desk, "/readyz").await;
    assert_eq!((serving.status, failing(&serving)), (200, vec![]));
    drop(dispatcher);
    let crippled = get(&desk, "/readyz").await;
    assert_eq!((crippled.status, failing(&crippled)), (503, vec!["dispatcher"]));
    desk.take_database_away();
    let alone = get(&desk, "/readyz").await;
    assert_eq!((alone.status, failing(&alone)), (503, vec!["database", "dispatcher"]));
    assert!(alone.headers.contains_key("retry-after"));
    assert_eq!(get(&desk, "/livez").await.status, 200);
}

#[tokio::test]
async fn metrics_show_requests_and_the_queue() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    desk.subscribe(&key).await;
    desk.cancel_a_session(&key).await;
    desk.metrics.delivery_ended(DeliveryState::Dead);
    desk.get("", "/herald/v1/deliveries").await;
    let shown = get(&desk, "/metrics").await;
    for line in [
        r#"herald_http_requests_total{surface="redirect",method="PUT",status="2xx"} 2"#,
        r#"herald_http_requests_total{surface="herald",method="GET",status="4xx"} 1"#,
        r#"herald_deliveries_ended_total{state="dead"} 1"#,
        "herald_queue_pending 1",
        "herald_queue_held 0",
        "herald_database_up 1",
    ] {
        assert!(shown.text.lines().any(|one| one == line), "{line}\n{}", shown.text);
    }
    desk.take_database_away();
    let alone = get(&desk, "/metrics").await;
    assert_eq!(alone.status, 200);
    assert!(alone.text.contains("herald_database_up 0") && !alone.text.contains("herald_queue_pending"));
}
