//! Ordering keys within batches and across them.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use herald::config::RawConfig;
use herald::store::queue::{self, Walked};

use super::subscriber::{numbers, subscribe, told};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::PATIENCE;
use crate::support::receiver::{Call, Receiver};
use crate::support::sweeps;

fn keys_of(call: &Call) -> Vec<String> {
    told(call).iter().map(|event| format!("{}{}", event.key, event.number)).collect()
}

#[tokio::test]
async fn a_failing_batch_holds_the_keys_that_are_in_it_and_no_others() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let patient = RawConfig { batch_linger_ms: Some("60000".to_owned()), ..settings() };
    let app = App::start(&database, patient).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 4).await;
    let event = |name: &str| {
        let (key, number) = name.split_at(1);
        subscriber.event(Some(key).filter(|key| *key != "-"), number.parse().unwrap())
    };
    let publish = async |names: &[&str]| {
        app.operator().publish(&names.iter().map(|name| event(name)).collect::<Vec<_>>()).await
    };
    receiver.reply([500]);
    let first = publish(&["a1", "b1", "a2", "-1"]).await;
    assert_eq!(keys_of(&receiver.wait_for(1).await[0]), ["a1", "b1", "a2", "1"]);
    for event in &first {
        app.wait_for_attempts(&app.delivery_of(event).await, 1).await;
    }
    publish(&["a3", "c1", "b2", "c2", "-2", "a4", "c3", "d1"]).await;
    let calls = receiver.wait_for(2).await;
    assert_eq!(keys_of(&calls[1]), ["c1", "c2", "2", "c3"], "other keys, and what has none, flow on");
    let waiting: i64 = sqlx::query_scalar("select count(*) from queue where waits and batch_id is null")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(waiting, 3, "a3, a4 and b2 wait for the batch");

    database.advance(TimeDelta::seconds(13)).await;
    let calls = receiver.wait_for(3).await;
    assert_eq!(calls[2].body, calls[0].body);
    // d1 has waited for others to fill its batch, and has them now.
    let calls = receiver.wait_for(4).await;
    assert_eq!(keys_of(&calls[3]), ["a3", "b2", "a4", "d1"]);
    app.stop().await;
}

#[tokio::test]
async fn one_key_alone_fills_batches_in_its_order() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 10).await;
    app.operator().publish(&subscriber.events(Some("a"), 0..95)).await;
    let all = |calls: &[Call]| numbers(calls).iter().map(Vec::len).sum::<usize>() >= 95;
    let calls = receiver.wait_until("all of them", all).await;
    assert_eq!(numbers(&calls).concat(), (0..95).collect::<Vec<u64>>());
    assert_eq!(calls.len(), 10, "full but for the last");
    app.stop().await;
}

/// A node that has not heard of a pause yet may gather what was published before, and nothing else.
#[tokio::test]
async fn what_got_in_line_after_a_pause_is_not_gathered_with_those_before_it() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let patient = RawConfig { batch_linger_ms: Some("60000".to_owned()), ..settings() };
    let app = App::start(&database, patient).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 2).await;
    let before = app.operator().publish(&subscriber.events(Some("a"), 0..1)).await;
    let set_state = async |state: &str| {
        let change = "update subscriptions set state = $1, version = version + 1";
        sqlx::query(change).bind(state).execute(&database.pool).await.unwrap();
    };
    set_state("paused").await;
    // Together they would be full.
    let after = app.operator().publish(&subscriber.events(Some("a"), 1..3)).await;
    database.advance(TimeDelta::seconds(61)).await;
    let is_gathered = "select not exists (select from queue where event_id = $1::uuid and batch_id is null)";
    let is_gathered = async |event: &str| {
        sqlx::query_scalar::<_, bool>(is_gathered).bind(event).fetch_one(&database.pool).await.unwrap()
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_gathered(&before[0]).await {
        assert!(Instant::now() < deadline, "what was published before is not gathered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for event in &after {
        assert!(!is_gathered(event).await);
        app.wait_for_state(&app.delivery_of(event).await, "held").await;
    }
    set_state("active").await;
    let mut connection = database.pool.acquire().await.unwrap();
    sweeps::resume(&mut connection, 10).await;
    let calls = receiver.wait_until("all of them", |calls| numbers(calls).concat().len() == 3).await;
    assert_eq!(numbers(&calls), [vec![0], vec![1, 2]]);
    app.stop().await;
}

#[tokio::test]
async fn what_expires_is_left_out_of_its_batch_and_the_next_of_its_key_stays_in() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 3).await;
    receiver.reply([500]);
    let events = app.operator().publish(&subscriber.events(Some("a"), 0..4)).await;
    let first = app.delivery_of(&events[0]).await;
    app.wait_for_attempts(&first, 1).await;
    app.stop().await;
    let old = "update queue set event_id = herald_uuid7_beside(herald_uuid7_floor(herald_now() - interval '40 days'))
               where delivery_id = $1::uuid";
    sqlx::query(old).bind(&first).execute(&database.pool).await.unwrap();
    let mut connection = database.pool.acquire().await.unwrap();
    let (expired, _) = queue::expire(&mut connection, 30, Walked::default(), 100).await.unwrap().unwrap();
    assert_eq!(expired, 1);
    drop(connection);
    database.advance(TimeDelta::seconds(13)).await;
    let app = App::start(&database, settings()).await;
    let calls = receiver.wait_for(3).await;
    assert_eq!(numbers(&calls), [vec![0, 1, 2], vec![1, 2], vec![3]]);
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    app.stop().await;
}
