//! What arrives, what history says of it, and what becomes of the rest: pause, rotation, deletion.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use herald::domain::signature::{Received, SigningKey, TOLERANCE_S, verify};

use super::*;
use crate::support::partner::PATIENCE;
use crate::support::receiver::{self, Call, Receiver, gate};

/// Between looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether a receiver that was built with the published library takes the call under this secret.
fn hub_signature_fits(call: &Call, secret: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let digits: String =
        hmac::sign(&key, &call.body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    call.header("x-hub-signature") == format!("sha1={digits}")
}

/// Whether a Standard Webhooks receiver takes the call under this secret.
fn signature_fits(call: &Call, secret: &str) -> bool {
    let timestamp = call.header("webhook-timestamp");
    let received = Received {
        id: call.header("webhook-id"),
        timestamp,
        signature: call.header("webhook-signature"),
        body: &call.body,
    };
    let now = timestamp.parse().unwrap();
    verify(&[SigningKey::from_utf8_secret(secret)], received, now, TOLERANCE_S).is_ok()
}

#[tokio::test]
async fn rule_08_a_webhook_arrives_with_the_published_headers_and_both_signatures() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    receiver.reply([500, 204]);
    let receipt = world.publish("order_paid", json!({ "b": 1.0, "a": "é" })).await;
    assert_eq!(receipt["matched"], 1);
    let call = receiver.wait_for(1).await.remove(0);
    assert_eq!(call.json(), json!({ "b": 1.0, "a": "é" }));
    assert_eq!(call.header("content-type"), "application/json");
    assert_eq!(call.header("x-webhook-event"), "order_paid");
    assert_eq!(call.header("x-webhook-delivery"), call.header("webhook-id").replace('-', ""));
    assert!(hub_signature_fits(&call, SECRET) && signature_fits(&call, SECRET));
    assert!(!hub_signature_fits(&call, NEW_SECRET) && !signature_fits(&call, NEW_SECRET));
    assert!(call.header("user-agent").starts_with("Herald/"));

    let delivery = world.app.the_delivery().await;
    world.app.wait_for_attempts(&delivery, 1).await;
    assert_eq!(world.app.redeliver(&delivery).await.0, 202);
    let again = receiver.wait_for(2).await.remove(1);
    assert_eq!(
        again.header("x-webhook-delivery"),
        call.header("x-webhook-delivery"),
        "the same in every try"
    );
    world.app.wait_for_state(&delivery, "delivered").await;
    let shown = get(&world.app, &at("/sync", &format!("/{id}"))).await.json();
    let history = shown["history"].as_array().unwrap();
    let said: Vec<_> = history.iter().map(|one| (&one["statusCode"], &one["statusDescription"])).collect();
    assert_eq!(
        said,
        [
            (&json!("NoContent"), &json!("No Content")),
            (&json!("InternalServerError"), &json!("Internal Server Error")),
        ],
        "newest first"
    );
    for one in history {
        assert_eq!((&one["subscriptionId"], &one["eventId"]), (&json!(id), &receipt["id"]));
    }
}

#[tokio::test]
async fn nobody_there_is_service_unavailable_in_the_history() {
    let world = world().await;
    let id = subscribe_one(&world.app, &Receiver::nobody().await, "order_paid").await;
    world.publish("order_paid", json!({})).await;
    let delivery = world.app.the_delivery().await;
    world.app.wait_for_attempts(&delivery, 1).await;
    let shown = get(&world.app, &at("/sync", &format!("/{id}"))).await.json();
    assert_eq!(shown["history"][0]["statusCode"], "ServiceUnavailable");
}

#[tokio::test]
async fn after_a_rotation_the_hub_signature_is_the_new_secrets_and_the_other_one_both() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    assert_eq!(update(&world.app, &id, json!({ "newSecret": NEW_SECRET })).await.status, 200);
    world.publish("order_paid", json!({ "n": 1 })).await;
    let call = receiver.wait_for(1).await.remove(0);
    assert!(hub_signature_fits(&call, NEW_SECRET) && !hub_signature_fits(&call, SECRET));
    assert!(signature_fits(&call, NEW_SECRET) && signature_fits(&call, SECRET), "both for a day");

    let third = "dGhlIHRoaXJkIGNhbmFyeQ==";
    let change = json!({ "currentSecret": NEW_SECRET, "newSecret": third });
    assert_eq!(update(&world.app, &id, change).await.status, 200);
    world.publish("order_paid", json!({ "n": 1 })).await;
    let call = receiver.wait_for(2).await.remove(1);
    assert!(hub_signature_fits(&call, third) && !hub_signature_fits(&call, NEW_SECRET));
    let all = [third, NEW_SECRET, SECRET];
    assert!(all.iter().all(|secret| signature_fits(&call, secret)), "a second change ends nobody's day");
    let change = json!({ "currentSecret": third, "newSecret": NEW_SECRET });
    assert_eq!(update(&world.app, &id, change).await.status, 200);

    let expire = "update superseded_signing_keys set valid_until = herald_now()";
    sqlx::query(expire).execute(&world.database.pool).await.unwrap();
    // Whatever is changed makes the server look again at once.
    let change = json!({ "currentSecret": NEW_SECRET, "name": "Renamed" });
    assert_eq!(update(&world.app, &id, change).await.status, 200);
    world.publish("order_paid", json!({ "n": 2 })).await;
    let call = receiver.wait_for(3).await.remove(2);
    assert!(signature_fits(&call, NEW_SECRET) && !signature_fits(&call, SECRET), "one after it");

    assert_eq!(
        delete(&world.app, &id, SECRET).await.code(),
        failed(403, "Forbidden"),
        "the old one opens nothing"
    );
    assert_eq!(delete(&world.app, &id, NEW_SECRET).await.status, 200);
}

