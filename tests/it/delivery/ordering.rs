//! Ordering keys: what has one arrives in its order, and waits for nobody else.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::TimeDelta;
use herald::config::RawConfig;
use herald::store::ordering_lines;
use herald::store::queue::{self, Walked};
use serde_json::{Value, json};

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::text;
use crate::support::receiver::{Call, Receiver, Reply, gate};

const TYPE: &str = "RedirectSessionCancelled";

/// An event that says which one of its key it is.
fn event(key: &str, number: usize) -> Value {
    json!({ "type": TYPE, "data": { "key": key, "number": number }, "orderingKey": key })
}

fn without_key(number: usize) -> Value {
    json!({ "type": TYPE, "data": { "key": "", "number": number } })
}

/// Which event a call brought.
fn told(call: &Call) -> (String, u64) {
    let data = &call.json()["data"];
    (text(&data["key"]), data["number"].as_u64().unwrap())
}

fn all_told(calls: &[Call]) -> Vec<(String, u64)> {
    calls.iter().map(told).collect()
}

fn a(number: u64) -> (String, u64) {
    ("a".to_owned(), number)
}

/// The deliveries of these events.
async fn ids<const COUNT: usize>(app: &App, events: &[String]) -> [String; COUNT] {
    let mut ids = Vec::new();
    for event in events {
        ids.push(app.delivery_of(event).await);
    }
    ids.try_into().unwrap()
}

#[tokio::test]
async fn a_failing_delivery_holds_its_own_key_and_no_other() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([500]);
    app.operator().publish(&[event("a", 1)]).await;
    let first = app.the_delivery().await;
    app.wait_for_attempts(&first, 1).await;

    let later = [event("b", 1), without_key(1), event("a", 2), event("a", 3)];
    let later = app.operator().publish(&later).await;
    for other in &later[..2] {
        app.wait_for_state(&app.delivery_of(other).await, "delivered").await;
    }
    let others = receiver.wait_for(3).await;
    let mut others = all_told(&others[1..]);
    others.sort_unstable();
    assert_eq!(others, [("".to_owned(), 1), ("b".to_owned(), 1)]);
    let waiting = app.deliveries_that("state=pending").await;
    assert_eq!(waiting.len(), 3, "the one that failed, and those behind it: {waiting:?}");

    database.advance(TimeDelta::seconds(13)).await;
    let calls = receiver.wait_for(6).await;
    assert_eq!(all_told(&calls[3..]), [a(1), a(2), a(3)]);
    app.wait_for_state(&app.delivery_of(&later[3]).await, "delivered").await;
    let lines: i64 =
        sqlx::query_scalar("select count(*) from ordering_lines").fetch_one(&database.pool).await.unwrap();
    assert_eq!(lines, 0, "a line goes with the last that stands in it");
}

#[tokio::test]
async fn the_end_of_a_dead_delivery_lets_out_the_next() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, RawConfig { retry_delays_s: Some("10".to_owned()), ..settings() }).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([500, 500]);
    let published = app.operator().publish(&[event("a", 1), event("a", 2)]).await;
    let first = app.delivery_of(&published[0]).await;
    app.wait_for_attempts(&first, 1).await;
    assert_eq!(receiver.calls().len(), 1);
    database.advance(TimeDelta::seconds(13)).await;
    app.wait_for_state(&first, "dead").await;
    assert_eq!(all_told(&receiver.wait_for(3).await), [a(1), a(1), a(2)]);

    // Sent again it has no place in the line any more: others do not wait for it.
    receiver.reply([500]);
    app.redeliver(&first).await;
    app.wait_for_attempts(&first, 3).await;
    app.operator().publish(&[event("a", 3)]).await;
    assert_eq!(told(&receiver.wait_for(5).await[4]), a(3));
}

