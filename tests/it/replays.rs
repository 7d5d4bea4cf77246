//! Many finished deliveries are sent again by one job: counted first, a little at a time, once each, whatever happens to the server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use herald::config::RawConfig;
use herald::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};
use herald::store::queue::{self, Finished};
use herald::store::replays;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::{PATIENCE, Partner, of_attempts, text};
use crate::support::receiver::Receiver;

const REPLAYS: &str = "/herald/v1/replays";
/// More than the server puts into the queue within two seconds.
const MANY: usize = 1_100;

async fn begin(partner: &Partner, wanted: Value) -> String {
    let (status, replay) = partner.ask(Method::POST, REPLAYS, Some(wanted)).await;
    assert_eq!(status, 202, "{replay}");
    text(&replay["id"])
}

async fn cancel(partner: &Partner, replay: &str) -> (u16, Value) {
    partner.ask(Method::POST, &format!("{REPLAYS}/{replay}/cancel"), None).await
}

async fn wait_for(partner: &Partner, replay: &str, wished: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let replay = partner.get(&format!("{REPLAYS}/{replay}")).await;
        if wished(&replay) {
            return replay;
        }
        assert!(Instant::now() < deadline, "waited in vain: {replay}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a replay has come to: matched, queued, skipped.
async fn outcome(partner: &Partner, wanted: Value) -> (i64, i64, i64) {
    let replay = begin(partner, wanted).await;
    counts(&wait_for(partner, &replay, |replay| replay["state"] == "done").await)
}

fn counts(replay: &Value) -> (i64, i64, i64) {
    let count = |name: &str| replay[name].as_i64().unwrap_or_else(|| panic!("{replay} has no {name}"));
    (count("matched"), count("queued"), count("skipped"))
}

/// A subscription whose deliveries are dead with their first failure.
async fn subscribe(partner: &Partner, receiver: &Receiver) -> Uuid {
    let subscription = partner.subscribe(&receiver.url).await;
    assert_eq!(partner.set_policy(subscription, json!({ "retryDelaysS": [] })).await.0, 200);
    subscription
}

/// Cancels so many sessions whose callbacks are refused; the ids of their deliveries, oldest first.
async fn dead(partner: &Partner, receiver: &Receiver, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        receiver.reply([500]);
        partner.cancel_one().await;
        let id = text(&partner.deliveries().await[0]["id"]);
        partner.wait_for_state(&id, "dead").await;
        ids.push(id);
    }
    ids
}

/// [`MANY`] deliveries of a partner that the history has as dead, though they arrived. Returns who the partner is.
async fn many_dead(database: &TestDatabase, app: &App, partner: &Partner, receiver: &Receiver) -> Uuid {
    let subscription = partner.subscribe(&receiver.url).await.to_string();
    let whose = "select partner_id from subscriptions where external_key = $1";
    let whose: Uuid = sqlx::query_scalar(whose).bind(subscription).fetch_one(&database.pool).await.unwrap();
    let data = json!({ "id": Uuid::new_v4() });
    let event = json!({ "type": "RedirectSessionCancelled", "partnerId": whose, "data": data });
    app.operator().publish(&vec![event; MANY]).await;
    receiver.wait_for(MANY).await;
    wait_until_queue_is_empty(database).await;
    sqlx::query("update attempts set final_state = 'dead', outcome = 'refused'")
        .execute(&database.pool)
        .await
        .unwrap();
    whose
}

async fn wait_until_queue_is_empty(database: &TestDatabase) {
    let deadline = Instant::now() + PATIENCE;
    while count(database, "select count(*) from unfinished").await > 0 {
        assert!(Instant::now() < deadline, "something is never finished");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(database: &TestDatabase, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&database.pool).await.unwrap()
}

#[tokio::test]
async fn rule_22_dead_letters_are_counted_and_then_sent_again_in_bulk_under_their_own_ids() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = subscribe(&app, &receiver).await;
    let ids = dead(&app, &receiver, 3).await;
    app.cancel_one().await;
    let arrived = text(&app.deliveries().await[0]["id"]);
    app.wait_for_state(&arrived, "delivered").await;

    receiver.reply([500]);
    assert_eq!(app.test(subscription).await.0, 200);
    assert_eq!(app.deliveries_that("state=dead").await.len(), 4, "a test that failed is dead, too");

    assert_eq!(outcome(&app, json!({ "dryRun": true })).await, (3, 0, 0));
    assert_eq!(outcome(&app, json!({ "dryRun": true, "type": "HeraldTest" })).await, (1, 0, 0));
    assert_eq!(app.deliveries_that("state=dead").await.len(), 4, "nothing was sent");

    let replay = begin(&app, json!({})).await;
    let done = wait_for(&app, &replay, |replay| replay["state"] == "done").await;
    assert_eq!(counts(&done), (3, 3, 0));
    assert_eq!((&done["of"]["state"], &done["dryRun"]), (&json!("dead"), &json!(false)));
    assert!(done["endedAt"].is_string() && done["reachedAt"].is_null(), "{done}");
    for id in &ids {
        let delivery = app.wait_for_state(id, "delivered").await;
        assert_eq!(of_attempts(&delivery, "status"), [500, 204]);
    }
    let again: BTreeSet<String> =
        receiver.wait_for(8).await[5..].iter().map(|call| call.header("webhook-id").to_owned()).collect();
    assert_eq!(again, ids.iter().cloned().collect());
    assert_eq!(outcome(&app, json!({})).await, (0, 0, 0), "only the test is dead still");
    assert_eq!(receiver.calls().len(), 8);

    // The newest first, a page at a time.
    let page = app.get(&format!("{REPLAYS}?limit=2")).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let cursor = text(&page["nextCursor"]);
    let last = app.get(&format!("{REPLAYS}?limit=2&cursor={cursor}")).await;
    assert_eq!((&last["items"][0]["dryRun"], &last["nextCursor"]), (&json!(true), &Value::Null));
    let (status, problem) = app.ask(Method::GET, &format!("{REPLAYS}?cursor=x&limit=0"), None).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("limit")));
}

