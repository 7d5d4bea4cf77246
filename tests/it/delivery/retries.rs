//! What did not arrive is tried again, until it does or its schedule is used up.

use chrono::{DateTime, TimeDelta, Utc};
use herald::config::RawConfig;
use serde_json::{Value, json};

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{of_attempts, text};
use crate::support::receiver::{Receiver, Reply};

/// Beyond the first and the second delay of the schedule, jitter included.
const FIRST: TimeDelta = TimeDelta::seconds(13);
const SECOND: TimeDelta = TimeDelta::seconds(121);

/// How long after its last attempt a delivery is due, in seconds.
fn waits_s(delivery: &Value) -> f64 {
    let moment = |value: &Value| text(value).parse::<DateTime<Utc>>().unwrap();
    let last = of_attempts(delivery, "endedAt").pop().unwrap();
    (moment(&delivery["nextAttemptAt"]) - moment(&last)).as_seconds_f64()
}

#[tokio::test]
async fn rule_22_a_failure_is_tried_again_on_schedule_under_the_same_id() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([500, 404]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    let delivery = app.wait_for_attempts(&id, 1).await;
    assert_eq!(delivery["state"], "pending");
    assert!((7.9..13.0).contains(&waits_s(&delivery)), "{delivery}");
    database.advance(FIRST).await;
    let delivery = app.wait_for_attempts(&id, 2).await;
    assert!((79.9..121.0).contains(&waits_s(&delivery)), "{delivery}");
    assert_eq!(app.standing(subscription).await["health"]["consecutiveFailures"], 2);
    database.advance(SECOND).await;
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "number"), [1, 2, 3]);
    assert_eq!(of_attempts(&delivery, "outcome"), ["refused", "refused", "delivered"]);
    assert_eq!(of_attempts(&delivery, "status"), [500, 404, 204]);
    assert!(of_attempts(&delivery, "startedAt").is_sorted_by_key(text));
    assert_eq!(delivery["attemptCount"], 3);

    let calls = receiver.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.header("webhook-id") == id && call.body == calls[0].body));
    assert_eq!(app.standing(subscription).await["health"]["consecutiveFailures"], 0);
}

#[tokio::test]
async fn rule_22_a_used_up_schedule_ends_dead_and_redelivery_starts_a_fresh_one() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([500, 500, 500, 500, 204]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    for (attempts, after) in [(1, FIRST), (2, SECOND)] {
        app.wait_for_attempts(&id, attempts).await;
        database.advance(after).await;
    }
    let dead = app.wait_for_state(&id, "dead").await;
    assert_eq!(dead["attemptCount"], 3);
    assert_eq!(app.deliveries_that("state=dead").await.len(), 1);

    let (status, again) = app.redeliver(&id).await;
    assert_eq!((status, &again["id"], &again["state"]), (202, &json!(id), &json!("pending")));
    let delivery = app.wait_for_attempts(&id, 4).await;
    assert_eq!(delivery["state"], "pending", "a fresh budget");
    assert!((7.9..13.0).contains(&waits_s(&delivery)), "{delivery}");
    database.advance(FIRST).await;
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [500, 500, 500, 500, 204]);
    assert!(receiver.calls().iter().all(|call| call.header("webhook-id") == id));
    assert_eq!(app.deliveries_that("state=dead").await.len(), 0);

    assert_eq!(app.redeliver(&id).await.0, 202, "a delivered one, too");
    receiver.wait_for(6).await;
    let delivery = app.wait_for_attempts(&id, 6).await;
    assert_eq!(delivery["state"], "delivered");
}

#[tokio::test]
async fn redelivering_what_waits_makes_it_due_now() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([500]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    assert_eq!(app.redeliver(&id).await.0, 202);
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [500, 204]);
}

#[tokio::test]
async fn rule_07_retry_after_lengthens_the_wait_and_never_shortens_it() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    for (calls, status, asked, expected_s) in [
        (1, 503, "1000", 999.0..1001.5),
        (2, 429, "1", 7.9..13.0),
        (3, 500, "1000", 7.9..13.0),
        (4, 503, "soon", 7.9..13.0),
        (5, 503, "1e300", 7.9..13.0),
        (6, 504, "99999999999", 86_399.0..86_401.5),
    ] {
        // Each time another callback: one that asked for time is left alone.
        let subscription = app.subscribe(&receiver.url).await;
        receiver.reply([Reply::Later(status, asked.to_owned())]);
        app.cancel_one().await;
        let call = receiver.wait_for(calls).await.remove(calls - 1);
        let delivery = app.wait_for_attempts(call.header("webhook-id"), 1).await;
        assert!(expected_s.contains(&waits_s(&delivery)), "{status} with {asked}: {delivery}");
        app.unsubscribe(subscription).await;
    }
}

