//! The database goes away and comes back, or lacks a day.

use herald::embedded_postgres::{EmbeddedPostgres, Settings};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::of_attempts;
use crate::support::receiver::{Receiver, Reply, gate};
use crate::support::scratch::Scratch;

#[tokio::test]
async fn rule_24_a_restart_of_the_database_is_said_and_survived() {
    let (folder, receiver) = (Scratch::new("outage"), Receiver::start().await);
    let place = Settings { data_dir: folder.path().to_owned(), bin_dir: None };
    let postgres = EmbeddedPostgres::start(place.clone()).await.unwrap();
    let app = App::start_on(postgres.connect_options(), settings()).await;
    app.subscribe(&receiver.url).await;
    let session = app.open_session().await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 200)]);
    app.cancel_one().await;
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();

    postgres.stop().await;
    everybody_is_told_to_come_again(&app, false).await;
    let cancel = app.request(Method::POST, &format!("/redirect-sessions/{session}/cancel")).send().await;
    assert_told_to_come_again(cancel.unwrap(), "a cancel").await;
    // The result of the post waits for a database to be written to.
    gate.add_permits(1);
    let (status, _) = app.operator().ask(Method::GET, "/readyz", None).await;
    assert_eq!(status, 503);

    let postgres = EmbeddedPostgres::start(place).await.unwrap();
    while app.ask(Method::GET, &format!("/redirect-sessions/{session}"), None).await.0 != 200 {}
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [200]);
    assert_eq!(app.cancel(session).await, Some(200), "the writer needs no refused request to notice");
    let calls = receiver.wait_for(2).await;
    assert_eq!(calls[1].session(), session.to_string());
    app.wait_for_state(calls[1].header("webhook-id"), "delivered").await;
    while app.operator().ask(Method::GET, "/readyz", None).await.0 != 200 {}
    everybody_is_served(&app).await;
    assert_eq!(receiver.calls().len(), 2);
    app.stop().await;
    postgres.stop().await;
}

/// Something of every API that cannot be answered without the database: on the API listener, and on the operator's.
fn asks(app: &App) -> Vec<(String, reqwest::RequestBuilder)> {
    let operator = app.operator();
    let named = |name: &str| json!({ "name": name });
    let event = json!({ "type": "a", "data": 1 });
    let of_the_api = [
        "/redirect-session-events/subscriptions",
        "/rest/api/v1.3/notifications/subscriptions",
        "/sync/webhooks/subscriptions",
        "/async/webhooks/subscriptions",
        "/herald/v1/deliveries",
    ];
    let of_the_operator = [("/partners", named("Another")), ("/events", event)];
    let api = of_the_api.map(|path| (format!("GET {path}"), app.request(Method::GET, path)));
    let operator = of_the_operator
        .map(|(path, body)| (format!("POST {path}"), operator.request(Method::POST, path).json(&body)));
    api.into_iter().chain(operator).collect()
}

/// Each in the shape of its API, and with a time after which to ask again. Who publishes may be served where connections are all that is
/// short: the writer has its own, and a key is known for a second.
async fn everybody_is_told_to_come_again(app: &App, is_publishing_served: bool) {
    let asked = asks(app).into_iter().map(async |(what, request)| {
        let answer = request.send().await.unwrap();
        if is_publishing_served && what == "POST /events" && answer.status() == 202 {
            return;
        }
        assert_told_to_come_again(answer, &what).await;
    });
    futures_util::future::join_all(asked).await;
}

async fn assert_told_to_come_again(answer: reqwest::Response, what: &str) {
    assert_eq!(answer.status(), 503, "{what}");
    let retry_after = answer.headers()["retry-after"].to_str().unwrap().to_owned();
    assert!(retry_after.parse::<u64>().unwrap() > 0, "{what}");
    let text = answer.text().await.unwrap();
    let code = text.to_lowercase().replace('_', "");
    assert!(code.contains("serviceunavailable") && !code.contains("sql"), "{what}: {text}");
}

/// Without a restart, and without anybody's doing.
async fn everybody_is_served(app: &App) {
    for (what, request) in asks(app) {
        let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
        loop {
            let status = request.try_clone().unwrap().send().await.unwrap().status().as_u16();
            if matches!(status, 200..=202) {
                break;
            }
            assert_eq!(status, 503, "{what}");
            assert!(std::time::Instant::now() < deadline, "{what} is not served again");
        }
    }
}

