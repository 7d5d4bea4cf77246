//! Results that the database does not take although it is there. Others must not wait for them, nor may they be lost.

use chrono::TimeDelta;
use herald::config::RawConfig;
use serde_json::json;
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::nodes::wait_until_none_is;
use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
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

/// Leases that nobody's slowness outlasts.
fn long_leases() -> RawConfig {
    RawConfig { lease_ms: Some("600000".to_owned()), ..settings() }
}

/// Cancels, and waits until that was delivered and is recorded.
async fn deliver_one(app: &App, receiver: &Receiver) {
    let before = receiver.calls().len();
    app.cancel_one().await;
    let call = receiver.wait_for(before + 1).await.remove(before);
    app.wait_for_state(call.header("webhook-id"), "delivered").await;
}

#[tokio::test]
async fn rule_23_what_arrives_again_and_again_while_its_results_are_not_taken_is_no_crash() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    deliver_one(&app, &receiver).await;
    let mut lock = database.pool.begin().await.unwrap();
    sqlx::query("lock table attempts in share mode").execute(&mut *lock).await.unwrap();
    app.cancel_one().await;
    // As often as it would take to be given up, and once more.
    for sent in 2..8 {
        let calls = receiver.wait_for(sent).await;
        assert_eq!(calls[sent - 1].header("webhook-id"), calls[1].header("webhook-id"));
        database.advance(TimeDelta::seconds(31)).await;
    }
    let failing = "herald_work_failing_seconds{work=\"record_results\"} ";
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let metrics = reqwest::get(format!("{}/metrics", app.operator)).await.unwrap().text().await.unwrap();
        let shown: f64 =
            metrics.lines().find_map(|line| line.strip_prefix(failing)).unwrap().parse().unwrap();
        if shown > 0.0 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "that results are not taken can be seen");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    lock.rollback().await.unwrap();
    let id = receiver.calls()[1].header("webhook-id").to_owned();
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert!(of_attempts(&delivery, "outcome").iter().all(|outcome| outcome == "delivered"), "{delivery}");
    app.stop().await;
}

#[tokio::test]
async fn rule_23_what_is_sent_in_vain_because_its_result_is_never_taken_is_given_up_after_five_times() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let refuse = "create function refuse() returns trigger language plpgsql as $$
        begin
            if new.outcome = 'delivered' then raise exception 'damaged' using errcode = 'XX001'; end if;
            return new;
        end $$;
        create trigger refuses before insert on attempts for each row execute function refuse()";
    sqlx::raw_sql(refuse).execute(&database.pool).await.unwrap();
    app.cancel_one().await;
    for sent in 1..=5_i16 {
        receiver.wait_for(usize::try_from(sent).unwrap()).await;
        let deadline = std::time::Instant::now() + PATIENCE;
        let counted = "select coalesce(max(crashes), 0)::smallint from queue";
        while sqlx::query_scalar::<_, i16>(counted).fetch_one(&database.pool).await.unwrap() < sent {
            assert!(std::time::Instant::now() < deadline, "the {sent}. is not counted");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        database.advance(TimeDelta::seconds(31)).await;
    }
    let id = receiver.calls()[0].header("webhook-id").to_owned();
    app.wait_for_state(&id, "dead").await;
    assert_eq!(receiver.calls().len(), 5);
    app.stop().await;
}

#[tokio::test]
async fn rule_18_a_result_that_is_not_taken_is_in_nobodys_way_and_written_once_it_can_be() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, long_leases()).await;
    app.subscribe(&receiver.url).await;
    breakable(&database.pool, "attempts").await;
    // Four of one bundle, of which one is not taken. Two end with it, and the last while the bundle is taken apart for them, or later.
    let [together, later] = [gate(), gate()];
    receiver.reply((0..3).map(|_| Reply::Gate(together.clone(), 204)));
    receiver.reply([Reply::Gate(later.clone(), 204)]);
    app.operator().publish(&vec![json!({ "type": "RedirectSessionCancelled", "data": {} }); 4]).await;
    let calls = receiver.wait_for(4).await;
    let ids: Vec<&str> = calls.iter().map(|call| call.header("webhook-id")).collect();
    break_it(&database.pool, &app, ids[0]).await;
    together.add_permits(3);
    for id in &ids[1..3] {
        app.wait_for_state(id, "delivered").await;
    }
    later.add_permits(1);
    app.wait_for_state(ids[3], "delivered").await;
    for _ in 0..4 {
        deliver_one(&app, &receiver).await;
    }
    wait_for_tries(&database.pool, 6).await;
    assert_eq!(app.delivery(ids[0]).await["state"], "pending");
    mend(&database.pool).await;
    app.wait_for_state(ids[0], "delivered").await;
    for id in ids {
        let delivery = app.delivery(id).await;
        assert_eq!(
            (of_attempts(&delivery, "status"), of_attempts(&delivery, "late")),
            (vec![json!(204)], vec![json!(false)])
        );
    }
    assert_eq!(receiver.calls().len(), 8, "nothing was sent again");
}