#[tokio::test]
async fn a_pause_holds_what_happens_and_activity_delivers_it() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    let paused = update(&world.app, &id, json!({ "isActive": false })).await.json();
    assert_eq!(paused["subscription"]["isActive"], false);
    for number in 0..3 {
        world.publish("order_paid", json!({ "number": number })).await;
    }
    assert_eq!(world.app.deliveries_that("state=held").await.len(), 3);
    let renamed = update(&world.app, &id, json!({ "name": "Renamed" })).await.json();
    assert_eq!(
        renamed["subscription"]["isActive"], false,
        "a change that says nothing of it leaves the pause"
    );
    assert_eq!(world.app.deliveries_that("state=held").await.len(), 3);
    let resumed = update(&world.app, &id, json!({ "isActive": true })).await.json();
    assert_eq!(resumed["subscription"]["isActive"], true);
    let calls = receiver.wait_for(3).await;
    let mut numbers: Vec<_> = calls.iter().map(|call| call.json()["number"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
}

#[tokio::test]
async fn a_callback_that_is_gone_disables_until_its_owner_says_active() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    receiver.reply([410]);
    world.publish("order_paid", json!({})).await;
    receiver.wait_for(1).await;
    let delivery = world.app.the_delivery().await;
    world.app.wait_for_state(&delivery, "held").await;
    let shown = get(&world.app, &at("/sync", &format!("/{id}"))).await.json();
    assert_eq!(shown["subscription"]["isActive"], false);
    assert_eq!(shown["history"][0]["statusCode"], "Gone");
    assert_eq!(update(&world.app, &id, json!({ "isActive": true })).await.status, 200);
    receiver.wait_for(2).await;
    world.app.wait_for_state(&delivery, "delivered").await;
}

#[tokio::test]
async fn a_deletion_cancels_what_was_still_to_come_and_its_history_has_only_attempts() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    receiver.always(500);
    world.publish("order_paid", json!({ "number": 0 })).await;
    let first = world.app.the_delivery().await;
    world.app.wait_for_attempts(&first, 1).await;
    update(&world.app, &id, json!({ "isActive": false })).await;
    world.publish("order_paid", json!({ "number": 1 })).await;

    let deleted = delete(&world.app, &id, SECRET).await.json();
    assert_eq!(deleted["history"].as_array().unwrap().len(), 1);
    assert_eq!(deleted["history"][0]["statusCode"], "InternalServerError");
    let deliveries = world.app.deliveries().await;
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries {
        assert_eq!(delivery["state"], "cancelled");
        assert_eq!(delivery["reason"], "The subscription was deleted.");
    }
    assert_eq!(world.publish("order_paid", json!({})).await["matched"], 0);
}

#[tokio::test]
async fn a_deletion_while_something_is_under_way_leaves_nothing_behind() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    let shut = gate();
    receiver.reply([receiver::Reply::Gate(shut.clone(), 500)]);
    world.publish("order_paid", json!({})).await;
    receiver.wait_for(1).await;
    let delivery = world.app.the_delivery().await;
    assert_eq!(delete(&world.app, &id, SECRET).await.json()["history"], json!([]));
    shut.add_permits(1);
    let ended = world.app.wait_for_state(&delivery, "cancelled").await;
    assert_eq!(ended["attempts"].as_array().unwrap().len(), 1, "the attempt is told");
    assert_eq!(receiver.calls().len(), 1);
}

#[tokio::test]
async fn history_has_the_last_hundred_attempts_newest_first() {
    let world = world().await;
    let receiver = Receiver::start().await;
    let id = subscribe_one(&world.app, &receiver.url, "order_paid").await;
    for batch in 0..3 {
        let events: Vec<Value> = (0..40)
            .map(|number| json!({ "type": "order_paid", "data": { "n": batch * 40 + number } }))
            .collect();
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        let operator = world.app.operator();
        let request =
            operator.request(Method::POST, "/events").header("content-type", "application/x-ndjson");
        assert_eq!(request.body(lines.join("\n")).send().await.unwrap().status(), 202);
    }
    receiver.wait_for(120).await;
    let all = "select count(*) from attempts where outcome = 'delivered'";
    let deadline = Instant::now() + PATIENCE;
    while world.count(all).await < 120 {
        assert!(Instant::now() < deadline, "not all attempts were recorded");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let shown = get(&world.app, &at("/sync", &format!("/{id}"))).await.json();
    let moment = |one: &Value| -> i64 {
        let date = text(&one["attemptedDateUtc"]);
        date.trim_start_matches("/Date(").trim_end_matches(")/").parse().unwrap()
    };
    let moments: Vec<i64> = shown["history"].as_array().unwrap().iter().map(moment).collect();
    assert_eq!(moments.len(), 100);
    assert!(moments.is_sorted_by(|newer, older| newer >= older), "{moments:?}");
}
