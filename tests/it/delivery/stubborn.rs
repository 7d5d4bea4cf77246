//! Results that the database does not take although it is there. Others must not wait for them, nor may they be lost.

use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{PATIENCE, of_attempts};
use crate::support::receiver::{Receiver, Reply, gate};

/// A table that takes no row of the events in `broken`, as one whose page cannot be read does not. `tries` counts how often it was asked to.
async fn breakable(pool: &PgPool, table: &str) {
    let sql = format!(
        "create table broken (event_id uuid);
         create sequence tries;
         create function refuse() returns trigger language plpgsql as $$
         begin
             if exists (select from broken b where b.event_id = new.event_id) then
                 perform nextval('tries');
                 raise exception 'could not read block' using errcode = '58030';
             end if;
             return new;
         end $$;
         create trigger refuses before insert on {table} for each row execute function refuse()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

async fn break_it(pool: &PgPool, app: &App, delivery: &str) {
    let event: Uuid = app.delivery(delivery).await["event"]["id"].as_str().unwrap().parse().unwrap();
    sqlx::query("insert into broken values ($1)").bind(event).execute(pool).await.unwrap();
}

async fn mend(pool: &PgPool) {
    sqlx::query("delete from broken").execute(pool).await.unwrap();
}

async fn tries(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select last_value - (not is_called)::int from tries").fetch_one(pool).await.unwrap()
}

async fn wait_for_tries(pool: &PgPool, count: i64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while tries(pool).await < count {
        assert!(std::time::Instant::now() < deadline, "{count} tries");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn rule_18_a_result_that_is_not_taken_is_in_nobodys_way_and_written_once_it_can_be() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    breakable(&database.pool, "attempts").await;
    // Posts of one batch of results, the first of which is not taken; it and another have a row of their own, the rest are bundled.
    let gate = gate();
    receiver.reply((0..3).map(|_| Reply::Gate(gate.clone(), 204)));
    for _ in 0..3 {
        app.cancel_one().await;
    }
    let calls = receiver.wait_for(3).await;
    let ids: Vec<&str> = calls.iter().map(|call| call.header("webhook-id")).collect();
    break_it(&database.pool, &app, ids[0]).await;
    gate.add_permits(3);
    for id in &ids[1..] {
        app.wait_for_state(id, "delivered").await;
    }
    for count in 4..8 {
        app.cancel_one().await;
        let call = receiver.wait_for(count).await.remove(count - 1);
        app.wait_for_state(call.header("webhook-id"), "delivered").await;
    }
    wait_for_tries(&database.pool, 4).await;
    assert_eq!(app.delivery(ids[0]).await["state"], "pending");
    mend(&database.pool).await;
    let delivery = app.wait_for_state(ids[0], "delivered").await;
    assert_eq!(of_attempts(&delivery, "late"), [false]);
    assert_eq!(receiver.calls().len(), 7, "nothing was sent again");
}

#[tokio::test]
async fn rule_18_what_a_result_that_is_never_taken_is_about_is_sent_again() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    breakable(&database.pool, "attempts").await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 204)]);
    app.cancel_one().await;
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    break_it(&database.pool, &app, &id).await;
    gate.add_permits(1);
    wait_for_tries(&database.pool, 2).await;
    // Its lease passes, whatever becomes of the result.
    database.advance(TimeDelta::seconds(60)).await;
    let calls = receiver.wait_for(2).await;
    assert_eq!(calls[1].header("webhook-id"), id);
    mend(&database.pool).await;
    let delivery = app.wait_for_state(&id, "delivered").await;
    let finals: Vec<_> =
        of_attempts(&delivery, "late").into_iter().filter(|late| *late == json!(false)).collect();
    assert_eq!(finals.len(), 1, "{delivery}");
}

#[tokio::test]
async fn rule_18_a_bundle_that_cannot_be_taken_apart_holds_up_no_other() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    breakable(&database.pool, "queue").await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 500)]);
    app.cancel_one().await;
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    break_it(&database.pool, &app, &id).await;
    // It would get a row of its own now.
    gate.add_permits(1);
    wait_for_tries(&database.pool, 2).await;
    for count in 2..6 {
        app.cancel_one().await;
        let call = receiver.wait_for(count).await.remove(count - 1);
        app.wait_for_state(call.header("webhook-id"), "delivered").await;
    }
    mend(&database.pool).await;
    let delivery = app.wait_for_attempts(&id, 1).await;
    assert_eq!((&delivery["state"], of_attempts(&delivery, "status")), (&json!("pending"), vec![json!(500)]));
}

#[tokio::test]
async fn rule_18_a_subscription_that_somebody_has_locked_keeps_nobody_elses_results_waiting() {
    let database = cluster::database().await;
    let [gone, failing, well] = [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    let app = App::start(&database, settings()).await;
    let disabled = app.subscribe(&gone.url).await;
    let failed = app.subscribe(&failing.url).await;
    app.subscribe(&well.url).await;
    // As by hand, in a transaction that somebody forgot.
    let mut lock = database.pool.begin().await.unwrap();
    let locked = sqlx::query("select from subscriptions where external_key = any ($1) for update")
        .bind([disabled, failed].map(|id| id.to_string()))
        .execute(&mut *lock)
        .await
        .unwrap();
    assert_eq!(locked.rows_affected(), 2);
    const COUNT: usize = 4;
    gone.reply((0..COUNT).map(|_| Reply::Status(410)));
    failing.reply((0..COUNT).map(|_| Reply::Status(500)));
    for count in 1..=COUNT {
        app.cancel_one().await;
        let call = well.wait_for(count).await.remove(count - 1);
        app.wait_for_state(call.header("webhook-id"), "delivered").await;
        let call = failing.wait_for(count).await.remove(count - 1);
        app.wait_for_attempts(call.header("webhook-id"), 1).await;
    }
    let gone_calls = gone.wait_for(COUNT).await;
    assert_eq!(app.standing(disabled).await["state"], "active");
    lock.rollback().await.unwrap();
    for call in &gone_calls {
        let delivery = app.wait_for_state(call.header("webhook-id"), "held").await;
        assert_eq!(of_attempts(&delivery, "status"), [410]);
    }
    assert_eq!(app.standing(disabled).await["state"], "disabled");
    assert_eq!(gone.calls().len(), COUNT, "nothing was sent again");
}