#[tokio::test]
async fn rule_18_what_a_result_that_is_not_taken_is_about_is_sent_again_and_the_result_forgotten() {
    let (database, [broken, well]) =
        (cluster::database().await, [Receiver::start().await, Receiver::start().await]);
    let short_leases = RawConfig {
        delivery_timeout_ms: Some("500".to_owned()),
        lease_ms: Some("1000".to_owned()),
        ..settings()
    };
    let app = App::start(&database, short_leases).await;
    breakable(&database.pool, "attempts").await;
    app.subscribe(&broken.url).await;
    let gate = gate();
    broken.reply([Reply::Gate(gate.clone(), 204)]);
    app.cancel_one().await;
    let id = broken.wait_for(1).await[0].header("webhook-id").to_owned();
    break_it(&database.pool, &app, &id).await;
    gate.add_permits(1);
    app.subscribe(&well.url).await;
    // Others are written, so that it is not the database that has to be waited for.
    let deadline = std::time::Instant::now() + PATIENCE;
    while broken.calls().iter().filter(|call| call.header("webhook-id") == id).count() < 4 {
        assert!(std::time::Instant::now() < deadline, "it is not sent again");
        deliver_one(&app, &well).await;
    }
    mend(&database.pool).await;
    let delivery = app.wait_for_state(&id, "delivered").await;
    let sent = broken.calls().iter().filter(|call| call.header("webhook-id") == id).count();
    let told = of_attempts(&delivery, "late");
    assert!(told.len() < sent, "{sent} were sent, and {} are told of", told.len());
    assert_eq!(told.iter().filter(|late| **late == json!(false)).count(), 1, "{delivery}");
}

#[tokio::test]
async fn rule_18_what_disables_is_undone_with_the_result_that_was_not_taken_and_done_with_it() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, long_leases()).await;
    let subscription = app.subscribe(&receiver.url).await;
    breakable(&database.pool, "attempts").await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 410)]);
    app.cancel_one().await;
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    break_it(&database.pool, &app, &id).await;
    gate.add_permits(1);
    wait_for_tries(&database.pool, 3).await;
    deliver_one(&app, &receiver).await;
    assert_eq!(app.standing(subscription).await["state"], "active");
    mend(&database.pool).await;
    app.wait_for_state(&id, "held").await;
    assert_eq!(app.standing(subscription).await["state"], "disabled");
    assert_eq!(receiver.calls().len(), 2);
}

#[tokio::test]
async fn rule_18_a_bundle_that_cannot_be_taken_apart_holds_up_no_other() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, long_leases()).await;
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
    for _ in 0..4 {
        deliver_one(&app, &receiver).await;
    }
    mend(&database.pool).await;
    let delivery = app.wait_for_attempts(&id, 1).await;
    assert_eq!((&delivery["state"], of_attempts(&delivery, "status")), (&json!("pending"), vec![json!(500)]));
}

#[tokio::test]
async fn rule_18_results_that_are_not_taken_hold_up_no_stop_and_are_sent_by_the_next() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, long_leases()).await;
    app.subscribe(&receiver.url).await;
    breakable(&database.pool, "attempts").await;
    let gate = gate();
    receiver.reply((0..2).map(|_| Reply::Gate(gate.clone(), 204)));
    app.operator().publish(&vec![json!({ "type": "RedirectSessionCancelled", "data": {} }); 2]).await;
    let calls = receiver.wait_for(2).await;
    let ids: Vec<&str> = calls.iter().map(|call| call.header("webhook-id")).collect();
    break_it(&database.pool, &app, ids[0]).await;
    gate.add_permits(2);
    wait_for_tries(&database.pool, 1).await;
    app.stop().await;
    mend(&database.pool).await;
    let app = App::start(&database, long_leases()).await;
    for id in &ids {
        let delivery = app.wait_for_state(id, "delivered").await;
        assert_eq!(of_attempts(&delivery, "late"), [false]);
    }
    let calls = receiver.wait_for(3).await;
    assert_eq!(calls.iter().filter(|call| call.header("webhook-id") == ids[0]).count(), 2);
}

