//! From a cancel to its callback, and into the history.

use chrono::TimeDelta;
use herald::clock;
use herald::domain::signature::{Received, SigningKey, TOLERANCE_S, sign, verify};
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{CALLBACK_KEY, of_attempts, text};
use crate::support::receiver::{Call, Receiver, Reply};

#[tokio::test]
async fn a_cancelled_session_arrives_as_published() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let session = app.cancel_one().await;
    let call = receiver.wait_for(1).await.remove(0);
    let delivery = app.the_delivery().await;
    let delivery = app.wait_for_state(&delivery, "delivered").await;

    let mut names: Vec<&str> = call.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-api-key",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(call.header("content-type"), "application/json");
    assert_eq!(call.header("x-api-key"), CALLBACK_KEY);
    assert_eq!(call.header("webhook-id"), delivery["id"]);
    assert_eq!(call.header("x-request-id"), call.header("webhook-id"));
    assert_eq!(call.header("user-agent"), concat!("Herald/", env!("CARGO_PKG_VERSION")));
    assert!(
        (clock::now().timestamp() - call.header("webhook-timestamp").parse::<i64>().unwrap()).abs() <= 60
    );

    let shown = app.get(&format!("/redirect-sessions/{session}")).await;
    let event = text(&delivery["event"]["id"]);
    assert_eq!(
        call.json(),
        json!({
            "specversion": "1.0", "id": event, "source": "/customer-authentication-service",
            "time": shown["lastModifiedOn"], "datacontenttype": "application/json", "type": "RedirectSessionCancelled",
            "data": { "id": session, "state": "Cancelled", "type": "NewCustomer",
                      "createdOn": shown["createdOn"], "lastModifiedOn": shown["lastModifiedOn"] }
        })
    );

    assert_eq!(delivery["subscription"], json!({ "surface": "redirect", "id": subscription.to_string() }));
    assert_eq!(delivery["callbackUrl"], receiver.url);
    assert_eq!(delivery["attemptCount"], 1);
    assert_eq!(delivery.get("nextAttemptAt"), None);
    let attempt = &delivery["attempts"][0];
    assert_eq!((&attempt["number"], &attempt["outcome"]), (&json!(1), &json!("delivered")));
    assert_eq!((&attempt["status"], &attempt["late"]), (&json!(204), &json!(false)));
    assert!(attempt["latencyMs"].as_i64().unwrap() >= 0);
    assert!(text(&attempt["startedAt"]) <= text(&attempt["endedAt"]));

    let event = app.get(&format!("/herald/v1/events/{event}")).await;
    assert_eq!((&event["matched"], event["deliveries"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(event["deliveries"][0]["id"], delivery["id"]);
    assert_eq!(event["data"], call.json()["data"]);
    let standing = app.standing(subscription).await;
    assert_eq!(standing["health"]["consecutiveFailures"], 0);
    assert_eq!(standing["health"]["lastSuccessAt"], attempt["startedAt"]);
}

#[tokio::test]
async fn rule_08_signatures_fit_the_key_and_rotation_overlaps_for_a_day() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let first = app.roll_signing_key(subscription).await;
    app.cancel_one().await;
    let call = receiver.wait_for(1).await.remove(0);
    assert!(fits(&call, &first));
    assert!(!fits(&call, SigningKey::generate().text().expose_str().unwrap()));
    assert!(call.header("webhook-signature").starts_with(&signature_by(&call, &first)), "newest first");

    let second = app.roll_signing_key(subscription).await;
    app.cancel_one().await;
    let call = receiver.wait_for(2).await.remove(1);
    let both = format!("{} {}", signature_by(&call, &second), signature_by(&call, &first));
    assert_eq!(call.header("webhook-signature"), both);

    database.advance(TimeDelta::hours(25)).await;
    // What the engine knows of a subscription is believed for a second; a change makes it look again at once.
    app.set_policy(subscription, json!({ "timeoutMs": 1000 })).await;
    app.cancel_one().await;
    let call = receiver.wait_for(3).await.remove(2);
    assert_eq!(call.header("webhook-signature"), signature_by(&call, &second));
}

fn fits(call: &Call, key: &str) -> bool {
    let received = Received {
        id: call.header("webhook-id"),
        timestamp: call.header("webhook-timestamp"),
        signature: call.header("webhook-signature"),
        body: &call.body,
    };
    let key = SigningKey::parse(key).unwrap();
    verify(&[key], received, clock::now().timestamp(), TOLERANCE_S).is_ok()
}

fn signature_by(call: &Call, key: &str) -> String {
    let timestamp = call.header("webhook-timestamp").parse().unwrap();
    sign(&[SigningKey::parse(key).unwrap()], call.header("webhook-id"), timestamp, &call.body)
}

#[tokio::test]
async fn rule_05_the_first_16_kib_of_an_answer_are_kept_whatever_it_is() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let nasty = b"a\0\xff\x1b[31m<script>\"".to_vec();
    receiver.reply([Reply::Body(200, vec![b'x'; 20 * 1024]), Reply::Body(200, nasty)]);
    for (calls, shown) in [(1, "x".repeat(16 * 1024)), (2, "a\0\u{fffd}\u{1b}[31m<script>\"".to_owned())] {
        app.cancel_one().await;
        let call = receiver.wait_for(calls).await.remove(calls - 1);
        let delivery = app.wait_for_state(call.header("webhook-id"), "delivered").await;
        assert_eq!(of_attempts(&delivery, "responseBody"), [json!(shown)]);
    }
}

#[tokio::test]
async fn every_subscription_gets_its_own_delivery_of_an_event() {
    let (database, one, other) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&one.url).await;
    app.subscribe(&other.url).await;
    app.cancel_one().await;
    let (first, second) = (one.wait_for(1).await.remove(0), other.wait_for(1).await.remove(0));
    assert_eq!(first.body, second.body, "one event");
    assert_ne!(first.header("webhook-id"), second.header("webhook-id"), "two deliveries");
}

#[tokio::test]
async fn an_event_that_matched_nobody_is_kept_and_says_so() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let session = app.cancel_one().await;
    let row = sqlx::query("select id from events").fetch_one(&database.pool).await.unwrap();
    let event = app.get(&format!("/herald/v1/events/{}", row.get::<Uuid, _>("id"))).await;
    assert_eq!((&event["matched"], &event["deliveries"]), (&json!(0), &json!([])));
    assert_eq!(event["data"]["id"], session);
    assert_eq!(app.deliveries().await, Vec::<serde_json::Value>::new());
}
