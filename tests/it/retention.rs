//! What is older than the retention goes, and nothing that is wanted goes with it.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use herald::domain::Error;
use herald::domain::id::NodeId;
use herald::engine::janitor::retention;
use herald::store::partitions;
use herald::store::queue::{self, Walked};
use herald::telemetry::Metrics;
use reqwest::Method;
use serde_json::json;
use sqlx::PgConnection;

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::{PATIENCE, of_attempts, text};
use crate::support::receiver::Receiver;

const DAYS: i32 = 30;

async fn now(database: &TestDatabase) -> DateTime<Utc> {
    sqlx::query_scalar("select herald_now()").fetch_one(&database.pool).await.unwrap()
}

async fn today(database: &TestDatabase) -> NaiveDate {
    now(database).await.date_naive()
}

/// Moves the time to the noon of a day. No test about days runs over a midnight.
async fn move_to_noon(database: &TestDatabase, day: NaiveDate) {
    let noon = day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::hours(12);
    database.advance(noon - now(database).await).await;
}

/// A database where it is noon, with the days that belong to it.
async fn at_noon() -> TestDatabase {
    let database = cluster::database().await;
    move_to_noon(&database, today(&database).await + TimeDelta::days(1)).await;
    make_ahead(&database).await;
    database
}

/// The days that have a table, and how: attached, on its way out, or by itself.
async fn days_that_are(database: &TestDatabase, parent: &str, how: &str) -> BTreeSet<NaiveDate> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select right(c.relname, 8), case when i.inhrelid is null then 'alone' when i.inhdetachpending then 'leaving' else 'attached' end
         from pg_class c left join pg_inherits i on i.inhrelid = c.oid
         where c.relkind = 'r' and c.relname ~ ('^' || $1 || '_[0-9]{8}$')",
    )
    .bind(parent)
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let day = |name: &str| NaiveDate::parse_from_str(name, "%Y%m%d").unwrap();
    rows.iter().filter(|(_, is)| is == how).map(|(name, _)| day(name)).collect()
}

async fn make_day(database: &TestDatabase, day: NaiveDate) {
    sqlx::query("select herald_make_day($1)").bind(day).execute(&database.pool).await.unwrap();
}

async fn make_ahead(database: &TestDatabase) {
    partitions::make_ahead(&mut database.pool.acquire().await.unwrap()).await.unwrap();
}

async fn keep(database: &TestDatabase) -> Result<(), Error> {
    retention::keep(&database.pool, DAYS, &Metrics::default()).await
}

/// As if it had been looked on each day that has passed.
async fn days_were_seen(database: &TestDatabase) {
    sqlx::query(
        "update retention_day set moved_at = herald_now(), day = (herald_now() at time zone 'UTC')::date",
    )
    .execute(&database.pool)
    .await
    .unwrap();
}

async fn run(db: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(db).await.unwrap();
}

/// Failed deliveries, waiting in the queue, with no server about, and the day of the oldest one's event.
async fn waiting(database: &TestDatabase, count: usize) -> NaiveDate {
    let app = App::start(database, settings()).await;
    app.subscribe(&Receiver::nobody().await).await;
    for _ in 0..count {
        app.cancel_one().await;
    }
    for delivery in app.deliveries().await {
        app.wait_for_attempts(&text(&delivery["id"]), 1).await;
    }
    app.stop().await;
    let oldest: uuid::Uuid = sqlx::query_scalar("select min(event_id::text)::uuid from queue")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    let (seconds, _) = oldest.get_timestamp().expect("an event's id tells when it was made").to_unix();
    DateTime::from_timestamp(seconds.try_into().unwrap(), 0).unwrap().date_naive()
}

#[tokio::test]
async fn rule_25_a_day_goes_when_it_has_been_over_for_as_long_as_the_retention_and_no_earlier() {
    let database = at_noon().await;
    let first = today(&database).await;
    database.advance(TimeDelta::days(30)).await;
    keep(&database).await.unwrap();
    for parent in ["events", "attempts"] {
        let kept = days_that_are(&database, parent, "attached").await;
        assert_eq!(kept.first(), Some(&first), "{parent}: the day before is over");
        assert_eq!(kept.len(), 15);
    }
    database.advance(TimeDelta::days(1)).await;
    keep(&database).await.unwrap();
    for parent in ["events", "attempts"] {
        assert_eq!(days_that_are(&database, parent, "attached").await.first(), first.succ_opt().as_ref());
        assert!(days_that_are(&database, parent, "alone").await.is_empty(), "dropped, not only detached");
    }
}

#[tokio::test]
async fn days_are_made_ahead_of_the_moved_time() {
    let database = at_noon().await;
    database.advance(TimeDelta::days(100)).await;
    make_ahead(&database).await;
    keep(&database).await.unwrap();
    let today = today(&database).await;
    for parent in ["events", "attempts"] {
        let days = days_that_are(&database, parent, "attached").await;
        let expected = (-1..=14).map(|days| today + TimeDelta::days(days)).collect();
        assert_eq!(days, expected, "{parent}");
    }
}