/// As by hand, in a transaction that somebody forgot.
async fn forget_a_lock(database: &TestDatabase, subscriptions: &[Uuid]) -> Transaction<'static, Postgres> {
    let mut lock = database.pool.begin().await.unwrap();
    let locked = sqlx::query("select from subscriptions where external_key = any ($1) for update")
        .bind(subscriptions.iter().map(Uuid::to_string).collect::<Vec<_>>())
        .execute(&mut *lock)
        .await
        .unwrap();
    assert_eq!(locked.rows_affected(), subscriptions.len() as u64);
    lock
}

#[tokio::test]
async fn rule_18_no_result_waits_for_a_subscription_that_somebody_has_locked() {
    let database = cluster::database().await;
    let [gone, failing, well] = [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    let one_retry = RawConfig { retry_delays_s: Some("10".to_owned()), ..long_leases() };
    let app = App::start(&database, one_retry).await;
    let disabled = app.subscribe(&gone.url).await;
    let failed = app.subscribe(&failing.url).await;
    app.subscribe(&well.url).await;
    let lock = forget_a_lock(&database, &[disabled, failed]).await;
    gone.always(Reply::Status(410));
    failing.always(Reply::Status(500));
    for _ in 0..4 {
        deliver_one(&app, &well).await;
    }
    for receiver in [&gone, &failing] {
        for call in receiver.wait_for(4).await {
            let delivery = app.wait_for_attempts(call.header("webhook-id"), 1).await;
            assert_eq!(delivery["state"], "pending", "as any failure");
        }
    }
    database.advance(TimeDelta::seconds(13)).await;
    let ids: Vec<String> =
        gone.wait_for(8).await[..4].iter().map(|call| call.header("webhook-id").to_owned()).collect();
    for id in &ids {
        assert_eq!(app.wait_for_attempts(id, 2).await["state"], "pending", "also after its last retry");
    }
    assert_eq!(app.standing(disabled).await["state"], "active");
    lock.rollback().await.unwrap();
    // The next answer says the same.
    database.advance(TimeDelta::seconds(61)).await;
    for id in &ids {
        app.wait_for_state(id, "held").await;
    }
    assert_eq!(app.standing(disabled).await["state"], "disabled");
}

#[tokio::test]
async fn rule_18_what_is_held_waits_for_no_lock_either() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, long_leases()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([500]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    let disable = "update subscriptions set state = 'disabled', version = version + 1";
    sqlx::query(disable).execute(&database.pool).await.unwrap();
    // What is known of a subscription is a second old at most.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let lock = forget_a_lock(&database, &[subscription]).await;
    database.advance(TimeDelta::seconds(13)).await;
    app.wait_for_state(&id, "held").await;
    lock.rollback().await.unwrap();
    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    app.wait_for_state(&id, "delivered").await;
}

#[tokio::test]
async fn rule_21_a_success_counts_although_somebody_had_the_subscription_locked() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let patient = RawConfig { disable_after_days: Some("2".to_owned()), ..long_leases() };
    let app = App::start(&database, patient).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.reply([500]);
    app.cancel_one().await;
    let first = app.the_delivery().await;
    app.wait_for_attempts(&first, 1).await;
    let lock = forget_a_lock(&database, &[subscription]).await;
    receiver.reply([204, 500, 500]);
    database.advance(TimeDelta::days(3)).await;
    app.wait_for_state(&first, "delivered").await;
    // What is known of a subscription is a second old at most: the next post goes out to one that has failed for days.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    app.cancel_one().await;
    let second = receiver.wait_for(3).await[2].header("webhook-id").to_owned();
    let delivery = app.wait_for_attempts(&second, 1).await;
    assert_eq!(delivery["state"], "pending");
    lock.rollback().await.unwrap();
    // It is noted although nothing else is to be written.
    let failing = "select count(*) from subscriptions where failing_since is not null";
    wait_until_none_is(&database, failing).await;
    database.advance(TimeDelta::seconds(13)).await;
    app.wait_for_attempts(&second, 2).await;
    assert_eq!(app.standing(subscription).await["state"], "active");
}