#[tokio::test]
async fn what_was_held_keeps_its_order() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let (before, under_way) = (gate(), gate());
    receiver.reply([Reply::Gate(before.clone(), 204), Reply::Gate(under_way.clone(), 410)]);
    app.operator().publish(&[event("a", 1)]).await;
    receiver.wait_for(1).await;
    // In line before the subscription stops, and after that.
    let waiting: Vec<Value> = (2..=20).map(|number| event("a", number)).collect();
    let waiting = app.operator().publish(&waiting).await;
    before.add_permits(1);
    receiver.wait_for(2).await;
    under_way.add_permits(1);
    for event in &waiting {
        app.wait_for_state(&app.delivery_of(event).await, "held").await;
    }
    let later: Vec<Value> = (21..=40).map(|number| event("a", number)).collect();
    app.operator().publish(&later).await;
    assert_eq!(app.standing(subscription).await["heldCount"], 39, "who waits behind one that is held, is");
    assert_eq!(app.deliveries_that("state=held").await.len(), 39);
    assert_eq!(app.deliveries_that("state=pending").await.len(), 0);

    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    let calls = receiver.wait_for(41).await;
    let expected: Vec<_> = [1, 2].into_iter().chain(2..=40).map(a).collect();
    assert_eq!(all_told(&calls), expected);
    assert_eq!(app.standing(subscription).await["heldCount"], 0);
}

/// A node hears of a pause within a second. Until then it may send what was published before, and nothing else.
#[tokio::test]
async fn what_got_in_line_after_a_pause_is_let_out_held() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let under_way = gate();
    receiver.reply([Reply::Gate(under_way.clone(), 204)]);
    let before = app.operator().publish(&[event("a", 1)]).await;
    receiver.wait_for(1).await;
    // As another node does whose notice is still on its way.
    let pause = "update subscriptions set state = 'paused', version = version + 1";
    sqlx::query(pause).execute(&database.pool).await.unwrap();
    let after = app.operator().publish(&[event("a", 2), event("a", 3)]).await;
    let [first] = ids(&app, &before).await;
    let [second, third] = ids(&app, &after).await;
    under_way.add_permits(1);
    app.wait_for_state(&first, "delivered").await;
    // Held from the first, not after somebody had leased it.
    let let_out =
        "select not waits and due_at = 'infinity', lease_epoch from queue where delivery_id = $1::uuid";
    let let_out: (bool, i32) = sqlx::query_as(let_out).bind(&second).fetch_one(&database.pool).await.unwrap();
    assert_eq!(let_out, (true, 0));
    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    app.wait_for_state(&third, "delivered").await;
    assert_eq!(all_told(&receiver.calls()), [a(1), a(2), a(3)]);
    app.stop().await;
}

#[tokio::test]
async fn when_the_first_expires_the_next_is_let_out() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([500]);
    let published = app.operator().publish(&[event("a", 1), event("a", 2), event("a", 3)]).await;
    let [first, second, _] = ids(&app, &published).await;
    app.wait_for_attempts(&first, 1).await;
    app.stop().await;
    let leave_the_window = |delivery: String| {
        let old = "update queue set event_id = herald_uuid7_beside(herald_uuid7_floor(herald_now() - interval '40 days'))
                   where delivery_id = $1::uuid";
        let database = &database;
        async move {
            let moved = sqlx::query(old).bind(delivery).execute(&database.pool).await.unwrap();
            assert_eq!(moved.rows_affected(), 1);
        }
    };
    let expire = async || {
        let db = &mut *database.pool.acquire().await.unwrap();
        let (count, _) = queue::expire(db, 30, Walked::default(), 100).await.unwrap().unwrap();
        count
    };
    let who_waits = "select array(select place from queue where waits order by place)";
    let who_waits =
        async || sqlx::query_scalar::<_, Vec<i64>>(who_waits).fetch_one(&database.pool).await.unwrap();
    leave_the_window(second).await;
    assert_eq!((expire().await, who_waits().await), (1, vec![3]), "one in the middle lets out nobody");
    leave_the_window(first).await;
    assert_eq!((expire().await, who_waits().await), (1, vec![]));
    let app = App::start(&database, settings()).await;
    assert_eq!(all_told(&receiver.wait_for(2).await), [a(1), a(3)]);
    app.operator().publish(&[event("a", 4)]).await;
    assert_eq!(told(&receiver.wait_for(3).await[2]), a(4));
    app.stop().await;
}