#[tokio::test]
async fn what_is_undelivered_ends_as_expired_and_its_partner_sees_it() {
    let database = cluster::database().await;
    let first = waiting(&database, 3).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    move_to_noon(&database, first + TimeDelta::days(31)).await;
    days_were_seen(&database).await;
    // One is held, one is being sent at this very moment, one waits.
    run(db, "update queue set due_at = 'infinity' where delivery_id = (select max(delivery_id::text) from queue)::uuid").await;
    let sending = queue::claim(db, NodeId::new(), 1, 30_000).await.unwrap();
    assert_eq!(sending.len(), 1);
    make_ahead(&database).await;
    let metrics = Metrics::default();
    retention::keep(&database.pool, DAYS, &metrics).await.unwrap();
    let line = r#"herald_deliveries_ended_total{state="expired"} 2"#;
    assert!(metrics.render(None, &[]).contains(line), "they are counted");
    let left: Vec<uuid::Uuid> =
        sqlx::query_scalar("select delivery_id from queue").fetch_all(&mut *db).await.unwrap();
    assert_eq!(left, [sending[0].delivery_id], "a lease is respected");
    assert!(
        days_that_are(&database, "events", "attached").await.contains(&first),
        "it still needs its event"
    );
    assert!(!days_that_are(&database, "attempts", "attached").await.contains(&first));

    // Its sender never says a word.
    database.advance(TimeDelta::seconds(30)).await;
    keep(&database).await.unwrap();
    assert!(!days_that_are(&database, "events", "attached").await.contains(&first));
    let app = App::start(&database, settings()).await;
    let expired = app.deliveries_that("state=expired").await;
    assert_eq!(expired.len(), 3);
    assert_eq!(app.deliveries().await.len(), 3, "and there are no others");
    for delivery in expired {
        assert_eq!(delivery["event"]["type"], "RedirectSessionCancelled", "{delivery}");
        let id = text(&delivery["id"]);
        assert_eq!(of_attempts(&app.delivery(&id).await, "outcome"), [] as [&str; 0]);
        assert_eq!(app.redeliver(&id).await.0, 409, "there is nothing left to send");
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_although_its_event_is_gone() {
    let database = cluster::database().await;
    let (receiver, another) = (Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let operator = app.operator();
    let publish = async |id: &str| {
        let event = json!({ "type": "RedirectSessionCancelled", "data": 1, "id": id });
        operator.ask(Method::POST, "/events", Some(event)).await
    };
    // Who takes such events is read, then remembered, then remembered wrongly. Of one it is not known, as of those that were taken long ago.
    let mut answers = Vec::new();
    for (id, matched) in [("read", 1), ("remembered", 1), ("changed", 2), ("old", 2)] {
        if id == "changed" {
            app.subscribe(&another.url).await;
        }
        let answer = publish(id).await;
        assert_eq!((answer.0, &answer.1["matched"]), (202, &json!(matched)), "{answer:?}");
        answers.push((id, answer));
    }
    let db = &mut *database.pool.acquire().await.unwrap();
    run(db, "update event_keys set matched = null where key = 'old'").await;
    for (id, answer) in &answers {
        assert_eq!(publish(id).await, *answer, "{id}");
    }
    receiver.wait_for(4).await;
    another.wait_for(2).await;
    for delivery in app.deliveries().await {
        app.wait_for_state(&text(&delivery["id"]), "delivered").await;
    }

    let first = today(&database).await;
    move_to_noon(&database, first + TimeDelta::days(3)).await;
    days_were_seen(&database).await;
    make_ahead(&database).await;
    retention::keep(&database.pool, 1, &Metrics::default()).await.unwrap();
    assert!(!days_that_are(&database, "events", "attached").await.contains(&first));
    for (id, (status, mut answer)) in answers {
        if id == "old" {
            answer["matched"] = json!(0);
        }
        assert_eq!(publish(id).await, (status, answer), "{id}");
    }
    app.stop().await;
}

/// Somebody sets the clock a month ahead, sees what the log says, and sets it back.
#[tokio::test]
async fn rule_25_a_clock_that_jumps_a_month_ahead_costs_a_day_an_hour() {
    let database = cluster::database().await;
    let first = waiting(&database, 1).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    let day = async || -> NaiveDate {
        sqlx::query_scalar("select day from retention_day").fetch_one(&database.pool).await.unwrap()
    };
    let looked = day().await;
    move_to_noon(&database, first + TimeDelta::days(40)).await;
    make_ahead(&database).await;
    // However many processes start, and however often rounds fail and are tried again.
    for hour in 1..=28 {
        for _ in 0..10 {
            keep(&database).await.unwrap();
            assert_eq!(day().await, looked + TimeDelta::days(hour), "hour {hour}");
        }
        database.advance(TimeDelta::minutes(61)).await;
    }
    assert!(days_that_are(&database, "events", "attached").await.contains(&first));
    assert_eq!(queue::count_up_to(db, 10).await.unwrap(), 1, "what waited still does");

    // Set back by as much too far, for a moment: nothing is to be removed, and putting it right costs no more than that took.
    database.advance(TimeDelta::days(-80)).await;
    keep(&database).await.unwrap();
    assert_eq!(day().await, looked + TimeDelta::days(27));
    database.advance(TimeDelta::days(70)).await;
    keep(&database).await.unwrap();
    assert_eq!(day().await, looked + TimeDelta::days(28), "as it was");
    // Or it was right all along.
    database.advance(TimeDelta::days(20)).await;
    for _ in 0..60 {
        keep(&database).await.unwrap();
        database.advance(TimeDelta::minutes(61)).await;
    }
    assert_eq!(day().await, today(&database).await);
    assert!(!days_that_are(&database, "events", "attached").await.contains(&first));
    assert!(!queue::needs_expired(db, DAYS).await.unwrap());
}

#[tokio::test]
async fn expiring_walks_the_queue_once_a_chunk_at_a_time() {
    let database = cluster::database().await;
    let first = waiting(&database, 5).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    move_to_noon(&database, first + TimeDelta::days(30)).await;
    make_ahead(&database).await;
    assert_eq!(queue::expire(db, DAYS, Walked::default(), 2).await.unwrap(), None, "not yet");
    move_to_noon(&database, first + TimeDelta::days(31)).await;
    let (mut walked, mut chunks) = (Walked::default(), Vec::new());
    while let Some((count, last)) = queue::expire(db, DAYS, walked, 2).await.unwrap() {
        walked = last;
        chunks.push(count);
    }
    assert_eq!(chunks, [2, 2, 1]);
    assert!(!queue::needs_expired(db, DAYS).await.unwrap());
}

#[tokio::test]
async fn a_removal_that_was_cut_short_is_finished() {
    let database = cluster::database().await;
    let db = &mut *database.pool.acquire().await.unwrap();
    let old: NaiveDate = "2020-02-29".parse().unwrap();
    make_day(&database, old).await;
    // Somebody reads, for longer than a removal waits: the detach has begun and does not end.
    let mut reader = database.pool.begin().await.unwrap();
    sqlx::query("select from events, attempts").execute(&mut *reader).await.unwrap();
    let error = keep(&database).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let leaving = days_that_are(&database, "attempts", "leaving").await;
    assert_eq!(leaving, BTreeSet::from([old]));
    // Meanwhile nobody waits for anybody.
    run(db, "set statement_timeout = '1s'").await;
    run(db, "insert into events select herald_uuid7_floor(herald_now()), herald_uuid7_floor(herald_now()), 'T', '/', '', null, null, herald_now(), 0").await;
    reader.rollback().await.unwrap();

    // Another went away between the two steps.
    run(db, "alter table events detach partition events_20200229 concurrently").await;
    keep(&database).await.unwrap();
    for parent in ["events", "attempts"] {
        for how in ["leaving", "alone"] {
            assert!(days_that_are(&database, parent, how).await.is_empty(), "{parent} {how}");
        }
        assert!(!days_that_are(&database, parent, "attached").await.contains(&old));
    }
}

#[tokio::test]
async fn one_node_removes_at_a_time() {
    let database = cluster::database().await;
    let old: NaiveDate = "2020-02-29".parse().unwrap();
    make_day(&database, old).await;
    let mut other = database.pool.acquire().await.unwrap();
    assert!(partitions::begin_removal(&mut other).await.unwrap());
    keep(&database).await.unwrap();
    assert!(days_that_are(&database, "events", "attached").await.contains(&old), "it is left to the other");
    other.close().await.unwrap();
    keep(&database).await.unwrap();
    assert!(!days_that_are(&database, "events", "attached").await.contains(&old));
}

#[tokio::test]
async fn rule_25_running_nodes_drop_what_is_over_and_no_insert_fails_meanwhile() {
    let database = cluster::database().await;
    let long_ago: NaiveDate = "2020-02-29".parse().unwrap();
    for days in 0..20 {
        make_day(&database, long_ago + TimeDelta::days(days)).await;
    }
    let receiver = Receiver::start().await;
    let (one, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    one.subscribe(&receiver.url).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut sent = 0;
    while days_that_are(&database, "events", "attached")
        .await
        .first()
        .is_some_and(|day| *day < long_ago + TimeDelta::days(20))
        || sent < 20
    {
        assert!(std::time::Instant::now() < deadline, "the old days are still there");
        // Each of these asserts that it was answered 200.
        one.cancel_one().await;
        other.cancel_one().await;
        sent += 2;
    }
    receiver.wait_for(sent).await;
}