#[tokio::test]
async fn rule_07_a_retry_after_that_is_a_date_counts_from_the_answers_own() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    for (calls, asked, date, expected_s) in [
        (1, "Sun, 06 Nov 1994 09:06:17 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", 999.0..1001.5),
        (2, "Sat, 01 Jan 2050 00:00:05 GMT", "Sat, 01 Jan 2050 00:00:00 GMT", 7.9..13.0),
        (3, "Sat, 01 Jan 2050 00:00:05 GMT", "this morning", 86_399.0..86_401.5),
        (4, "Sat, 01 Jan 2050 00:00:05 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", 86_399.0..86_401.5),
    ] {
        let subscription = app.subscribe(&receiver.url).await;
        receiver.reply([Reply::Dated(503, asked, date)]);
        app.cancel_one().await;
        let call = receiver.wait_for(calls).await.remove(calls - 1);
        let delivery = app.wait_for_attempts(call.header("webhook-id"), 1).await;
        assert!(expected_s.contains(&waits_s(&delivery)), "{asked} at {date}: {delivery}");
        app.unsubscribe(subscription).await;
    }
}

#[tokio::test]
async fn a_policy_of_its_own_takes_effect_and_null_is_the_default_again() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([500, 500, 500]);

    let (status, standing) = app.set_policy(subscription, json!({ "retryDelaysS": [1000] })).await;
    assert_eq!((status, &standing["policy"]["retryDelaysS"]), (200, &json!([1000])));
    app.cancel_one().await;
    let first = app.the_delivery().await;
    let delivery = app.wait_for_attempts(&first, 1).await;
    assert!((799.0..1201.0).contains(&waits_s(&delivery)), "{delivery}");

    assert_eq!(app.set_policy(subscription, json!({ "retryDelaysS": [] })).await.0, 200);
    app.redeliver(&first).await;
    app.wait_for_state(&first, "dead").await;

    let (_, standing) = app.set_policy(subscription, json!({ "retryDelaysS": null })).await;
    assert_eq!(standing["policy"]["retryDelaysS"], json!([10, 100]));
    app.cancel_one().await;
    let call = receiver.wait_for(3).await.remove(2);
    let delivery = app.wait_for_attempts(call.header("webhook-id"), 1).await;
    assert!((7.9..13.0).contains(&waits_s(&delivery)), "{delivery}");
}

#[tokio::test]
async fn a_policy_beyond_the_operators_limits_is_refused_by_the_fields_name() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let before = app.standing(subscription).await;
    for (policy, field) in [
        (json!({ "timeoutMs": 15_001 }), "timeoutMs"),
        (json!({ "timeoutMs": 0 }), "timeoutMs"),
        (json!({ "retryDelaysS": [0] }), "retryDelaysS"),
        (json!({ "retryDelaysS": [604_801] }), "retryDelaysS"),
        (json!({ "retryDelaysS": vec![1; 51] }), "retryDelaysS"),
        (json!({ "ratePerS": 0 }), "ratePerS"),
    ] {
        let (status, problem) = app.set_policy(subscription, policy.clone()).await;
        assert_eq!(status, 400, "{policy}");
        assert_eq!(problem["errors"][0]["field"], field, "{policy}: {problem}");
    }
    assert_eq!(app.standing(subscription).await, before);
}

#[tokio::test]
async fn a_schedule_of_a_partners_own_keeps_to_what_the_operator_allows() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let bounded = RawConfig {
        retries_max: Some("2".to_owned()),
        retry_delay_max_s: Some("60".to_owned()),
        ..settings()
    };
    let app = App::start(&database, bounded).await;
    let subscription = app.subscribe(&receiver.url).await;
    assert_eq!(app.set_policy(subscription, json!({ "retryDelaysS": [1, 60] })).await.0, 200);
    for beyond in [json!([1, 1, 1]), json!([61])] {
        let (status, problem) = app.set_policy(subscription, json!({ "retryDelaysS": beyond })).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("retryDelaysS")));
    }
}