#[tokio::test]
async fn a_deleted_subscription_leaves_no_line_behind() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    receiver.always(500);
    let published = app.operator().publish(&[event("a", 1), event("a", 2), event("a", 3)]).await;
    let deliveries = ids::<3>(&app, &published).await;
    app.wait_for_attempts(&deliveries[0], 1).await;
    app.unsubscribe(subscription).await;
    for delivery in &deliveries {
        app.wait_for_state(delivery, "cancelled").await;
    }
    assert_eq!(receiver.calls().len(), 1);
    let mut connection = database.pool.acquire().await.unwrap();
    let stalled = ordering_lines::list_stalled(&mut connection, 10).await.unwrap();
    ordering_lines::forget_empty(&mut connection, &stalled).await.unwrap();
    let lines: i64 =
        sqlx::query_scalar("select count(*) from ordering_lines").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(lines, 0);
}

#[tokio::test]
async fn a_line_that_nobody_moves_on_is_moved_on_by_the_sweep() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 204)]);
    app.operator().publish(&[event("a", 1), event("a", 2), event("a", 3)]).await;
    receiver.wait_for(1).await;
    // Whoever finished the first died before it could let out the next.
    sqlx::query("delete from queue where not waits").execute(&database.pool).await.unwrap();
    let mut connection = database.pool.acquire().await.unwrap();
    let stalled = ordering_lines::list_stalled(&mut connection, 10).await.unwrap();
    assert_eq!(stalled.len(), 1);
    assert_eq!(
        ordering_lines::forget_empty(&mut connection, &stalled).await.unwrap(),
        0,
        "somebody waits there"
    );
    gate.add_permits(1);
    assert_eq!(all_told(&receiver.wait_for(3).await), [a(1), a(2), a(3)]);
}

/// Two nodes, many keys, a receiver that fails every seventh call: whatever passes whatever, each key's first arrivals are in order.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_under_load_on_two_nodes() {
    const KEYS: usize = 12;
    const EVENTS_PER_KEY: usize = 40;
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let quick = || RawConfig { retry_delays_s: Some("1,1,1,1,1,1,1,1".to_owned()), ..settings() };
    let nodes = [App::start(&database, quick()).await, App::start(&database, quick()).await];
    nodes[0].subscribe(&receiver.url).await;
    let calls_so_far = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = calls_so_far.clone();
    receiver.always(Reply::Judge(Arc::new(move |_: &Call| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if number % 7 == 6 { 500 } else { 204 }
    })));
    let publishing = (0..KEYS).map(|key| {
        let operators = [nodes[0].operator(), nodes[1].operator()];
        tokio::spawn(async move {
            let key = format!("key-{key}");
            let mut number = 0;
            while number < EVENTS_PER_KEY {
                let events: Vec<Value> =
                    (number..number + 1 + number % 3).map(|number| event(&key, number)).collect();
                operators[number % 2].publish(&events).await;
                number += events.len();
            }
            number
        })
    });
    let mut published = 0;
    for publisher in publishing.collect::<Vec<_>>() {
        published += publisher.await.unwrap();
    }
    let distinct =
        |calls: &[Call]| all_told(calls).into_iter().collect::<std::collections::HashSet<_>>().len();
    let calls = receiver.wait_until("every event", |calls| distinct(calls) == published).await;
    let mut expected: HashMap<String, u64> = HashMap::new();
    for (key, number) in all_told(&calls) {
        let next = expected.entry(key.clone()).or_default();
        assert!(number <= *next, "{key}: {number} came before {next}");
        *next += u64::from(number == *next);
    }
    for node in nodes {
        node.stop().await;
    }
}
