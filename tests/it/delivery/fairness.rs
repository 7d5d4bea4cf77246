//! One callback that hangs delays nobody else (SECURITY rule 20), and waiting costs a delivery nothing (rule 23).

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use herald::config::RawConfig;
use serde_json::json;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::receiver::{Call, Receiver, Reply, gate};

const BACKLOG: usize = 1_000;
const UNDER_WAY: usize = 20;

#[tokio::test]
async fn rule_20_a_thousand_waiting_for_a_hanging_callback_delay_nobody_else() {
    let (database, hanging, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = Arc::new(App::start(&database, settings()).await);
    app.subscribe(&hanging.url).await;
    app.subscribe(&healthy.url).await;
    hanging.always(Reply::Gate(gate(), 204));
    let cancellers: Vec<_> = (0..UNDER_WAY)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move {
                for _ in 0..BACKLOG / UNDER_WAY {
                    app.cancel_one().await;
                }
            })
        })
        .collect();
    for canceller in cancellers {
        canceller.await.unwrap();
    }
    healthy.wait_for(BACKLOG).await;
    // Four at a time, and a few more if the thousand took longer than they may hang.
    assert!(hanging.calls().len() < BACKLOG / 10, "{} calls hang", hanging.calls().len());
}

#[tokio::test]
async fn rule_20_a_backlog_for_a_hanging_callback_delays_no_retry_of_another() {
    let (database, hanging, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    // Room for few, so that a small backlog would fill it.
    let narrow = RawConfig {
        in_flight_max: Some("4".to_owned()),
        callback_in_flight_max: Some("1".to_owned()),
        ..settings()
    };
    let app = App::start(&database, narrow).await;
    let hang = app.subscribe(&hanging.url).await;
    hanging.reply([410]);
    app.cancel_one().await;
    app.wait_for_state(&app.the_delivery().await, "held").await;
    for _ in 0..50 {
        app.cancel_one().await;
    }
    app.subscribe(&healthy.url).await;
    healthy.reply([500]);
    app.cancel_one().await;
    let retried = healthy.wait_for(1).await[0].header("webhook-id").to_owned();
    app.wait_for_attempts(&retried, 1).await;

    hanging.always(Reply::Gate(gate(), 204));
    app.change(hang, json!({ "apiKey": "again" })).await;
    hanging.wait_for(2).await;
    database.advance(TimeDelta::seconds(13)).await;
    healthy.wait_for(2).await;
    assert_eq!(hanging.calls().len(), 2, "the first post still hangs");
    app.wait_for_state(&retried, "delivered").await;
}

#[tokio::test]
async fn rule_23_waiting_behind_a_slow_callback_counts_no_crash_and_sends_nothing_twice() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    // A lease is shorter than the wait: eight posts of 0.4 s, one after the other.
    let short = RawConfig {
        callback_in_flight_max: Some("1".to_owned()),
        delivery_timeout_ms: Some("400".to_owned()),
        lease_ms: Some("1000".to_owned()),
        // None is due again before all were sent, however long that takes.
        retry_delays_s: Some("1000".to_owned()),
        ..settings()
    };
    let app = App::start(&database, short).await;
    app.subscribe(&receiver.url).await;
    receiver.always(Reply::Gate(gate(), 204));
    for _ in 0..8 {
        app.cancel_one().await;
    }
    // Watched all along: a crash that was counted is forgotten with the next outcome.
    sqlx::raw_sql(
        "create table seen_crashes (delivery_id uuid);
         create function see_crash() returns trigger language plpgsql as $$
             begin insert into seen_crashes values (new.delivery_id); return null; end $$;
         create trigger see_crash after update on queue for each row when (new.crashes > 0) execute function see_crash()",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let calls = receiver.wait_until("each to be sent", |calls| distinct(calls) == 8).await;
    assert_eq!(calls.len(), 8, "none is sent twice before each was sent once");
    let crashes: i64 =
        sqlx::query_scalar("select count(*) from seen_crashes").fetch_one(&database.pool).await.unwrap();
    assert_eq!(crashes, 0);
}

fn distinct(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.header("webhook-id")).collect::<std::collections::HashSet<_>>().len()
}

