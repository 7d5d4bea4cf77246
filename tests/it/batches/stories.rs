//! What becomes of a batch.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use herald::config::RawConfig;
use reqwest::Method;
use serde_json::json;

use super::subscriber::{Subscriber, numbers, subscribe, told};
use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::of_attempts;
use crate::support::receiver::{Call, Receiver, Reply, gate};

/// A batch that is not full lingers for so long that only what is full leaves before the test wants it.
fn patient() -> RawConfig {
    RawConfig { batch_linger_ms: Some("60000".to_owned()), ..settings() }
}

/// One post at a time to each callback.
fn one_at_a_time() -> RawConfig {
    RawConfig { callback_in_flight_max: Some("1".to_owned()), ..settings() }
}

struct Stage {
    database: TestDatabase,
    receiver: Receiver,
    app: App,
    subscriber: Subscriber,
}

async fn stage(settings: RawConfig, batch_size: i32) -> Stage {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, batch_size).await;
    Stage { database, receiver, app, subscriber }
}

impl Stage {
    /// Publishes this many events without a key, numbered from 0, and returns their deliveries.
    async fn publish(&self, count: usize) -> Vec<String> {
        let events = self.app.operator().publish(&self.subscriber.events(None, 0..count)).await;
        let mut deliveries = Vec::new();
        for event in &events {
            deliveries.push(self.app.delivery_of(event).await);
        }
        deliveries
    }

    async fn wait_for_state(&self, deliveries: &[String], state: &str) {
        for delivery in deliveries {
            self.app.wait_for_state(delivery, state).await;
        }
    }

    /// As a partner or Herald would change it.
    async fn turn(&self, state: &str) {
        let turned = sqlx::query("update subscriptions set state = $2, version = version + 1 where id = $1")
            .bind(self.subscriber.id.0)
            .bind(state)
            .execute(&self.database.pool)
            .await
            .unwrap();
        assert_eq!(turned.rows_affected(), 1);
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what).fetch_one(&self.database.pool).await.unwrap()
    }
}

fn ids(calls: &[Call]) -> Vec<String> {
    calls.iter().map(|call| call.header("webhook-id").to_owned()).collect()
}

#[tokio::test]
async fn full_batches_leave_at_once_and_the_rest_lingers() {
    let stage = stage(patient(), 4).await;
    stage.publish(10).await;
    let mut calls = numbers(&stage.receiver.wait_for(2).await);
    calls.sort_unstable();
    assert_eq!(calls, [[0, 1, 2, 3], [4, 5, 6, 7]], "oldest first");
    assert_eq!(stage.count("select count(*) from queue where batch_id is null").await, 2);
    stage.app.operator().publish(&stage.subscriber.events(None, 10..11)).await;
    stage.database.advance(TimeDelta::seconds(61)).await;
    assert_eq!(numbers(&stage.receiver.wait_for(3).await[2..]), [[8, 9, 10]]);
    let ids: BTreeSet<String> = ids(&stage.receiver.calls()).into_iter().collect();
    assert_eq!(ids.len(), 3, "each has an id of its own");
}

#[tokio::test]
async fn a_batch_that_is_not_full_leaves_within_its_linger() {
    let stage = stage(settings(), 200).await;
    let deliveries = stage.publish(3).await;
    assert_eq!(numbers(&stage.receiver.wait_for(1).await), [[0, 1, 2]]);
    stage.wait_for_state(&deliveries, "delivered").await;
    for delivery in &deliveries {
        assert_eq!(of_attempts(&stage.app.delivery(delivery).await, "status"), [204], "each has its outcome");
    }
}

