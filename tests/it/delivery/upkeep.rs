//! The janitor's statements, each by itself: what no single request can promise.

use herald::domain::id::NodeId;
use herald::store::queue;
use sqlx::PgConnection;

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::receiver::Receiver;
use crate::support::sweeps;

/// Failed deliveries of a subscription, waiting in the queue, and no server about.
async fn waiting(database: &TestDatabase, count: usize) {
    let app = App::start(database, settings()).await;
    app.subscribe(&Receiver::nobody().await).await;
    for _ in 0..count {
        app.cancel_one().await;
    }
    let deliveries = app.deliveries().await;
    assert_eq!(deliveries.len(), count);
    for delivery in deliveries {
        app.wait_for_attempts(delivery["id"].as_str().unwrap(), 1).await;
    }
    app.stop().await;
}

async fn run(db: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(db).await.unwrap();
}

async fn count(db: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

const HELD: &str = "select count(*) from queue where due_at = 'infinity'";
const DUE: &str = "select count(*) from queue where due_at <= herald_now() + interval '1 second'";

#[tokio::test]
async fn rows_held_for_an_active_subscription_are_made_due_and_those_of_others_are_not() {
    let database = cluster::database().await;
    waiting(&database, 3).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    run(db, "update queue set due_at = 'infinity', lease_owner = null").await;
    for state in ["paused", "disabled"] {
        let changed = sqlx::query("update subscriptions set state = $1").bind(state);
        changed.execute(&mut *db).await.unwrap();
        assert_eq!(sweeps::resume(db, 10).await.moved, 0, "{state}");
    }
    run(db, "update subscriptions set state = 'active'").await;
    assert_eq!(sweeps::resume(db, 2).await.moved, 2, "a chunk at a time");
    assert_eq!((count(db, HELD).await, count(db, DUE).await), (1, 2));
    let oldest_is_held = "select count(*) from queue where due_at = 'infinity'
                              and delivery_id < (select max(delivery_id::text) from queue where due_at < 'infinity')::uuid";
    assert_eq!(count(db, oldest_is_held).await, 0, "oldest first");
    assert_eq!(sweeps::resume(db, 2).await.moved, 1);
    assert_eq!(sweeps::resume(db, 2).await.moved, 0);
}

#[tokio::test]
async fn rule_25_what_a_clock_that_was_far_ahead_put_off_is_due_again_and_what_a_policy_put_off_is_not() {
    let database = cluster::database().await;
    waiting(&database, 4).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    run(
        db,
        "with turn as (select delivery_id, row_number() over (order by delivery_id) as turn from queue)
         update queue q set due_at = case t.turn when 1 then 'infinity' when 2 then herald_now() + interval '8 days 10 hours'
             else herald_now() + interval '40 days' end
         from turn t where t.delivery_id = q.delivery_id",
    )
    .await;
    assert_eq!(queue::pull_in(db, 1).await.unwrap(), 1, "a chunk at a time");
    assert_eq!(queue::pull_in(db, 10).await.unwrap(), 1);
    assert_eq!((count(db, HELD).await, count(db, DUE).await), (1, 2));
    assert_eq!(queue::pull_in(db, 10).await.unwrap(), 0);
}

#[tokio::test]
async fn rows_of_deleted_subscriptions_are_cancelled_but_not_under_somebodys_lease() {
    let database = cluster::database().await;
    waiting(&database, 3).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    assert_eq!(sweeps::cancel_deleted(db, 10).await, 0, "it is not deleted");
    run(db, "update queue set due_at = herald_now()").await;
    let leased = queue::claim(db, NodeId::new(), 1, 30_000).await.unwrap();
    assert_eq!(leased.len(), 1);
    run(db, "update subscriptions set state = 'deleted'; delete from subscription_event_types").await;
    assert_eq!(sweeps::cancel_deleted(db, 1).await, 1, "a chunk at a time");
    assert_eq!(sweeps::cancel_deleted(db, 10).await, 1);
    assert_eq!(count(db, "select count(*) from unfinished where lease_owner is not null").await, 1);
    assert_eq!(
        count(db, "select count(*) from attempts where final_state = 'cancelled' and not late").await,
        2
    );

    let app = App::start(&database, settings()).await;
    assert_eq!(app.deliveries_that("state=cancelled").await.len(), 2);
    let [pending] = &app.deliveries_that("state=pending").await[..] else { panic!("one is leased") };
    // Its lease passes, and whoever claims it then finds nobody to send it to.
    database.advance(chrono::TimeDelta::seconds(30)).await;
    app.wait_for_state(pending["id"].as_str().unwrap(), "cancelled").await;
}

#[tokio::test]
async fn the_running_janitor_does_both() {
    let database = cluster::database().await;
    waiting(&database, 2).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    run(db, "update queue set due_at = 'infinity', lease_owner = null").await;
    let app = App::start(&database, settings()).await;
    let deliveries = app.deliveries().await;
    assert_eq!(deliveries.len(), 2);
    for delivery in &deliveries {
        app.wait_for_attempts(delivery["id"].as_str().unwrap(), 2).await;
    }
    app.stop().await;
    // Nobody claims them, who would find that there is nobody to send them to.
    run(db, "update queue set due_at = herald_now() + interval '1 hour'").await;
    run(db, "update subscriptions set state = 'deleted'; delete from subscription_event_types").await;
    let app = App::start(&database, settings()).await;
    for delivery in &deliveries {
        app.wait_for_state(delivery["id"].as_str().unwrap(), "cancelled").await;
    }
}