#[tokio::test]
async fn rule_22_a_replay_takes_what_it_is_asked_for() {
    let (database, receiver, other) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let one = subscribe(&app, &receiver).await;
    let ids = dead(&app, &receiver, 3).await;
    app.unsubscribe(one).await;
    let two = subscribe(&app, &other).await;
    dead(&app, &other, 1).await;
    app.cancel_one().await;
    app.wait_for_state(&text(&app.deliveries().await[0]["id"]), "delivered").await;

    let dry = |mut wanted: Value| {
        wanted["dryRun"] = json!(true);
        outcome(&app, wanted)
    };
    let second = text(&app.delivery(&ids[1]).await["createdAt"]);
    let third = text(&app.delivery(&ids[2]).await["createdAt"]);
    assert!(second < third, "deliveries of one millisecond cannot be told apart by time");
    for (wanted, matched) in [
        (json!({}), 4),
        (json!({ "state": "dead", "type": "RedirectSessionCancelled" }), 4),
        (json!({ "type": "it.never.happened" }), 0),
        (json!({ "subscription": format!("redirect/{one}") }), 3),
        (json!({ "subscription": format!("redirect/{two}") }), 1),
        (json!({ "from": second }), 3),
        (json!({ "until": third }), 2),
        (json!({ "from": second, "until": third }), 1),
        (json!({ "from": "1970-01-01T00:00:00Z", "until": "1970-01-01T00:00:01Z" }), 0),
        (json!({ "from": "2000-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z" }), 4),
        (json!({ "state": "delivered", "from": "2000-01-01T00:00:00Z" }), 1),
    ] {
        assert_eq!(dry(wanted.clone()).await, (matched, 0, 0), "{wanted}");
    }
    for (wanted, status, named) in [
        (json!({ "state": "delivered" }), 400, json!("from")),
        (json!({ "state": "held" }), 400, json!("state")),
        (json!({ "from": third, "until": second }), 400, json!("until")),
        (json!({ "subscription": "redirect" }), 400, json!("subscription")),
        (json!({ "subscription": format!("redirect/{}", Uuid::new_v4()) }), 404, Value::Null),
    ] {
        let (told, problem) = app.ask(Method::POST, REPLAYS, Some(wanted.clone())).await;
        assert_eq!((told, &problem["errors"][0]["field"]), (status, &named), "{wanted}: {problem}");
    }

    // Of the four, three have lost their subscription, and one its event as well.
    let event = text(&app.delivery(&ids[0]).await["event"]["id"]);
    sqlx::query("delete from events where id = $1::uuid").bind(event).execute(&database.pool).await.unwrap();
    assert_eq!(outcome(&app, json!({})).await, (4, 1, 3));
    wait_until_queue_is_empty(&database).await;
    assert_eq!(other.calls().len(), 3);
    assert_eq!(outcome(&app, json!({ "state": "delivered", "from": second })).await, (2, 2, 0));
}