#[tokio::test]
async fn a_failed_batch_is_sent_again_whole_under_its_own_id() {
    let stage = stage(patient(), 3).await;
    stage.receiver.reply([500, 503]);
    let deliveries = stage.publish(3).await;
    for delivery in &deliveries {
        stage.app.wait_for_attempts(delivery, 1).await;
    }
    // What comes later goes its own way.
    stage.app.operator().publish(&stage.subscriber.events(None, 3..5)).await;
    for seconds in [13, 125] {
        stage.database.advance(TimeDelta::seconds(seconds)).await;
        let wanted = stage.receiver.calls().len() + 1;
        stage
            .receiver
            .wait_until("the next try", |calls| {
                calls.iter().filter(|call| told(call).len() == 3).count() >= wanted.min(3)
            })
            .await;
        for delivery in &deliveries {
            let attempts = if seconds == 13 { 2 } else { 3 };
            stage.app.wait_for_attempts(delivery, attempts).await;
        }
    }
    let tries: Vec<Call> = stage.receiver.calls().into_iter().filter(|call| told(call).len() == 3).collect();
    assert_eq!(numbers(&tries), [[0, 1, 2], [0, 1, 2], [0, 1, 2]]);
    assert!(tries.iter().all(|call| call.body == tries[0].body), "the same bytes");
    assert!(ids(&tries).iter().all(|id| *id == ids(&tries)[0]), "the same id");
    for delivery in &deliveries {
        let delivery = stage.app.wait_for_state(delivery, "delivered").await;
        assert_eq!(of_attempts(&delivery, "status"), [500, 503, 204]);
        assert_ne!(delivery["id"], ids(&tries)[0].as_str());
    }
}

#[tokio::test]
async fn a_batch_whose_retries_are_used_up_is_dead_and_each_event_is_sent_again_alone() {
    let stage = stage(RawConfig { retry_delays_s: Some("10".to_owned()), ..settings() }, 2).await;
    stage.receiver.reply([500, 500]);
    let deliveries = stage.publish(2).await;
    stage.app.wait_for_attempts(&deliveries[0], 1).await;
    stage.database.advance(TimeDelta::seconds(13)).await;
    stage.wait_for_state(&deliveries, "dead").await;
    let (status, _) = stage.app.redeliver(&deliveries[1]).await;
    assert_eq!(status, 202);
    let calls = stage.receiver.wait_for(3).await;
    assert_eq!(numbers(&calls), [vec![0, 1], vec![0, 1], vec![1]]);
    assert_eq!(calls[2].header("webhook-id"), deliveries[1]);
    stage.app.wait_for_state(&deliveries[1], "delivered").await;
    stage.app.wait_for_state(&deliveries[0], "dead").await;
}

#[tokio::test]
async fn hastening_one_of_a_batch_hastens_all_of_it() {
    let stage = stage(settings(), 3).await;
    stage.receiver.reply([500]);
    let deliveries = stage.publish(3).await;
    for delivery in &deliveries {
        stage.app.wait_for_attempts(delivery, 1).await;
    }
    stage.app.redeliver(&deliveries[2]).await;
    let calls = stage.receiver.wait_for(2).await;
    assert_eq!(numbers(&calls), [[0, 1, 2], [0, 1, 2]]);
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    stage.wait_for_state(&deliveries, "delivered").await;
}

#[tokio::test]
async fn a_batch_that_waits_while_its_subscription_is_paused_stays_a_batch() {
    let stage = stage(settings(), 3).await;
    stage.receiver.reply([500]);
    let deliveries = stage.publish(3).await;
    for delivery in &deliveries {
        stage.app.wait_for_attempts(delivery, 1).await;
    }
    stage.turn("paused").await;
    stage.database.advance(TimeDelta::seconds(13)).await;
    stage.wait_for_state(&deliveries, "held").await;
    let later = stage.app.operator().publish(&stage.subscriber.events(None, 3..5)).await;
    for event in &later {
        stage.app.wait_for_state(&stage.app.delivery_of(event).await, "held").await;
    }
    let standing = stage.app.get("/herald/v1/subscriptions/notifications/order.paid").await;
    assert_eq!(standing["heldCount"], 5);
    assert_eq!(stage.receiver.calls().len(), 1);
    stage.turn("active").await;
    let calls = stage.receiver.wait_for(3).await;
    let mut sent = numbers(&calls[1..]);
    sent.sort_unstable();
    assert_eq!(sent, [vec![0, 1, 2], vec![3, 4]]);
    let again = calls[1..].iter().find(|call| told(call).len() == 3).unwrap();
    assert_eq!(again.header("webhook-id"), calls[0].header("webhook-id"));
    stage.wait_for_state(&deliveries, "delivered").await;
}

