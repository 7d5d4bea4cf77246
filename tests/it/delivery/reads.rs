//! Answers from the history: what they read is looked up, and not planned anew for each of its days each time.

use herald::domain::id::{DeliveryId, PartnerId, SubscriptionId};
use herald::store::{attempts, deliveries, partitions, queue, sessions, webhooks};
use reqwest::Method;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::plans::read_so_far;
use crate::support::cluster;
use crate::support::desk::Desk;

const SUBSCRIPTIONS: i64 = 100;
const ROWS: i64 = 20_000;

/// A partner's deliveries that have just ended, by turns of [`SUBSCRIPTIONS`]: these, and a few of those.
async fn fill(db: &mut PgConnection) -> (PartnerId, Vec<SubscriptionId>, Vec<DeliveryId>) {
    let partner = PartnerId::new();
    let subscribed = "with partner as (insert into partners (id, name) values ($1, 'one')),
            callback as (insert into callbacks (id, partner_id, surface, url) values ($1, $1, 'webhooks', 'https://partner.example/'))
        insert into subscriptions (id, partner_id, surface, external_key, callback_id)
        select gen_random_uuid(), $1, 'webhooks', number, $1 from generate_series(1, $2) number returning id";
    let subscriptions: Vec<Uuid> =
        sqlx::query_scalar(subscribed).bind(partner.0).bind(SUBSCRIPTIONS).fetch_all(&mut *db).await.unwrap();
    let ended = "insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
        select $1, id, id, id, ($2::uuid[])[1 + number % $3], 'it.happened', 'delivered', 'delivered', herald_now(), 1
        from (select number, herald_uuid7_beside(herald_uuid7_floor(herald_now())) as id from generate_series(1, $4) number) moments
        returning delivery_id";
    let ended: Vec<Uuid> = sqlx::query_scalar(ended)
        .bind(partner.0)
        .bind(&subscriptions)
        .bind(SUBSCRIPTIONS)
        .bind(ROWS)
        .fetch_all(db)
        .await
        .unwrap();
    let few = ended.into_iter().take(3).map(DeliveryId).collect();
    (partner, subscriptions.into_iter().map(SubscriptionId).collect(), few)
}

#[tokio::test]
async fn a_subscriptions_history_is_found_by_subscription_although_its_partner_is_new_to_the_statistics() {
    let database = cluster::database().await;
    let mut db = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut db).await.unwrap();
    // Enough that the planner knows who has attempts, and how many.
    fill(&mut db).await;
    sqlx::raw_sql("analyze attempts").execute(&mut *db).await.unwrap();
    let (partner, subscriptions, _) = fill(&mut db).await;
    // However it is planned.
    for mode in ["auto", "force_custom_plan", "force_generic_plan"] {
        let mut reading = database.pool.acquire().await.unwrap();
        let mode = sqlx::AssertSqlSafe(format!("begin; set plan_cache_mode = {mode}"));
        sqlx::raw_sql(mode).execute(&mut *reading).await.unwrap();
        let told = webhooks::history(&mut reading, partner, &subscriptions, 10).await.unwrap();
        assert_eq!(told.len() as i64, SUBSCRIPTIONS * 10);
        let health = attempts::health(&mut reading, partner, subscriptions[0]).await.unwrap();
        assert!(health.last_success_at.is_some());
        let (rows, _) = read_so_far(&mut reading, "attempts").await;
        assert!(rows < 2 * ROWS, "{rows} rows were read: all of the partner's for each subscription");
        reading.close_on_drop();
    }
}

#[tokio::test]
async fn one_delivery_is_looked_up_by_key_although_there_was_none_when_that_was_planned() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    sqlx::raw_sql("vacuum analyze").execute(&mut *connection).await.unwrap();
    let mut reading = database.pool.acquire().await.unwrap();
    let read = async |db: &mut PgConnection, partner, subscription, delivery| {
        sqlx::raw_sql("begin").execute(&mut *db).await.unwrap();
        sessions::plan_once_here(db).await.unwrap();
        let found = deliveries::find(db, partner, delivery).await.unwrap();
        let made = attempts::list(db, partner, delivery, None, 10).await.unwrap();
        attempts::health(db, partner, subscription).await.unwrap();
        webhooks::history(db, partner, &[subscription], 10).await.unwrap();
        let found = found?;
        let finished = queue::Finished { delivery, event: found.event, subscription };
        // Its event there is not.
        assert_eq!(queue::insert_again(db, partner, &[finished]).await.unwrap(), 0);
        attempts::find_last(db, partner, delivery).await.unwrap()?;
        Some(made.attempts.len())
    };
    let nobody = (PartnerId::new(), SubscriptionId::new(), DeliveryId(Uuid::now_v7()));
    assert_eq!(read(&mut reading, nobody.0, nobody.1, nobody.2).await, None);
    sqlx::raw_sql("commit").execute(&mut *reading).await.unwrap();

    let (partner, subscriptions, ended) = fill(&mut connection).await;
    assert_eq!(read(&mut reading, partner, subscriptions[0], ended[0]).await, Some(1));
    // The latest hundred of the subscription are its health.
    for (table, rows_max) in
        [("attempts", 150), ("queue", 5), ("subscriptions", 5), ("callbacks", 5), ("events", 5)]
    {
        let (rows, _) = read_so_far(&mut reading, table).await;
        assert!(rows <= rows_max, "{rows} rows of {table} were read");
    }
}

#[tokio::test]
async fn requests_for_the_history_have_their_statements_planned_once() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    desk.cancel_a_session(&key).await;
    desk.deliver().await;
    let list = "/herald/v1/deliveries";
    let all = desk.get(&key, list).await.body;
    let one = &all["items"][0];
    let delivery = format!("{list}/{}", one["id"].as_str().unwrap());
    let event = one["event"]["id"].as_str().unwrap();
    for path in [
        delivery.clone(),
        format!("/herald/v1/events/{event}"),
        format!("{list}?state=held"),
        format!("{list}?state=dead"),
        format!("{list}?state=delivered&limit=1"),
        format!("/herald/v1/subscriptions/redirect/{subscription}"),
    ] {
        let answer = desk.get(&key, &path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    assert_eq!(desk.post(&key, &format!("{delivery}/redeliver")).await.status, 202);
    let webhook =
        json!({ "events": ["order_paid"], "url": "http://127.0.0.1:9/", "secret": "c2VjcmV0c2VjcmV0" });
    let made = desk.api(Method::POST, &key, "/sync/webhooks/subscriptions/create", Some(webhook)).await;
    assert_eq!(made.status, 200, "{}", made.text);

    let planned = "select statement, generic_plans, custom_plans from pg_prepared_statements
        where statement ~ '\\m(attempts|bundled)\\M' and statement !~ 'insert into attempts'";
    let mut sessions = Vec::new();
    for _ in 0..desk.database.pool.options().get_max_connections() {
        sessions.push(desk.database.pool.acquire().await.unwrap());
    }
    let mut seen = std::collections::HashSet::new();
    for session in &mut sessions {
        let all: Vec<(String, i64, i64)> = sqlx::query_as(planned).fetch_all(&mut **session).await.unwrap();
        for (statement, generic, custom) in all {
            assert!(generic > 0 && custom == 0, "planned {custom} times for its arguments: {statement}");
            seen.insert(statement);
        }
    }
    // Pages of deliveries (four kinds, and how far they look), attempts, health, what webhooks are shown with, what is queued again.
    assert_eq!(seen.len(), 9, "{seen:#?}");
}