#[tokio::test]
async fn rule_20_a_callback_that_fails_again_and_again_is_left_alone_then_asked_once_and_caught_up_with() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.always(Reply::Status(500));
    for _ in 0..40 {
        app.cancel_one().await;
    }
    // Ten failures open the breaker; no more than what was under way at that moment comes on top.
    receiver.wait_for(10).await;
    let idle = "select count(*) from unfinished where lease_owner is not null";
    crate::delivery::nodes::wait_until_none_is(&database, idle).await;
    assert!(receiver.calls().len() < 14, "{} calls", receiver.calls().len());
    let untouched: i64 =
        sqlx::query_scalar("select count(*) from unfinished where attempts = 0 and lease_owner is null")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert!(untouched > 26, "what was put off has spent nothing of its budget");

    receiver.always(Reply::Status(204));
    let calls = receiver.wait_until("all to arrive", |calls| distinct(calls) == 40).await;
    let (ten, probe) =
        (calls[9].at, calls.iter().find(|call| call.at.duration_since(calls[9].at).as_secs() >= 4));
    assert!(probe.is_some(), "it was left alone for a while after {ten:?}");
}

#[tokio::test]
async fn rule_21_a_callback_that_asks_for_time_gets_it_for_everything_that_is_due_to_it() {
    const ASKED: Duration = Duration::from_secs(2);
    let (database, busy, other) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&busy.url).await;
    app.subscribe(&other.url).await;
    busy.reply([Reply::Later(503, ASKED.as_secs().to_string())]);
    app.cancel_one().await;
    let asked_at = busy.wait_for(1).await[0].at;
    let first = busy.calls()[0].header("webhook-id").to_owned();
    app.wait_for_attempts(&first, 1).await;
    for _ in 0..20 {
        app.cancel_one().await;
    }
    other.wait_for(21).await;
    let calls = busy.wait_until("the others", |calls| distinct(calls) == 21 || calls.len() > 21).await;
    for call in &calls[1..] {
        assert!(call.at.duration_since(asked_at) >= ASKED, "it was not left alone");
    }
    let untouched = calls[1..].iter().filter(|call| call.header("webhook-id") != first).count();
    assert_eq!(untouched, 20, "each was sent once: waiting is no attempt");
}

#[tokio::test]
async fn rule_21_a_callback_that_has_too_much_to_do_gets_less_at_a_time_until_it_takes_it() {
    let (database, busy, other) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app =
        App::start(&database, RawConfig { retry_delays_s: Some("1000".to_owned()), ..settings() }).await;
    app.subscribe(&busy.url).await;
    busy.reply([503]);
    app.cancel_one().await;
    app.wait_for_attempts(&app.the_delivery().await, 1).await;
    app.subscribe(&other.url).await;
    let gate = gate();
    busy.always(Reply::Gate(gate.clone(), 204));
    app.operator().publish(&vec![json!({ "type": "RedirectSessionCancelled", "data": {} }); 20]).await;
    other.wait_for(20).await;
    assert_eq!(busy.wait_for(3).await.len(), 3, "two at a time instead of four");
    // Two and then three that it takes make it four again.
    gate.add_permits(5);
    busy.wait_for(1 + 5 + 4).await;
    gate.add_permits(1_000);
    busy.wait_until("the rest", |calls| distinct(calls) == 21).await;
}

