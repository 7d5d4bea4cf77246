//! Several processes on one database: one stops, one dies, one comes late.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use herald::clock;
use herald::config::RawConfig;
use herald::domain::attempt::Outcome;
use herald::domain::delivery::DeliveryState;
use herald::domain::id::{AttemptId, NodeId};
use herald::store::bundles;
use herald::store::queue::{self, Books, Claimed, Ending, Finish, Record};
use serde_json::json;
use sqlx::PgConnection;
use uuid::{NoContext, Timestamp, Uuid};

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::herald::Herald;
use crate::support::leases::{self, finish};
use crate::support::partner::{PATIENCE, of_attempts};
use crate::support::receiver::{Receiver, Reply, gate};
use crate::support::scratch::Scratch;

const LEASE: TimeDelta = TimeDelta::seconds(30);
const LEASE_MS: i64 = 30_000;

pub async fn wait_until_none_is(database: &TestDatabase, what: &'static str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: i64 = sqlx::query_scalar(what).fetch_one(&database.pool).await.unwrap();
        if left == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{left} are left of: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_is_under_way_and_gives_the_rest_to_others() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let one_at_a_time = RawConfig { callback_in_flight_max: Some("1".to_owned()), ..settings() };
    let first = App::start(&database, one_at_a_time).await;
    first.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 200)]);
    for _ in 0..3 {
        first.cancel_one().await;
    }
    let in_flight = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    first.begin_stop();
    wait_until_none_is(
        &database,
        "select greatest(count(*) - 1, 0) from unfinished where lease_owner is not null",
    )
    .await;
    gate.add_permits(1);
    first.stopped().await;

    let crashes: Vec<i16> = sqlx::query_scalar("select crashes from unfinished where lease_owner is null")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(crashes, [0, 0], "released, and no crash");
    let second = App::start(&database, settings()).await;
    let calls = receiver.wait_for(3).await;
    let delivery = second.wait_for_state(&in_flight, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [200]);
    for call in &calls {
        second.wait_for_state(call.header("webhook-id"), "delivered").await;
    }
    assert_eq!(receiver.calls().len(), 3, "none twice");
}

#[tokio::test]
async fn rule_18_another_node_delivers_what_a_dead_one_had_once_the_lease_has_passed() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let first = App::start(&database, settings()).await;
    first.subscribe(&receiver.url).await;
    receiver.reply([Reply::Gate(gate(), 200)]);
    first.cancel_one().await;
    let before = receiver.wait_for(1).await.remove(0);
    first.kill();

    let second = App::start(&database, settings()).await;
    let id = second.the_delivery().await;
    assert_eq!(second.delivery(&id).await["state"], "pending", "the lease has not passed");
    database.advance(LEASE).await;
    let again = receiver.wait_for(2).await.remove(1);
    assert_eq!(again.header("webhook-id"), before.header("webhook-id"));
    assert_eq!(again.body, before.body);
    let delivery = second.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "number"), [1], "the lost post left no word");
}

