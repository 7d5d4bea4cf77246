//! Callbacks that hang, are not there, or must not be called.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::app::{App, production, settings};
use crate::support::cluster;
use crate::support::partner::of_attempts;
use crate::support::receiver::{Receiver, Reply};

#[tokio::test]
async fn a_callback_that_stalls_is_given_up_at_its_subscriptions_timeout() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let (_, standing) = app.set_policy(subscription, json!({ "timeoutMs": 150 })).await;
    assert_eq!(standing["policy"]["timeoutMs"], 150);
    receiver.reply([Reply::Stall(Duration::from_secs(3600))]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    let delivery = app.wait_for_attempts(&id, 1).await;
    assert_eq!(delivery["state"], "pending");
    let attempt = &delivery["attempts"][0];
    assert_eq!((&attempt["outcome"], attempt.get("status")), (&json!("timedOut"), None));
    assert!(attempt["latencyMs"].as_i64().unwrap() >= 150);
    database.advance(TimeDelta::seconds(13)).await;
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "outcome"), ["timedOut", "delivered"]);
}

#[tokio::test]
async fn rule_06_a_partner_cannot_tell_a_blocked_callback_from_an_unreachable_one() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    app.subscribe(&Receiver::nobody().await).await;
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    app.stop().await;

    // In production this machine's own addresses are not called.
    let app = App::start(&database, production()).await;
    app.redeliver(&id).await;
    let delivery = app.wait_for_attempts(&id, 2).await;
    assert_eq!(of_attempts(&delivery, "outcome"), ["unreachable", "unreachable"]);
    let members = |attempt: &Value| attempt.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&delivery["attempts"][0]), members(&delivery["attempts"][1]));
    let inside: Vec<String> = sqlx::query_scalar("select outcome from attempts order by id")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(inside, ["unreachable", "blocked"], "the operator can");
}

#[tokio::test]
async fn rule_03_a_redirect_is_a_failure() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([302]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    let delivery = app.wait_for_attempts(&id, 1).await;
    assert_eq!((&delivery["state"], &delivery["attempts"][0]["status"]), (&json!("pending"), &json!(302)));
}