#[tokio::test]
async fn the_operators_rate_limit_holds_for_every_callback_and_bounds_what_partners_ask_for() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let bounded = RawConfig { callback_rate_per_s: Some("2".to_owned()), ..settings() };
    let app = App::start(&database, bounded).await;
    let subscription = app.subscribe(&receiver.url).await;
    assert_eq!(app.standing(subscription).await["policy"]["ratePerS"], 2);
    let (status, problem) = app.set_policy(subscription, json!({ "ratePerS": 3 })).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("ratePerS")));
    let (status, standing) = app.set_policy(subscription, json!({ "ratePerS": 1 })).await;
    assert_eq!((status, &standing["policy"]["ratePerS"]), (200, &json!(1)));
    let (_, standing) = app.set_policy(subscription, json!({ "ratePerS": null })).await;
    assert_eq!(standing["policy"]["ratePerS"], 2);
    for _ in 0..8 {
        app.cancel_one().await;
    }
    let calls = receiver.wait_for(8).await;
    assert!(calls[7].at.duration_since(calls[0].at).as_millis() > 2_000);
    assert_eq!(distinct(&calls), 8);
}

#[tokio::test]
async fn a_rate_limit_spreads_what_is_beyond_it() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    assert_eq!(app.set_policy(subscription, json!({ "ratePerS": 2 })).await.0, 200);
    for _ in 0..8 {
        app.cancel_one().await;
    }
    let calls = receiver.wait_for(8).await;
    // Two at once and two a second afterwards: the eighth is due after three seconds.
    assert!(calls[7].at.duration_since(calls[0].at).as_millis() > 2_000);
    assert_eq!(distinct(&calls), 8);
}

#[tokio::test]
async fn a_limit_that_is_taken_away_holds_nothing_back_any_more() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    assert_eq!(app.set_policy(subscription, json!({ "ratePerS": 1 })).await.0, 200);
    // At this rate they would take far longer than anybody waits here.
    app.operator().publish(&vec![json!({ "type": "RedirectSessionCancelled", "data": {} }); 500]).await;
    receiver.wait_for(3).await;
    assert_eq!(app.set_policy(subscription, json!({ "ratePerS": null })).await.0, 200);
    receiver.wait_until("all", |calls| distinct(calls) == 500).await;
}

#[tokio::test]
async fn what_waits_moves_up_with_a_rate_that_is_raised_and_what_comes_then_goes_behind_it() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    assert_eq!(app.set_policy(subscription, json!({ "ratePerS": 1 })).await.0, 200);
    let event = |number: u64| json!({ "type": "RedirectSessionCancelled", "data": { "number": number } });
    let operator = app.operator();
    operator.publish(&(0..300).map(event).collect::<Vec<_>>()).await;
    receiver.wait_for(2).await;
    assert_eq!(app.set_policy(subscription, json!({ "ratePerS": 50 })).await.0, 200);
    for number in 300..310 {
        operator.publish(&[event(number)]).await;
    }
    receiver.wait_until("all", |calls| distinct(calls) == 310).await;
    let numbers = receiver.calls().into_iter().map(|call| call.json()["data"]["number"].as_u64().unwrap());
    let first_behind = numbers.take(310).position(|number| number >= 300).unwrap();
    // A second's worth may be under way out of turn where the rates change.
    assert!(first_behind >= 200, "{first_behind}");
}