/// Drops every day of a table.
async fn drop_days(database: &TestDatabase, table: &str) {
    let days: Vec<String> =
        sqlx::query_scalar("select inhrelid::regclass::text from pg_inherits where inhparent = $1::regclass")
            .bind(table)
            .fetch_all(&database.pool)
            .await
            .unwrap();
    assert!(!days.is_empty());
    let drop = format!("drop table {}", days.join(", "));
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_day_without_partitions_gets_them_from_the_first_insert() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    drop_days(&database, "events").await;
    drop_days(&database, "attempts").await;
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_state(&id, "delivered").await;

    drop_days(&database, "events").await;
    drop_days(&database, "attempts").await;
    assert_eq!(app.test(subscription).await.0, 200);
}

#[tokio::test]
async fn a_result_finds_no_partition_and_is_written_all_the_same() {
    for (answer, state) in [(204, "delivered"), (500, "pending"), (410, "held")] {
        let (database, receiver) = (cluster::database().await, Receiver::start().await);
        let app = App::start(&database, settings()).await;
        let subscription = app.subscribe(&receiver.url).await;
        let gate = gate();
        receiver.reply([Reply::Gate(gate.clone(), answer)]);
        app.cancel_one().await;
        let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
        drop_days(&database, "attempts").await;
        gate.add_permits(1);
        let delivery = app.wait_for_attempts(&id, 1).await;
        assert_eq!((&delivery["state"], &delivery["attempts"][0]["status"]), (&json!(state), &json!(answer)));
        let disabled = app.standing(subscription).await["state"] == "disabled";
        assert_eq!(disabled, answer == 410);
    }
}

#[tokio::test]
async fn a_subscription_is_deleted_although_the_day_of_its_history_has_no_partition() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&Receiver::nobody().await).await;
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    drop_days(&database, "attempts").await;
    app.unsubscribe(subscription).await;
    app.wait_for_state(&id, "cancelled").await;
}

