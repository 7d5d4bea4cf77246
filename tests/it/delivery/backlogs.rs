//! Much that is due for one callback: left alone while it takes nothing, sent as fast as it takes it, and never in the way of others.

use herald::domain::id::{NodeId, SubscriptionId};
use herald::store::queue::{self, Reach, Share};
use reqwest::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::nodes::wait_until_none_is;
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::receiver::{Call, Receiver, Reply, gate};

/// Publishes this many events of the type that [`crate::support::partner::Partner::subscribe`] asks for.
pub async fn publish(app: &App, count: usize) {
    let lines = r#"{"type":"RedirectSessionCancelled","data":{}}
"#
    .repeat(count);
    let request =
        app.operator().request(Method::POST, "/events").header("content-type", "application/x-ndjson");
    let answer = request.body(lines).send().await.unwrap();
    assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
}

fn distinct(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.header("webhook-id")).collect::<std::collections::HashSet<_>>().len()
}

#[tokio::test]
async fn rule_20_a_dead_callbacks_backlog_is_left_alone_and_drained_when_it_recovers() {
    const BACKLOG: usize = 1_000;
    const FURTHER: usize = 50;
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.always(Reply::Status(500));
    publish(&app, BACKLOG).await;
    wait_until_none_is(&database, "select count(*) from unfinished where lease_owner is not null").await;
    let before = receiver.calls().len();
    assert!((10..20).contains(&before), "the breaker is open: {before} calls");
    let epochs = "select sum(lease_epoch) from unfinished where attempts = 0";
    let owners: i64 = sqlx::query_scalar(epochs).fetch_one(&database.pool).await.unwrap();

    // Ten fail before the breaker opens, then each of these is the one probe of a spell.
    receiver.wait_for(before + 1).await;
    wait_until_none_is(&database, "select count(*) from unfinished where lease_owner is not null").await;
    let calls = receiver.calls();
    assert_eq!(calls.len(), before + 1, "one probe");
    let owners_after: i64 = sqlx::query_scalar(epochs).fetch_one(&database.pool).await.unwrap();
    assert!(owners_after <= owners, "what waits changed hands: {owners} before, {owners_after} after");

    // What comes now stands behind all that. Nobody is given it only to give it back.
    publish(&app, FURTHER).await;
    let untouched = "select count(*) from unfinished where lease_epoch = 0";
    let untouched: i64 = sqlx::query_scalar(untouched).fetch_one(&database.pool).await.unwrap();
    assert_eq!(untouched, FURTHER as i64);

    receiver.always(Reply::Status(204));
    let all = BACKLOG + FURTHER;
    let calls = receiver.wait_until("the backlog to arrive", |calls| distinct(calls) == all).await;
    // Those that failed wait for their retry; it is their only second call.
    assert!(calls.len() <= all + before + 1, "{} calls", calls.len());
}