#[tokio::test]
async fn a_410_disables_and_holds_the_batch_that_it_answered() {
    let stage = stage(settings(), 3).await;
    stage.receiver.reply([410]);
    let deliveries = stage.publish(3).await;
    stage.wait_for_state(&deliveries, "held").await;
    let standing = stage.app.get("/herald/v1/subscriptions/notifications/order.paid").await;
    assert_eq!((&standing["state"], &standing["heldCount"]), (&json!("disabled"), &json!(3)));
    stage.turn("active").await;
    let calls = stage.receiver.wait_for(2).await;
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    assert_eq!(calls[0].body, calls[1].body);
}

#[tokio::test]
async fn deleting_cancels_what_is_gathered_and_what_is_not() {
    let stage = stage(patient(), 3).await;
    stage.receiver.reply([500]);
    let deliveries = stage.publish(5).await;
    for delivery in &deliveries[..3] {
        stage.app.wait_for_attempts(delivery, 1).await;
    }
    stage.turn("deleted").await;
    stage.wait_for_state(&deliveries, "cancelled").await;
    assert_eq!(stage.receiver.calls().len(), 1);
}

#[tokio::test]
async fn what_a_dead_node_was_sending_comes_again_as_the_same_batch_and_counts_a_crash() {
    let stage = stage(one_at_a_time(), 3).await;
    let gate = gate();
    stage.receiver.reply([Reply::Gate(gate, 204)]);
    let deliveries = stage.publish(3).await;
    stage.receiver.wait_for(1).await;
    stage.app.kill();
    let app = App::start(&stage.database, settings()).await;
    stage.database.advance(TimeDelta::seconds(31)).await;
    let calls = stage.receiver.wait_for(2).await;
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    assert_eq!(calls[0].body, calls[1].body);
    for delivery in &deliveries {
        app.wait_for_state(delivery, "delivered").await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes_as_well() {
    let stage = stage(settings(), 200).await;
    let big = "x".repeat(250 * 1024);
    let events: Vec<_> = (0..40)
        .map(|number| {
            let mut event = stage.subscriber.event(None, number);
            event["data"]["filling"] = json!(big);
            event
        })
        .collect();
    stage.app.operator().publish(&events).await;
    let all = |calls: &[Call]| calls.iter().map(|call| told(call).len()).sum::<usize>() >= 40;
    let calls = stage.receiver.wait_until("all of them", all).await;
    assert!(calls.iter().all(|call| call.body.len() < 5 * 1024 * 1024), "{:?}", numbers(&calls));
    assert_eq!(calls.iter().map(|call| told(call).len()).sum::<usize>(), 40);
    assert!(calls.len() >= 3);
}

#[tokio::test]
async fn changing_the_size_changes_what_is_gathered_from_then_on() {
    let stage = stage(patient(), 4).await;
    stage.publish(3).await;
    let resize = async |size: i32| {
        sqlx::query("update callbacks set batch_size = $1")
            .bind(size)
            .execute(&stage.database.pool)
            .await
            .unwrap()
    };
    resize(1).await;
    stage.app.operator().publish(&stage.subscriber.events(None, 3..4)).await;
    let mut calls = numbers(&stage.receiver.wait_for(4).await);
    calls.sort_unstable();
    assert_eq!(calls, [[0], [1], [2], [3]]);
    assert_eq!(stage.count("select count(*) from callbacks where batch_size = 1").await, 1);
}

#[tokio::test]
async fn after_three_failures_the_backup_url_is_tried_and_its_operator_sees_that() {
    let stage = stage(RawConfig { retry_delays_s: Some("10,10,10,10".to_owned()), ..settings() }, 3).await;
    let backup = Receiver::start().await;
    sqlx::query("update callbacks set backup_url = $1, credentials = null")
        .bind(&backup.url)
        .execute(&stage.database.pool)
        .await
        .unwrap();
    stage.receiver.always(500);
    backup.reply([503, 204]);
    let deliveries = stage.publish(3).await;
    for attempts in 1..=4 {
        for delivery in &deliveries {
            stage.app.wait_for_attempts(delivery, attempts).await;
        }
        stage.database.advance(TimeDelta::seconds(13)).await;
    }
    stage.wait_for_state(&deliveries, "delivered").await;
    let (at_first, at_backup) = (stage.receiver.calls(), backup.calls());
    assert_eq!((at_first.len(), at_backup.len()), (3, 2));
    assert_eq!(at_backup[0].header("webhook-id"), at_first[0].header("webhook-id"));
    assert_eq!(at_backup[1].body, at_first[0].body);
    let details: Vec<Option<String>> =
        sqlx::query_scalar("select detail from attempts where delivery_id = $1::uuid order by id")
            .bind(&deliveries[0])
            .fetch_all(&stage.database.pool)
            .await
            .unwrap();
    let backup = Some("sent to the backup URL".to_owned());
    assert_eq!(details, [None, None, None, backup.clone(), backup]);
}

/// A callback that is gone opens no breaker while there is a backup: its deliveries are counted on their way there one by one.
#[tokio::test]
async fn a_dead_callback_with_a_backup_url_gets_everything_there() {
    let stage = stage(RawConfig { retry_delays_s: Some("10,10,10".to_owned()), ..settings() }, 1).await;
    let backup = Receiver::start().await;
    sqlx::query("update callbacks set backup_url = $1")
        .bind(&backup.url)
        .execute(&stage.database.pool)
        .await
        .unwrap();
    stage.receiver.always(500);
    let deliveries = stage.publish(30).await;
    for attempts in 1..=3 {
        for delivery in &deliveries {
            stage.app.wait_for_attempts(delivery, attempts).await;
        }
        stage.database.advance(TimeDelta::seconds(13)).await;
    }
    stage.wait_for_state(&deliveries, "delivered").await;
    assert_eq!((stage.receiver.calls().len(), backup.calls().len()), (90, 30));
}

/// At the rate that they were put off by, the last of them would come long after anybody waits here.
#[tokio::test]
async fn batches_that_a_rate_has_put_off_move_up_whole_when_it_is_raised_or_taken_away() {
    const LOOSE: usize = 3_000;
    const IN_LINE: usize = 30;
    let stage = stage(settings(), 10).await;
    let policy = format!("/herald/v1/subscriptions/notifications/{}", stage.subscriber.event_type);
    let set_rate = async |rate: Option<u32>| {
        let (status, set) = stage.app.ask(Method::PATCH, &policy, Some(json!({ "ratePerS": rate }))).await;
        assert_eq!(status, 200, "{set}");
    };
    set_rate(Some(1)).await;
    let operator = stage.app.operator();
    // Of these some wait behind others of their own batch.
    operator.publish(&stage.subscriber.events(Some("k"), 0..IN_LINE)).await;
    operator.publish(&stage.subscriber.events(None, IN_LINE..IN_LINE + LOOSE)).await;
    let put_off = "select count(distinct batch_id) from queue where due_at > herald_now() + interval '60 s' and lease_owner is null";
    while sqlx::query_scalar::<_, i64>(put_off).fetch_one(&stage.database.pool).await.unwrap() < 200 {
        stage.receiver.wait_for(stage.receiver.calls().len() + 1).await;
    }
    let formed = "select array_agg(delivery_id::text order by delivery_id) from queue where batch_id is not null group by batch_id";
    let formed: Vec<Vec<String>> = sqlx::query_scalar(formed).fetch_all(&stage.database.pool).await.unwrap();
    assert!(formed.iter().all(|batch| batch.len() == 10));

    set_rate(Some(20)).await;
    stage.receiver.wait_for(60).await;
    set_rate(None).await;
    let told_all = |calls: &[Call]| numbers(calls).concat().into_iter().collect::<BTreeSet<_>>().len();
    let calls = stage.receiver.wait_until("all", |calls| told_all(calls) == IN_LINE + LOOSE).await;
    assert_eq!(calls.len(), (IN_LINE + LOOSE) / 10, "each once, in the batch that it was put into");
    let in_line = told(&calls.iter().find(|call| told(call)[0].key == "k").unwrap().clone());
    assert_eq!(in_line.iter().map(|event| event.number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}
