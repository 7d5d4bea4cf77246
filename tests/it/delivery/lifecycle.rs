//! What becomes of deliveries when their subscription changes, is disabled, resumed or deleted.

use chrono::TimeDelta;
use herald::config::RawConfig;
use serde_json::{Value, json};
use sqlx::Row;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{CALLBACK_KEY, of_attempts, text};
use crate::support::receiver::{Receiver, Reply, gate};

/// One post at a time to each callback, so that order can be seen.
fn one_at_a_time() -> RawConfig {
    RawConfig { callback_in_flight_max: Some("1".to_owned()), ..settings() }
}

#[tokio::test]
async fn rule_21_a_410_disables_visibly_and_what_was_held_drains_oldest_first() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, one_at_a_time()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([410]);
    let mut sessions = vec![app.cancel_one().await];
    let first = app.the_delivery().await;
    app.wait_for_state(&first, "held").await;
    let standing = app.standing(subscription).await;
    assert_eq!((&standing["state"], &standing["heldCount"]), (&json!("disabled"), &json!(1)));
    assert!(text(&standing["reason"]).contains("410"), "{standing}");

    for _ in 0..40 {
        sessions.push(app.cancel_one().await);
    }
    assert_eq!(app.standing(subscription).await["heldCount"], 41);
    assert_eq!(app.deliveries_that("state=held").await.len(), 41);
    let (status, problem) = app.redeliver(&first).await;
    assert_eq!(status, 409, "{problem}");
    assert_eq!(receiver.calls().len(), 1, "nothing is sent meanwhile");

    // What the order of rows on disk is shall not matter.
    for id in app.deliveries_that("state=held").await.iter().map(|held| text(&held["id"])) {
        for away_and_back in [
            "update queue set due_at = herald_now() + interval '1 day' where delivery_id = $1::uuid",
            "update queue set due_at = 'infinity' where delivery_id = $1::uuid",
        ] {
            let moved = sqlx::query(away_and_back).bind(&id).execute(&database.pool).await.unwrap();
            assert_eq!(moved.rows_affected(), 1);
        }
    }
    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    let standing = app.standing(subscription).await;
    assert_eq!((&standing["state"], standing.get("reason")), (&json!("active"), None));
    let calls = receiver.wait_for(42).await;
    let arrived: Vec<String> = calls[1..].iter().map(|call| call.session()).collect();
    assert_eq!(arrived, sessions, "oldest first");
    assert!(calls[1..].iter().all(|call| call.header("x-api-key") == "another-key"));
    let delivery = app.wait_for_state(&first, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [410, 204]);
    assert_eq!(app.standing(subscription).await["heldCount"], 0);
}

#[tokio::test]
async fn rule_21_what_an_old_callback_said_is_not_held_against_the_new_one() {
    let (database, old, new) = (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&old.url).await;
    let gate = gate();
    old.reply([Reply::Gate(gate.clone(), 410)]);
    app.cancel_one().await;
    let id = old.wait_for(1).await[0].header("webhook-id").to_owned();
    app.change(subscription, json!({ "callbackUrl": new.url })).await;
    gate.add_permits(1);
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [410, 204]);
    assert_eq!(new.calls().len(), 1);
    assert_eq!(app.standing(subscription).await["state"], "active");
}

#[tokio::test]
async fn rule_09_deleting_a_subscription_cancels_what_waits_and_wipes_its_secrets() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, one_at_a_time()).await;
    let subscription = app.subscribe(&receiver.url).await;
    app.roll_signing_key(subscription).await;
    let gate = gate();
    receiver.reply([Reply::Status(500), Reply::Gate(gate.clone(), 204)]);
    app.cancel_one().await;
    let waiting = app.the_delivery().await;
    app.wait_for_attempts(&waiting, 1).await;
    app.cancel_one().await;
    let in_flight = receiver.wait_for(2).await[1].header("webhook-id").to_owned();
    app.cancel_one().await;
    let parked = text(&app.deliveries().await[0]["id"]);

    app.unsubscribe(subscription).await;
    app.wait_for_state(&waiting, "cancelled").await;
    gate.add_permits(1);
    let delivery = app.wait_for_state(&in_flight, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [204], "what was under way ends as it did");
    let delivery = app.wait_for_state(&parked, "cancelled").await;
    assert_eq!((&delivery["attempts"], &delivery["attemptCount"]), (&json!([]), &json!(0)));
    assert_eq!(receiver.calls().len(), 2);

    let row = sqlx::query(
        "select credentials is null and signing_key is null and not exists (select from superseded_signing_keys) as wiped from callbacks",
    );
    assert!(row.fetch_one(&database.pool).await.unwrap().get::<bool, _>("wiped"));
    let (status, problem) = app.redeliver(&waiting).await;
    assert_eq!(status, 409, "there is nobody to send it to: {problem}");
}