#[tokio::test]
async fn rule_22_a_replay_outlives_its_server_and_queues_everything_once() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    many_dead(&database, &app, &app, &receiver).await;
    let replay = begin(&app, json!({})).await;
    let begun = wait_for(&app, &replay, |replay| counts(replay).1 > 0).await;
    assert_eq!(begun["state"], "queueing");
    assert!(begun["reachedAt"].is_string(), "{begun}");
    app.kill();

    let app = App::start(&database, settings()).await;
    let done = wait_for(&app, &replay, |replay| replay["state"] == "done").await;
    assert_eq!(counts(&done), (MANY as i64, MANY as i64, 0));
    wait_until_queue_is_empty(&database).await;
    let ended = "select count(distinct delivery_id) from attempts where final_state = 'delivered'";
    assert_eq!(count(&database, ended).await, MANY as i64);
    let calls = receiver.calls();
    let again: BTreeSet<&str> = calls[MANY..].iter().map(|call| call.header("webhook-id")).collect();
    assert_eq!(again.len(), MANY);
    assert_eq!(app.deliveries_that("state=dead").await.len(), 0);
}

#[tokio::test]
async fn rule_22_a_replay_runs_alone_and_is_stopped_by_who_began_it() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let stranger = app.another_partner().await;
    many_dead(&database, &app, &app, &receiver).await;
    let replay = begin(&app, json!({})).await;
    let (status, problem) = app.ask(Method::POST, REPLAYS, Some(json!({ "dryRun": true }))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("ReplayRunning")));

    let path = format!("{REPLAYS}/{replay}");
    assert_eq!(stranger.ask(Method::GET, &path, None).await.1["code"], "ReplayNotFound");
    assert_eq!(cancel(&stranger, &replay).await.1["code"], "ReplayNotFound");
    assert_eq!(stranger.get(REPLAYS).await["items"], json!([]));
    assert_eq!(outcome(&stranger, json!({})).await, (0, 0, 0), "each has one of its own");

    wait_for(&app, &replay, |replay| counts(replay).1 > 0).await;
    let (status, stopped) = cancel(&app, &replay).await;
    assert_eq!((status, &stopped["state"]), (200, &json!("cancelled")));
    let (matched, queued, skipped) = counts(&stopped);
    assert_eq!((matched, skipped), (MANY as i64, 0));
    assert!(queued > 0 && queued < MANY as i64, "{queued}");
    wait_until_queue_is_empty(&database).await;
    let (status, still) = cancel(&app, &replay).await;
    assert_eq!((status, still), (200, stopped), "nothing was queued since");
    let rest = MANY as i64 - queued;
    assert_eq!(receiver.wait_for(MANY + queued as usize).await.len(), MANY + queued as usize);

    let next = begin(&app, json!({ "dryRun": true })).await;
    let done = wait_for(&app, &next, |replay| replay["state"] == "done").await;
    assert_eq!(counts(&done), (rest, 0, 0));
    let (status, problem) = cancel(&app, &next).await;
    assert_eq!((status, &problem["code"]), (409, &json!("ReplayOver")));
}