#[tokio::test]
async fn two_living_nodes_send_nothing_twice() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (one, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    one.subscribe(&receiver.url).await;
    // Too few in a row for either node's breaker.
    receiver.reply([500; 8]);
    for _ in 0..20 {
        one.cancel_one().await;
        other.cancel_one().await;
    }
    receiver.wait_for(40).await;
    wait_until_none_is(&database, "select count(*) from unfinished where lease_owner is not null").await;
    database.advance(TimeDelta::seconds(13)).await;
    let calls = receiver.wait_for(48).await;
    wait_until_none_is(&database, "select count(*) from unfinished").await;
    let mut ids: Vec<&str> = calls.iter().map(|call| call.header("webhook-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), receiver.calls().len()), (40, 48));
}

#[tokio::test]
async fn a_change_on_one_node_is_obeyed_on_another_within_its_second() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (one, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    let subscription = one.subscribe(&receiver.url).await;
    one.cancel_one().await;
    receiver.wait_for(1).await;
    other.change(subscription, json!({ "apiKey": "new-key" })).await;
    let mut calls = 1;
    loop {
        one.cancel_one().await;
        calls += 1;
        let call = receiver.wait_for(calls).await.remove(calls - 1);
        if call.header("x-api-key") == "new-key" {
            return;
        }
        assert!(call.at.duration_since(receiver.calls()[0].at) < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn rule_14_sigterm_ends_the_server_within_20_s_although_a_callback_hangs() {
    let (folder, receiver) = (Scratch::new("sigterm"), Receiver::start().await);
    // A post may take longer than stopping may.
    let patient = [("HERALD_DELIVERY_TIMEOUT_MS", "120000"), ("HERALD_LEASE_MS", "240000")];
    let herald = Herald::start(folder.path(), &patient).await;
    herald.subscribe(&receiver.url).await;
    receiver.reply([Reply::Gate(gate(), 204)]);
    herald.cancel_one().await;
    let before = receiver.wait_for(1).await.remove(0);
    let asked = std::time::Instant::now();
    assert!(herald.terminate().await.success());
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());

    // Released, not only left to its lease: the next one need not wait four minutes. Nobody reads what it says from then on.
    let mut herald = Herald::start_logging(folder.path(), &patient, std::process::Stdio::piped()).await;
    herald.stop_reading_its_log();
    let again = receiver.wait_for(2).await.remove(1);
    assert_eq!(again.header("webhook-id"), before.header("webhook-id"));
    herald.wait_for_state(again.header("webhook-id"), "delivered").await;
    // As when its terminal is closed.
    assert!(herald.signal("-HUP").await.success());
}

/// A delivery that failed once and waits in the queue, with no server about.
async fn a_waiting_delivery(database: &TestDatabase) -> String {
    let app = App::start(database, settings()).await;
    app.subscribe(&Receiver::nobody().await).await;
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    app.stop().await;
    database.advance(TimeDelta::seconds(13)).await;
    id
}

async fn claim(database: &TestDatabase, node: NodeId, limit: i64) -> Vec<Claimed> {
    let mut connection = database.pool.acquire().await.unwrap();
    bundles::take_apart_due(&mut connection, None, limit).await.unwrap();
    queue::claim(&mut connection, node, limit, LEASE_MS).await.unwrap()
}

async fn claim_suspect(database: &TestDatabase, node: NodeId) -> Option<Claimed> {
    let mut connection = database.pool.acquire().await.unwrap();
    queue::claim_suspect(&mut connection, node, LEASE_MS).await.unwrap()
}

/// How many of the leases were still this node's.
async fn changed(db: &mut PgConnection, node: NodeId, batch: &[Finish<'_>]) -> i64 {
    queue::finish(db, &mut Books::default(), node, batch).await.unwrap().changed
}

const DELIVERED: Ending = Ending::Final(DeliveryState::Delivered);
const DEAD: Ending = Ending::Final(DeliveryState::Dead);

/// What the queue and the history hold of a delivery: the epoch it is leased under, and outcome, final state and lateness of its ends.
type Standing = (Option<i32>, Vec<(String, Option<String>, bool)>);

async fn standing(db: &mut PgConnection, id: &str) -> Standing {
    let id: Uuid = id.parse().unwrap();
    let queued = sqlx::query_scalar("select lease_epoch from unfinished where delivery_id = $1").bind(id);
    let epoch = queued.fetch_optional(&mut *db).await.unwrap();
    let history = sqlx::query_as(
        "select outcome, final_state, late from attempts where delivery_id = $1 order by id offset 1",
    );
    (epoch, history.bind(id).fetch_all(db).await.unwrap())
}

fn told(outcome: &str, final_state: Option<&str>, late: bool) -> (String, Option<String>, bool) {
    (outcome.to_owned(), final_state.map(str::to_owned), late)
}

#[tokio::test]
async fn rule_19_a_late_finisher_changes_nothing_and_is_recorded() {
    let database = cluster::database().await;
    let id = a_waiting_delivery(&database).await;
    let (zombie, heir) = (NodeId::new(), NodeId::new());
    let old = leases::claimed(claim(&database, zombie, 1).await.pop().unwrap());
    assert!(claim(&database, heir, 1).await.is_empty(), "it is leased");
    database.advance(LEASE).await;
    let new = leases::claimed(claim(&database, heir, 1).await.pop().unwrap());
    assert_eq!((new.epoch, new.crashes), (old.epoch + 1, 1));

    let mut connection = database.pool.acquire().await.unwrap();
    for ending in [DELIVERED, Ending::Retry { delay_ms: 0 }, Ending::Hold, Ending::Release { delay_ms: 0 }] {
        let mut late = finish(&old, ending, Outcome::Refused);
        if matches!(ending, Ending::Release { .. }) {
            late.record = None;
        }
        assert_eq!(changed(&mut connection, zombie, &[late]).await, 0, "{ending:?}");
    }
    let late = told("refused", None, true);
    let expected = (Some(new.epoch), vec![late.clone(), late.clone(), late]);
    assert_eq!(standing(&mut connection, &id).await, expected);

    let on_time = finish(&new, DELIVERED, Outcome::Delivered);
    assert_eq!(changed(&mut connection, heir, &[on_time]).await, 1);
    let (queued, history) = standing(&mut connection, &id).await;
    assert_eq!((queued, history.last()), (None, Some(&told("delivered", Some("delivered"), false))));
    let app = App::start(&database, settings()).await;
    let delivery = app.delivery(&id).await;
    assert_eq!(delivery["state"], "delivered");
    assert_eq!(of_attempts(&delivery, "late"), [false, true, true, true, false]);
}

#[tokio::test]
async fn a_result_that_is_told_twice_is_recorded_once() {
    let database = cluster::database().await;
    let id = a_waiting_delivery(&database).await;
    let node = NodeId::new();
    let lease = leases::claimed(claim(&database, node, 1).await.pop().unwrap());
    let mut connection = database.pool.acquire().await.unwrap();
    // The answer to the first never came, so the recorder asks again, a moment later.
    let told_first = finish(&lease, DELIVERED, Outcome::Delivered);
    let mut told_again = finish(&lease, DELIVERED, Outcome::Delivered);
    told_again.record = told_first
        .record
        .clone()
        .map(|record| Record { started_ago_ms: record.started_ago_ms + 250, ..record });
    assert_eq!(changed(&mut connection, node, &[told_first]).await, 1);
    assert_eq!(changed(&mut connection, node, &[told_again]).await, 0);
    let once = vec![told("delivered", Some("delivered"), false)];
    assert_eq!(standing(&mut connection, &id).await, (None, once));
}

#[tokio::test]
async fn rule_19_a_late_result_beside_the_true_one_in_a_batch_stays_late() {
    let trues = [(DEAD, Outcome::Refused, "dead"), (DELIVERED, Outcome::Delivered, "delivered")];
    for (ending, outcome, state) in trues {
        let database = cluster::database().await;
        let id = a_waiting_delivery(&database).await;
        // The same node lost the lease to itself: only the epoch tells the two apart.
        let node = NodeId::new();
        let old = leases::claimed(claim(&database, node, 1).await.pop().unwrap());
        database.advance(LEASE).await;
        let new = leases::claimed(claim(&database, node, 1).await.pop().unwrap());
        let mut connection = database.pool.acquire().await.unwrap();
        let mut late = finish(&old, DELIVERED, Outcome::Delivered);
        // Attempts of one millisecond stand in no order.
        late.record.as_mut().unwrap().started_ago_ms = 5_000;
        let batch = [late, finish(&new, ending, outcome)];
        assert_eq!(changed(&mut connection, node, &batch).await, 1, "{state}");
        let expected = vec![told("delivered", None, true), told(outcome.as_str(), Some(state), false)];
        assert_eq!(standing(&mut connection, &id).await, (None, expected));
    }
}

#[tokio::test]
async fn rule_19_the_last_end_counts_although_the_nodes_clocks_are_an_hour_apart() {
    let database = cluster::database().await;
    let id = a_waiting_delivery(&database).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let hour_s = 3_600;
    for (ahead_s, ending, outcome) in [
        (hour_s, DEAD, Outcome::Refused),
        (0, DEAD, Outcome::TimedOut),
        (-hour_s, DELIVERED, Outcome::Delivered),
    ] {
        let node = NodeId::new();
        let lease = leases::claimed(claim(&database, node, 1).await.pop().unwrap());
        let mut end = finish(&lease, ending, outcome);
        let its_time_s = u64::try_from(clock::now().timestamp() + ahead_s).unwrap();
        let its_id = Uuid::new_v7(Timestamp::from_unix(NoContext, its_time_s, 0));
        end.record.as_mut().unwrap().attempt = AttemptId(its_id);
        assert_eq!(changed(&mut connection, node, &[end]).await, 1);
        if ending == DEAD {
            assert!(leases::begins_again(&mut connection, &lease).await);
        }
    }
    let app = App::start(&database, settings()).await;
    let delivery = app.delivery(&id).await;
    assert_eq!(delivery["state"], "delivered");
    assert_eq!(of_attempts(&delivery, "outcome"), ["unreachable", "refused", "timedOut", "delivered"]);
}

#[tokio::test]
async fn rule_19_a_finisher_from_before_a_redelivery_is_late_as_well() {
    let database = cluster::database().await;
    let id = a_waiting_delivery(&database).await;
    let (zombie, heir) = (NodeId::new(), NodeId::new());
    let old = leases::claimed(claim(&database, zombie, 1).await.pop().unwrap());
    database.advance(LEASE).await;
    let new = leases::claimed(claim(&database, heir, 1).await.pop().unwrap());
    let mut connection = database.pool.acquire().await.unwrap();
    assert_eq!(changed(&mut connection, heir, &[finish(&new, DEAD, Outcome::Refused)]).await, 1);
    assert!(leases::begins_again(&mut connection, &new).await);
    // The first node leases it again and again, up to as often as it had been leased before.
    for _ in 0..=old.epoch {
        let again = leases::claimed(claim(&database, zombie, 1).await.pop().unwrap());
        let late = finish(&old, DELIVERED, Outcome::Delivered);
        assert_eq!(changed(&mut connection, zombie, &[late]).await, 0);
        let mut release = finish(&again, Ending::Release { delay_ms: 0 }, Outcome::Refused);
        release.record = None;
        assert_eq!(changed(&mut connection, zombie, &[release]).await, 1);
    }
    let (queued, history) = standing(&mut connection, &id).await;
    assert!(queued.is_some());
    assert!(history[1..].iter().all(|end| *end == told("delivered", None, true)), "{history:?}");
}

#[tokio::test]
async fn rule_23_a_delivery_that_ends_its_sender_five_times_is_dead() {
    for (crashes, state) in [(4, "delivered"), (5, "dead")] {
        let (database, receiver) = (cluster::database().await, Receiver::start().await);
        let app = App::start(&database, settings()).await;
        app.subscribe(&receiver.url).await;
        receiver.reply([Reply::Gate(gate(), 200)]);
        app.cancel_one().await;
        receiver.wait_for(1).await;
        let id = app.the_delivery().await;
        app.kill();
        // Its first sender died, and so do those that claim it here; the last claim is the server's.
        for crash in 1..crashes {
            database.advance(LEASE).await;
            let claimed = if crash == 1 {
                claim(&database, NodeId::new(), 1).await.pop()
            } else {
                assert!(claim(&database, NodeId::new(), 1).await.is_empty(), "it is claimed by itself");
                claim_suspect(&database, NodeId::new()).await
            };
            assert_eq!(claimed.unwrap().crashes, crash);
        }
        database.advance(LEASE).await;
        let app = App::start(&database, settings()).await;
        let delivery = app.wait_for_state(&id, state).await;
        let sent = usize::from(state == "delivered");
        assert_eq!(of_attempts(&delivery, "outcome").len(), sent);
        assert_eq!(receiver.calls().len(), 1 + sent);
        if state == "dead" {
            assert_eq!(app.redeliver(&id).await.0, 202);
            app.wait_for_state(&id, "delivered").await;
        }
    }
}