#[tokio::test]
async fn a_post_that_fails_after_its_subscription_was_deleted_is_not_tried_again() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 500)]);
    app.cancel_one().await;
    receiver.wait_for(1).await;
    let id = app.the_delivery().await;
    app.unsubscribe(subscription).await;
    gate.add_permits(1);
    app.wait_for_attempts(&id, 1).await;
    database.advance(TimeDelta::seconds(13)).await;
    let delivery = app.wait_for_state(&id, "cancelled").await;
    assert_eq!(of_attempts(&delivery, "status"), [500]);
    assert_eq!(receiver.calls().len(), 1);
}

#[tokio::test]
async fn a_change_applies_to_the_very_next_post_and_to_retries() {
    let (database, old, new) = (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&old.url).await;
    old.reply([204, 500]);
    app.cancel_one().await;
    old.wait_for(1).await;
    app.change(subscription, json!({ "apiKey": "key-2" })).await;
    app.cancel_one().await;
    let call = old.wait_for(2).await.remove(1);
    assert_eq!(call.header("x-api-key"), "key-2");
    let id = call.header("webhook-id");
    app.wait_for_attempts(id, 1).await;

    app.change(subscription, json!({ "callbackUrl": new.url, "apiKey": "key-3" })).await;
    app.cancel_one().await;
    let next = new.wait_for(1).await.remove(0);
    assert_eq!(next.header("x-api-key"), "key-3");
    database.advance(TimeDelta::seconds(13)).await;
    let retry = new.wait_for(2).await.remove(1);
    assert_eq!((retry.header("webhook-id"), retry.header("x-api-key")), (id, "key-3"));
    assert_eq!(retry.body, call.body);
    app.wait_for_state(id, "delivered").await;
    assert_eq!(old.calls().len(), 2);
}

#[tokio::test]
async fn a_test_event_is_tried_once_and_answered_with_its_attempt() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([Reply::Body(200, b"hello".to_vec()), 500.into(), 410.into()]);

    let (status, tested) = app.test(subscription).await;
    assert_eq!(status, 200, "{tested}");
    let attempt = &tested["attempt"];
    assert_eq!((&attempt["outcome"], &attempt["status"]), (&json!("delivered"), &json!(200)));
    assert_eq!(attempt["responseBody"], "hello");
    let call = receiver.calls().remove(0);
    assert_eq!((call.json()["type"].as_str(), call.header("x-api-key")), (Some("HeraldTest"), CALLBACK_KEY));
    assert_eq!(call.header("webhook-id"), tested["deliveryId"]);
    assert!(call.header("webhook-signature").starts_with("v1,"));

    let (status, tested) = app.test(subscription).await;
    assert_eq!((status, &tested["attempt"]["status"]), (200, &json!(500)));
    assert_eq!(app.delivery(&text(&tested["deliveryId"])).await["state"], "dead", "tried once");
    let (_, tested) = app.test(subscription).await;
    assert_eq!(tested["attempt"]["status"], 410);
    assert_eq!(app.standing(subscription).await["state"], "active", "a test decides nothing");
}

#[tokio::test]
async fn a_test_event_reaches_a_disabled_subscription_and_leaves_it_disabled() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([410]);
    app.cancel_one().await;
    app.wait_for_state(&app.the_delivery().await, "held").await;
    let (status, tested) = app.test(subscription).await;
    assert_eq!((status, &tested["attempt"]["outcome"]), (200, &json!("delivered")));
    let standing = app.standing(subscription).await;
    assert_eq!((&standing["state"], &standing["heldCount"]), (&json!("disabled"), &json!(1)));
}