#[tokio::test]
async fn what_waits_for_its_callbacks_rate_is_not_overtaken_by_what_comes_later() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    assert_eq!(app.set_policy(subscription, json!({ "ratePerS": 20 })).await.0, 200);
    let event = |number: u64| json!({ "type": "RedirectSessionCancelled", "data": { "number": number } });
    let operator = app.operator();
    operator.publish(&(0..80).map(event).collect::<Vec<_>>()).await;
    receiver.wait_for(25).await;
    for number in 80..100 {
        operator.publish(&[event(number)]).await;
    }
    receiver.wait_until("all", |calls| distinct(calls) == 100).await;
    let numbers: Vec<u64> =
        receiver.calls().iter().map(|call| call.json()["data"]["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), 100);
    // A few are under way at a time.
    let displaced = (0..).zip(&numbers).filter(|(place, number)| number.abs_diff(*place) > 8).count();
    assert_eq!(displaced, 0, "{numbers:?}");
}

#[tokio::test]
async fn rule_20_a_start_over_backlogs_for_many_hanging_callbacks_brings_the_others_theirs() {
    const HANGING: usize = 8;
    const AT_A_TIME: usize = 2;
    let database = cluster::database().await;
    // Room for 128 claimed leases: 16 for each lane, if each that hangs had its share of it.
    let narrow = || RawConfig {
        in_flight_max: Some("32".to_owned()),
        callback_in_flight_max: Some(AT_A_TIME.to_string()),
        delivery_timeout_ms: Some("25000".to_owned()),
        lease_ms: Some("60000".to_owned()),
        ..settings()
    };
    let app = App::start(&database, narrow()).await;
    let mut hanging = Vec::new();
    for _ in 0..HANGING {
        let receiver = Receiver::start().await;
        receiver.always(Reply::Gate(gate(), 204));
        app.subscribe(&receiver.url).await;
        hanging.push(receiver);
    }
    // What is due first is due to those that hang.
    for _ in 0..100 {
        app.cancel_one().await;
    }
    let healthy = [Receiver::start().await, Receiver::start().await];
    for receiver in &healthy {
        receiver.always(Reply::Gate(gate(), 204));
        app.subscribe(&receiver.url).await;
    }
    for _ in 0..UNDER_WAY {
        app.cancel_one().await;
    }
    app.kill();
    database.advance(TimeDelta::seconds(61)).await;

    let count =
        |receivers: &[Receiver]| receivers.iter().map(|receiver| receiver.calls().len()).sum::<usize>();
    let before = count(&hanging);
    for receiver in &healthy {
        receiver.always(204);
    }
    let _app = App::start(&database, narrow()).await;
    for receiver in &healthy {
        let all = |calls: &[Call]| distinct(calls) == UNDER_WAY && calls.len() >= UNDER_WAY + AT_A_TIME;
        receiver.wait_until("all that was meant for it", all).await;
    }
    let begun = count(&hanging) - before;
    assert!(
        begun <= HANGING * AT_A_TIME,
        "{begun} posts to those that hang: the others waited until some were over"
    );
}

#[tokio::test]
async fn rule_20_more_callbacks_that_hang_than_there_are_places_leave_one_for_the_next() {
    const PLACES: usize = 8;
    let (database, hanging, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    // None that hangs is over before the test is.
    let narrow = RawConfig {
        in_flight_max: Some(PLACES.to_string()),
        delivery_timeout_ms: Some("120000".to_owned()),
        lease_ms: Some("300000".to_owned()),
        ..settings()
    };
    let app = App::start(&database, narrow).await;
    hanging.always(Reply::Gate(gate(), 204));
    for number in 0..2 * PLACES {
        app.subscribe(&format!("{}/{number}", hanging.url)).await;
    }
    app.cancel_one().await;
    hanging.wait_for(2 * PLACES).await;
    app.subscribe(&healthy.url).await;
    for number in 1..=10 {
        app.cancel_one().await;
        healthy.wait_for(number).await;
    }
    let hang = hanging.calls().len();
    assert!((2 * PLACES..=4 * PLACES).contains(&hang), "{hang} posts hang");
    // A stop would wait for them.
    app.kill();
}

#[tokio::test]
async fn rule_20_a_partner_has_a_few_test_events_under_way_whoever_hung_up() {
    let (database, hanging) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let gate = gate();
    hanging.always(Reply::Gate(gate.clone(), 200));
    let subscription = app.subscribe(&hanging.url).await;
    let path = format!("/herald/v1/subscriptions/redirect/{subscription}/test");
    // Each hangs up as soon as its event is there.
    for count in 1..=4 {
        let asked = tokio::spawn(app.request(reqwest::Method::POST, &path).send());
        hanging.wait_for(count).await;
        asked.abort();
    }
    let (status, body) = app.test(subscription).await;
    assert_eq!(status, 429, "{body}");
    gate.add_permits(5);
    let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
    while app.test(subscription).await.0 != 200 {
        assert!(std::time::Instant::now() < deadline, "the places do not get free");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