#[tokio::test]
async fn rule_20_a_hanging_callbacks_backlog_delays_no_retry_test_or_overflow_of_another() {
    const BACKLOG: usize = 1_000;
    let (database, hanging, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let hang = app.subscribe(&hanging.url).await;
    hanging.always(Reply::Gate(gate(), 204));
    publish(&app, BACKLOG).await;
    hanging.wait_for(4).await;
    let subscription = app.subscribe(&healthy.url).await;
    app.unsubscribe(hang).await;
    let hang = app.subscribe(&hanging.url).await;
    publish(&app, BACKLOG).await;
    healthy.wait_for(BACKLOG).await;
    assert_eq!(distinct(&healthy.calls()), BACKLOG);
    assert_eq!(app.test(subscription).await.0, 200);
    assert!(hanging.calls().len() < 20, "four at a time: {}", hanging.calls().len());
    // Its own test is not behind its backlog either, only behind what hangs.
    hanging.always(Reply::Status(204));
    let (status, tested) = app.test(hang).await;
    assert_eq!((status, &tested["attempt"]["outcome"]), (200, &Value::from("delivered")));
}

/// Fills the queue with rows of two subscriptions, due a millisecond apart since an hour ago, and stored in no order.
async fn fill(db: &mut PgConnection, rows: i64) -> [SubscriptionId; 2] {
    let subscriptions = [SubscriptionId::new(), SubscriptionId::new()];
    sqlx::query(
        "insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
         select $1, gen_random_uuid(), gen_random_uuid(), case when n % 2 = 0 then $2 else $3 end,
                herald_now() - interval '1 hour' + n * interval '1 millisecond'
         from generate_series(1, $4) as n order by random()",
    )
    .bind(Uuid::new_v4())
    .bind(subscriptions[0].0)
    .bind(subscriptions[1].0)
    .bind(rows)
    .execute(&mut *db)
    .await
    .unwrap();
    sqlx::raw_sql("analyze queue").execute(db).await.unwrap();
    subscriptions
}

/// Pages that a claim of 100 rows reads, from shared memory or elsewhere. It is undone.
async fn pages_read(db: &mut PgConnection, reach: Reach<'_>) -> i64 {
    sqlx::raw_sql("begin").execute(&mut *db).await.unwrap();
    let sql = concat!(
        "explain (analyze, buffers, format json) ",
        include_str!("../../../src/store/queries/queue/claim.sql")
    );
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(Uuid::new_v4())
        .bind(100_i64)
        .bind(30_000_f64)
        .bind(reach.due_from)
        .bind(reach.set_aside.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(reach.room)
        .bind(queue::BYTES_PER_ROOM)
        .fetch_one(&mut *db)
        .await
        .unwrap();
    sqlx::raw_sql("rollback").execute(db).await.unwrap();
    let read = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
    read("Shared Hit Blocks") + read("Shared Read Blocks")
}

#[tokio::test]
async fn rule_25_a_pinned_snapshot_makes_no_claim_wade_through_what_was_claimed_before() {
    let database = cluster::database().await;
    let db = &mut *database.pool.acquire().await.unwrap();
    fill(db, 20_000).await;
    let mut reader = database.pool.acquire().await.unwrap();
    let pin = "begin isolation level repeatable read; select count(*) from partners";
    sqlx::raw_sql(pin).execute(&mut *reader).await.unwrap();

    let (node, mut last) = (NodeId::new(), None);
    for _ in 0..19 {
        let reach = Reach { due_from: last, set_aside: &[], room: None };
        let rows = queue::claim_within(db, node, 1_000, 30_000, reach).await.unwrap();
        assert_eq!(rows.len(), 1_000);
        last = rows.last().map(|row| row.was_due_at);
    }
    sqlx::query("delete from queue where lease_owner = $1").bind(node.0).execute(&mut *db).await.unwrap();
    sqlx::raw_sql("vacuum queue").execute(&mut *db).await.unwrap();
    let from_mark = pages_read(db, Reach { due_from: last, set_aside: &[], room: None }).await;
    let from_the_start = pages_read(db, Reach::default()).await;
    assert!(from_the_start > from_mark + 10_000, "nothing is in the way: {from_the_start}, {from_mark}");
    let rows =
        queue::claim_within(db, node, 1_000, 30_000, Reach { due_from: last, set_aside: &[], room: None })
            .await;
    assert_eq!(rows.unwrap().len(), 1_000, "and nothing is left out");
}

#[tokio::test]
async fn what_is_set_aside_is_left_to_draws_which_take_the_oldest_of_each() {
    let database = cluster::database().await;
    let db = &mut *database.pool.acquire().await.unwrap();
    let [even, odd] = fill(db, 100).await;
    let node = NodeId::new();
    let reach = Reach { due_from: None, set_aside: &[even], room: None };
    let taken = queue::claim_within(db, node, 30, 30_000, reach).await.unwrap();
    assert_eq!(taken.len(), 30);
    assert!(taken.iter().all(|row| row.subscription_id == odd.0));

    let share = |subscription, up_to| Share { subscription, up_to, due_from: None };
    let drawn = queue::draw(db, node, 30_000, &[share(even, 5), share(odd, 7)], None).await.unwrap();
    let of = |id: SubscriptionId| drawn.iter().filter(|row| row.subscription_id == id.0).collect::<Vec<_>>();
    assert_eq!((of(even).len(), of(odd).len()), (5, 7));
    assert!(drawn.is_sorted_by_key(|row| row.was_due_at));
    assert!(of(odd)[0].was_due_at > taken.last().unwrap().was_due_at, "none is taken twice");
    let left: Vec<Uuid> = sqlx::query_scalar(
        "select delivery_id from queue where subscription_id = $1 and due_at <= herald_now() order by due_at limit 1",
    )
    .bind(even.0)
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let next = queue::draw(db, node, 30_000, &[share(even, 1)], None).await.unwrap();
    assert_eq!(next.iter().map(|row| row.delivery_id).collect::<Vec<_>>(), left);
    let due = next[0].was_due_at;
    let later = Share { due_from: Some(due + chrono::TimeDelta::milliseconds(10)), ..share(even, 1) };
    let later = queue::draw(db, node, 30_000, &[later], None).await.unwrap();
    assert_eq!(later[0].was_due_at, due + chrono::TimeDelta::milliseconds(10));

    // A lease that ran out is nobody's to set aside: its crash has to be counted.
    database.advance(chrono::TimeDelta::seconds(31)).await;
    let reach = Reach { due_from: None, set_aside: &[even, odd], room: None };
    let again = queue::claim_within(db, NodeId::new(), 1_000, 30_000, reach).await.unwrap();
    assert_eq!(again.len(), taken.len() + drawn.len() + 2);
    assert!(again.iter().all(|row| row.crashes == 1));
}