#[tokio::test]
async fn a_subscription_made_again_under_its_id_gets_nothing_of_the_old_one() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let id = app.subscribe(&receiver.url).await;
    receiver.reply([500]);
    app.cancel_one().await;
    let old = app.the_delivery().await;
    app.wait_for_attempts(&old, 1).await;
    app.unsubscribe(id).await;
    let body =
        json!({ "callbackUrl": receiver.url, "apiKey": "key-2", "eventTypes": ["RedirectSessionCancelled"] });
    let path = format!("/redirect-session-events/subscriptions/{id}");
    let (status, _) = app.ask(reqwest::Method::PUT, &path, Some(body)).await;
    assert_eq!(status, 201);
    let session = app.cancel_one().await;
    let call = receiver.wait_for(2).await.remove(1);
    assert_eq!((call.session(), call.header("x-api-key")), (session, "key-2"));
    app.wait_for_state(&old, "cancelled").await;
    let query = format!("subscription=redirect/{id}");
    let states: Vec<Value> =
        app.deliveries_that(&query).await.iter().map(|delivery| delivery["state"].clone()).collect();
    assert_eq!(states.len(), 2, "the history under the id is whole: {states:?}");
}

#[tokio::test]
async fn rule_21_days_of_nothing_but_failures_disable_and_the_owner_resumes() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let patient = RawConfig {
        disable_after_days: Some("2".to_owned()),
        retry_delays_s: Some("10,10,10,10,10,10".to_owned()),
        ..settings()
    };
    let app = App::start(&database, patient).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.always(Reply::Status(500));
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    database.advance(TimeDelta::days(1)).await;
    app.wait_for_attempts(&id, 2).await;
    assert_eq!(app.standing(subscription).await["state"], "active", "a day is not two");
    database.advance(TimeDelta::days(1)).await;
    // Since when it fails is read once a second, so the first attempt after the two days may still be judged by the day before.
    let mut attempts = 3;
    let held = loop {
        let delivery = app.wait_for_attempts(&id, attempts).await;
        if delivery["state"] == "held" {
            break delivery;
        }
        assert!(attempts < 6, "{delivery}");
        attempts += 1;
        database.advance(TimeDelta::seconds(13)).await;
    };
    assert!(of_attempts(&held, "status").iter().all(|status| status == 500));
    let standing = app.standing(subscription).await;
    assert_eq!(standing["state"], "disabled");
    assert!(text(&standing["reason"]).contains("2 days"), "{standing}");

    receiver.always(Reply::Status(204));
    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    app.wait_for_state(&id, "delivered").await;
}

#[tokio::test]
async fn rule_21_who_succeeds_once_has_not_failed_for_days() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let patient = RawConfig { disable_after_days: Some("2".to_owned()), ..settings() };
    let app = App::start(&database, patient).await;
    let subscription = app.subscribe(&receiver.url).await;
    let (well, ill) = (gate(), gate());
    receiver.reply([Reply::Status(500), Reply::Gate(well.clone(), 204), Reply::Gate(ill.clone(), 500)]);
    app.cancel_one().await;
    let first = app.the_delivery().await;
    app.wait_for_attempts(&first, 1).await;
    database.advance(TimeDelta::days(3)).await;
    receiver.wait_for(2).await;
    // What is known of a subscription is a second old at most: the next post goes out to one that has failed for days.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    app.cancel_one().await;
    let second = receiver.wait_for(3).await[2].header("webhook-id").to_owned();
    well.add_permits(1);
    app.wait_for_state(&first, "delivered").await;
    ill.add_permits(1);
    let delivery = app.wait_for_state(&second, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [500, 204]);
    assert_eq!(app.standing(subscription).await["state"], "active");
}

#[tokio::test]
async fn rule_22_a_410_and_a_resume_give_no_delivery_a_longer_schedule() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([500, 410, 500]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    database.advance(TimeDelta::seconds(13)).await;
    app.wait_for_state(&id, "held").await;
    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    let delivery = app.wait_for_state(&id, "dead").await;
    assert_eq!(of_attempts(&delivery, "status"), [500, 410, 500], "two retries and no more");
}
