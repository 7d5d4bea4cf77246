//! Events that match very many subscriptions: settled at the commit, queued in chunks, and none lost in between.

use std::collections::HashSet;

use herald::store::fanouts;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::nodes::wait_until_none_is;
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::desk::Desk;
use crate::support::receiver::Receiver;

const TYPE: &str = "price.changed";

/// Makes subscriptions of a partner to [`TYPE`], all with one callback.
async fn subscribe_many(db: &mut PgConnection, partner: Uuid, url: &str, count: i64) {
    sqlx::query(
        "with callback as (
             insert into callbacks (id, partner_id, surface, url) values (gen_random_uuid(), $1, 'redirect', $2) returning id),
         made as (
             insert into subscriptions (id, partner_id, surface, external_key, callback_id)
             select gen_random_uuid(), $1, 'redirect', gen_random_uuid(), callback.id from callback, generate_series(1, $3)
             returning id)
         insert into subscription_event_types (partner_id, subscription_id, surface, event_type)
         select $1, id, 'redirect', $4 from made",
    )
    .bind(partner)
    .bind(url)
    .bind(count)
    .bind(TYPE)
    .execute(db)
    .await
    .unwrap();
}

async fn count(db: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

fn an_event() -> Value {
    json!({ "type": TYPE, "data": {} })
}

#[tokio::test]
async fn a_large_fan_out_is_settled_at_its_commit_and_queued_a_chunk_at_a_time() {
    let (desk, receiver) = (Desk::open().await, Receiver::start().await);
    let (partner, key) = desk.partner("partner,producer").await;
    let db = &mut *desk.database.pool.acquire().await.unwrap();
    subscribe_many(db, partner.0, &receiver.url, 1_250).await;
    let answer = desk.operator(Method::POST, &key, "/events", Some(an_event())).await;
    assert_eq!((answer.status, &answer.body["matched"]), (202, &json!(1_250)));
    assert_eq!(count(db, "select count(*) from unfinished").await, 0);
    assert_eq!(count(db, "select count(*) from fanouts").await, 2);
    // Who comes later gets nothing of it, however long it takes.
    subscribe_many(db, partner.0, &receiver.url, 10).await;
    sqlx::raw_sql(
        "update subscriptions set state = 'paused' where id in (select subscriptions[1] from fanouts)",
    )
    .execute(&mut *db)
    .await
    .unwrap();

    // Whoever is killed in the middle of a chunk has done nothing.
    sqlx::raw_sql("begin").execute(&mut *db).await.unwrap();
    assert_eq!(fanouts::spread(db).await.unwrap().unwrap().1, 1_000);
    sqlx::raw_sql("rollback").execute(&mut *db).await.unwrap();
    assert_eq!(count(db, "select count(*) from unfinished").await, 0);
    for chunk in [1_000, 250] {
        let (event, deliveries) = fanouts::spread(db).await.unwrap().unwrap();
        assert_eq!((json!(event.0), deliveries), (answer.body["id"].clone(), chunk));
    }
    assert_eq!(fanouts::spread(db).await.unwrap(), None);
    assert_eq!(count(db, "select count(distinct subscription_id) from queue").await, 1_250);
    let spread = "select (extract(epoch from max(due_at) - min(due_at)) * 1e6)::bigint from queue where due_at < 'infinity'";
    // The first of each chunk is held.
    assert_eq!(count(db, spread).await, 1_248 * 50, "50 µs apart");
    assert_eq!(count(db, "select count(*) from queue where due_at = 'infinity'").await, 2);

    let app = App::start(&desk.database, settings()).await;
    receiver.wait_for(1_248).await;
    wait_until_none_is(&desk.database, "select count(*) from queue where due_at < 'infinity'").await;
    assert_eq!(receiver.calls().len(), 1_248);
    app.stop().await;
}

#[tokio::test]
async fn rule_18_a_fan_out_whose_node_dies_in_the_middle_reaches_everybody_from_another() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    let partner: Uuid = sqlx::query_scalar("select id from partners").fetch_one(&mut *db).await.unwrap();
    subscribe_many(db, partner, &receiver.url, 1_500).await;
    let (status, answer) = app.operator().ask(Method::POST, "/events", Some(an_event())).await;
    assert_eq!((status, &answer["matched"]), (202, &json!(1_500)));
    app.kill();

    let app = App::start(&database, settings()).await;
    let ids = |calls: &[crate::support::receiver::Call]| {
        calls.iter().map(|call| call.header("webhook-id").to_owned()).collect::<HashSet<_>>()
    };
    receiver.wait_until("everybody to be told", |calls| ids(calls).len() == 1_500).await;
    assert_eq!(count(db, "select count(*) from fanouts").await, 0);
    let deliveries = "select count(distinct delivery_id) from attempts";
    wait_until_none_is(&database, "select count(*) from unfinished").await;
    assert_eq!(count(db, deliveries).await, 1_500, "one delivery each, sent twice or not");
    app.stop().await;
}

#[tokio::test]
async fn with_an_ordering_key_or_few_matches_everything_is_queued_at_once() {
    let (desk, receiver) = (Desk::open().await, Receiver::start().await);
    let (partner, key) = desk.partner("partner,producer").await;
    let db = &mut *desk.database.pool.acquire().await.unwrap();
    subscribe_many(db, partner.0, &receiver.url, 1_000).await;
    let answer = desk.operator(Method::POST, &key, "/events", Some(an_event())).await;
    assert_eq!(answer.body["matched"], 1_000);
    subscribe_many(db, partner.0, &receiver.url, 1).await;
    let ordered = json!({ "type": TYPE, "data": {}, "orderingKey": "one" });
    let answer = desk.operator(Method::POST, &key, "/events", Some(ordered)).await;
    assert_eq!(answer.body["matched"], 1_001);
    assert_eq!(count(db, "select count(*) from fanouts").await, 0);
    assert_eq!(count(db, "select count(*) from unfinished").await, 2_001);
}