#[tokio::test]
async fn rule_20_an_outage_of_our_own_spends_nobodys_retries() {
    const HOSTS: usize = 20;
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    for _ in 0..HOSTS {
        app.subscribe(&Receiver::nobody().await).await;
    }
    app.cancel_one().await;
    let ids: Vec<String> =
        app.deliveries().await.iter().map(|delivery| delivery["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), HOSTS);
    // Two retries would be all there is. The first round shows the outage, and may be counted.
    for attempts in 1..=5 {
        for id in &ids {
            let delivery = app.wait_for_attempts(id, attempts).await;
            assert_eq!(delivery["state"], "pending", "{delivery}");
        }
        // Longer than the longest delay with its jitter.
        database.advance(chrono::TimeDelta::seconds(130)).await;
    }
    let spent: i32 =
        sqlx::query_scalar("select max(attempts) from unfinished").fetch_one(&database.pool).await.unwrap();
    assert!(spent <= 1, "{spent} attempts were counted");
}

/// That a server has for its requests, beside the one that hears hints.
const CONNECTIONS: i64 = 19;

#[tokio::test]
async fn when_all_connections_are_in_use_requests_are_told_to_come_again_and_later_ones_are_served() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let session = app.open_session().await;
    let path = format!("/redirect-sessions/{session}");
    let mut lock = database.pool.begin().await.unwrap();
    sqlx::query("lock table redirect_sessions in access exclusive mode").execute(&mut *lock).await.unwrap();
    // More than there are connections.
    let asking: Vec<_> = (0..40).map(|_| tokio::spawn(app.request(Method::GET, &path).send())).collect();
    let waiting = "select count(*) from pg_stat_activity
                   where datname = current_database() and application_name = 'herald' and wait_event_type = 'Lock'";
    let mut watch = database.pool.acquire().await.unwrap();
    let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *watch).await.unwrap() < CONNECTIONS {
        assert!(std::time::Instant::now() < deadline, "there are connections left");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    everybody_is_told_to_come_again(&app, true).await;
    let (status, _) = app.operator().ask(Method::GET, "/readyz", None).await;
    assert_eq!(status, 503);
    // What needs none of theirs goes on.
    app.operator().publish(&[json!({ "type": "RedirectSessionCancelled", "data": {} })]).await;
    receiver.wait_for(1).await;
    lock.rollback().await.unwrap();
    everybody_is_served(&app).await;
    for asked in asking {
        let answer = asked.await.unwrap().unwrap();
        // It waited for the lock until it was there, or for longer than it may, or got no connection.
        if answer.status() != StatusCode::OK {
            assert_told_to_come_again(answer, "a session").await;
        }
    }
    assert_eq!(app.cancel(session).await, Some(200));
    while app.operator().ask(Method::GET, "/readyz", None).await.0 != 200 {}
}

#[tokio::test]
async fn connections_that_were_lost_while_nobody_looked_refuse_no_cancel() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    for _ in 0..3 {
        // The writer keeps the connection that it used.
        app.cancel_one().await;
        let session = app.open_session().await;
        let ended: Vec<(i32, bool)> = sqlx::query_as(
            "select pid, pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'herald'",
        )
        .fetch_all(&database.pool)
        .await
        .unwrap();
        assert!(!ended.is_empty());
        // One that was on its way out by itself is as good.
        let pids: Vec<i32> = ended.iter().map(|(pid, _)| *pid).collect();
        let left = "select count(*) from pg_stat_activity where pid = any ($1)";
        let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
        while sqlx::query_scalar::<_, i64>(left).bind(&pids).fetch_one(&database.pool).await.unwrap() > 0 {
            assert!(std::time::Instant::now() < deadline, "they do not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(app.cancel(session).await, Some(200));
    }
}

#[tokio::test]
async fn rule_24_a_server_that_takes_no_writes_is_left_for_one_that_does() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let session = app.open_session().await;
    let mut other = database.pool.acquire().await.unwrap();
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&mut *other).await.unwrap();
    let set = |what: &str| sqlx::AssertSqlSafe(format!("alter database \"{name}\" {what}"));
    sqlx::raw_sql(set("set default_transaction_read_only = on")).execute(&mut *other).await.unwrap();
    // As after a failover to a standby that is not one yet: new sessions can only read.
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'herald'",
    )
    .execute(&mut *other)
    .await
    .unwrap();
    let cancel = app.request(Method::POST, &format!("/redirect-sessions/{session}/cancel")).send().await;
    assert_told_to_come_again(cancel.unwrap(), "a cancel").await;
    while app.operator().ask(Method::GET, "/readyz", None).await.0 != 503 {}
    sqlx::raw_sql(set("reset default_transaction_read_only")).execute(&mut *other).await.unwrap();
    // Nobody ends the sessions that were opened meanwhile.
    while app.operator().ask(Method::GET, "/readyz", None).await.0 != 200 {}
    assert_eq!(app.cancel(session).await, Some(200));
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    app.wait_for_state(&id, "delivered").await;
}

#[tokio::test]
async fn rule_18_a_result_waits_for_whatever_passes() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    sqlx::raw_sql(
        "create sequence tries; create table refusing (code text not null);
         create function refuse() returns trigger language plpgsql as $$
         declare with_code text := (select code from refusing);
         begin
             if with_code is not null then
                 perform nextval('tries');
                 raise exception 'not now' using errcode = with_code;
             end if;
             return new;
         end $$;
         create trigger refuses before insert on attempts for each row execute function refuse()",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    // A standby, a bound on time, a machine in trouble, a user who is not known yet.
    for (count, code) in ["25006", "57014", "58030", "28000"].into_iter().enumerate() {
        sqlx::query("insert into refusing values ($1)").bind(code).execute(&database.pool).await.unwrap();
        app.cancel_one().await;
        let id = receiver.wait_for(count + 1).await[count].header("webhook-id").to_owned();
        let tries = "select last_value from tries";
        let before: i64 = sqlx::query_scalar(tries).fetch_one(&database.pool).await.unwrap();
        let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
        while sqlx::query_scalar::<_, i64>(tries).fetch_one(&database.pool).await.unwrap() < before + 2 {
            assert!(std::time::Instant::now() < deadline, "{code} is not tried again");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        sqlx::query("delete from refusing").execute(&database.pool).await.unwrap();
        let delivery = app.wait_for_state(&id, "delivered").await;
        assert_eq!(of_attempts(&delivery, "late"), [false], "{code}");
    }
    assert_eq!(receiver.calls().len(), 4);
}