#[tokio::test]
async fn rule_22_a_replay_leaves_publishers_half_of_the_backlog() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let bounded = RawConfig { backlog_max: Some("1000".to_owned()), ..settings() };
    let app = App::start(&database, bounded).await;
    subscribe(&app, &receiver).await;
    dead(&app, &receiver, 1).await;
    sqlx::raw_sql(
        "insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), herald_now() + interval '1 day'
         from generate_series(1, 500)",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let replay = begin(&app, json!({})).await;
    wait_for(&app, &replay, |replay| replay["state"] == "queueing").await;
    let put_off = "select count(*) from replays where due_at > created_at + interval '4 seconds'";
    let deadline = Instant::now() + PATIENCE;
    while count(&database, put_off).await == 0 {
        assert!(Instant::now() < deadline, "it was never put off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(counts(&app.get(&format!("{REPLAYS}/{replay}")).await), (1, 0, 0));
    sqlx::raw_sql("delete from queue").execute(&database.pool).await.unwrap();
    let done = wait_for(&app, &replay, |replay| replay["state"] == "done").await;
    assert_eq!(counts(&done), (1, 1, 0));
}

#[tokio::test]
async fn a_step_that_fails_is_put_off_and_others_go_on() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let other = app.another_partner().await;
    let whose = many_dead(&database, &app, &other, &receiver).await;
    subscribe(&app, &receiver).await;
    dead(&app, &receiver, 1).await;
    let refusal = format!(
        "create function refuse() returns trigger language plpgsql as $$
             begin if new.partner_id = '{whose}' then return new; end if; raise exception 'not now'; end $$;
         create trigger refuse before insert on queue for each row execute function refuse()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refusal)).execute(&database.pool).await.unwrap();
    let stuck = begin(&app, json!({})).await;
    wait_for(&app, &stuck, |replay| replay["state"] == "queueing").await;
    assert_eq!(outcome(&other, json!({})).await, (MANY as i64, MANY as i64, 0));
    assert_eq!(counts(&app.get(&format!("{REPLAYS}/{stuck}")).await), (1, 0, 0));
    sqlx::raw_sql("drop trigger refuse on queue").execute(&database.pool).await.unwrap();
    database.advance(TimeDelta::seconds(11)).await;
    // It is looked at again when there is another, at the latest.
    begin(&other, json!({ "dryRun": true })).await;
    let done = wait_for(&app, &stuck, |replay| replay["state"] == "done").await;
    assert_eq!(counts(&done), (1, 1, 0));
}

#[tokio::test]
async fn what_is_sent_again_falls_due_oldest_first_and_replays_are_forgotten_with_the_history() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    subscribe(&app, &receiver).await;
    let ids = dead(&app, &receiver, 3).await;
    outcome(&app, json!({ "dryRun": true })).await;
    app.stop().await;
    let mut db = database.pool.acquire().await.unwrap();
    let finished: Vec<(Uuid, Uuid, Uuid, Uuid)> = sqlx::query_as(
        "select partner_id, delivery_id, event_id, subscription_id from attempts order by delivery_id",
    )
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let partner = PartnerId(finished[0].0);
    let again = |(_, delivery, event, subscription): &(Uuid, Uuid, Uuid, Uuid)| Finished {
        delivery: DeliveryId(*delivery),
        event: EventId(*event),
        subscription: SubscriptionId(*subscription),
    };
    let again: Vec<Finished> = finished.iter().map(again).collect();
    assert_eq!(queue::insert_again(&mut db, partner, &again).await.unwrap(), 3);
    assert_eq!(queue::insert_again(&mut db, partner, &again).await.unwrap(), 0, "never beside itself");
    let due: Vec<Uuid> = sqlx::query_scalar("select delivery_id from queue order by due_at")
        .fetch_all(&mut *db)
        .await
        .unwrap();
    assert_eq!(due.iter().map(Uuid::to_string).collect::<Vec<_>>(), ids);
    assert_eq!(
        count(&database, "select count(distinct due_at) from queue").await,
        3,
        "not all at one moment"
    );

    assert_eq!(replays::forget(&mut db, 30, 10).await.unwrap(), 0);
    database.advance(TimeDelta::days(31)).await;
    assert_eq!(replays::forget(&mut db, 30, 10).await.unwrap(), 1);
}
