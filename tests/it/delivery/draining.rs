//! What was held, on its way back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use herald::config::RawConfig;
use herald::store::queue::Resumed;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::PATIENCE;
use crate::support::receiver::{Call, Receiver, Reply, gate};
use crate::support::sweeps;

/// Of what was held for a subscription, so many are on their way at once.
const AT_ONCE: usize = 200;

fn event(number: usize) -> Value {
    json!({ "type": "RedirectSessionCancelled", "data": { "number": number } })
}

fn number(call: &Call) -> usize {
    usize::try_from(call.json()["data"]["number"].as_u64().unwrap()).unwrap()
}

/// Each is a post, which costs a test that is not optimised some 10 ms of a core: no more of them than it takes.
#[tokio::test]
async fn rule_21_draining_takes_a_quarter_of_the_posts_and_a_little_at_a_time() {
    const HELD: usize = AT_ONCE + 20;
    let (database, receiver, other) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, RawConfig { in_flight_max: Some("8".to_owned()), ..settings() }).await;
    let mut subscriptions = Vec::new();
    for path in 0..2 {
        subscriptions.push(app.subscribe(&format!("{}/{path}", receiver.url)).await);
    }
    let pause = "update subscriptions set state = 'paused', version = version + 1";
    sqlx::query(pause).execute(&database.pool).await.unwrap();
    let gate = gate();
    receiver.always(Reply::Gate(gate.clone(), 204));
    app.operator().publish(&(0..HELD).map(event).collect::<Vec<_>>()).await;
    for subscription in &subscriptions {
        assert_eq!(app.standing(*subscription).await["heldCount"], HELD);
        app.change(*subscription, json!({ "apiKey": "another-key" })).await;
    }
    receiver.wait_for(2).await;
    // What the first were sent of says nothing of how far the drainer has come with the others.
    for subscription in &subscriptions {
        let deadline = Instant::now() + PATIENCE;
        while app.standing(*subscription).await["heldCount"] == HELD {
            assert!(Instant::now() < deadline, "nothing of it is on its way");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Others have room.
    app.subscribe(&other.url).await;
    app.operator().publish(&[event(HELD)]).await;
    other.wait_for(1).await;
    for subscription in &subscriptions {
        let left = HELD - AT_ONCE;
        assert_eq!(app.standing(*subscription).await["heldCount"], left, "the rest waits for these");
    }
    let drained = |calls: &[Call]| calls.iter().filter(|call| number(call) < HELD).count();
    assert_eq!(drained(&receiver.calls()), 2, "a quarter of 8");

    gate.add_permits(10_000);
    let calls =
        receiver.wait_until("all of them", |calls| calls.len() >= (HELD + 1) * subscriptions.len()).await;
    for path in 0..subscriptions.len() {
        let path = format!("/callback/{path}");
        let came = calls.iter().filter(|call| call.path == path).map(number).collect::<BTreeSet<_>>();
        assert_eq!(came.len(), HELD + 1, "{path}");
    }
    app.stop().await;
}

/// Oldest first, also within the millisecond that a batch of events is published in.
#[tokio::test]
async fn what_was_held_drains_in_its_order_chunk_after_chunk() {
    const HELD: usize = 2 * AT_ONCE + 20;
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let alone = RawConfig { callback_in_flight_max: Some("1".to_owned()), ..settings() };
    let app = App::start(&database, alone).await;
    let subscription = app.subscribe(&receiver.url).await;
    let pause = "update subscriptions set state = 'paused', version = version + 1";
    sqlx::query(pause).execute(&database.pool).await.unwrap();
    app.operator().publish(&(0..HELD).map(event).collect::<Vec<_>>()).await;
    app.change(subscription, json!({ "apiKey": "another-key" })).await;
    let calls = receiver.wait_for(HELD).await;
    assert!(calls.iter().map(number).eq(0..HELD), "{:?}", calls.iter().map(number).collect::<Vec<_>>());
    app.stop().await;
}

/// Two that wait for rows of each other would be a deadlock.
#[tokio::test]
async fn a_held_batch_of_which_somebody_has_a_part_is_neither_waited_for_nor_torn_apart() {
    const HELD: i64 = 3;
    let database = cluster::database().await;
    let one = Uuid::from_u128(1);
    let held = "with partner as (insert into partners (id, name) values ($1, 'one')),
            callback as (insert into callbacks (id, partner_id, surface, url, batch_size)
                         values ($1, $1, 'notifications', 'https://partner.example/', 200)),
            subscription as (insert into subscriptions (id, partner_id, surface, external_key, callback_id)
                             values ($1, $1, 'notifications', 'one', $1))
        insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, batch_id, due_at)
        select $1, lpad(n::text, 32, '0')::uuid, lpad(n::text, 32, '0')::uuid, $1, true, $1, 'infinity' from generate_series(1, $2) n";
    sqlx::query(held).bind(one).bind(HELD).execute(&database.pool).await.unwrap();
    let mut drainer = database.pool.acquire().await.unwrap();
    sqlx::raw_sql("set lock_timeout = '5s'").execute(&mut *drainer).await.unwrap();
    // Fewer than the batch has: it is cut at the limit, and goes whole all the same.
    let limit = HELD - 1;
    for somebodys in 1..=HELD as u128 {
        let mut somebody = database.pool.begin().await.unwrap();
        let lock = "select from queue where delivery_id = $1 for update nowait";
        sqlx::query(lock).bind(Uuid::from_u128(somebodys)).execute(&mut *somebody).await.unwrap();
        let resumed = sweeps::resume(&mut drainer, limit).await;
        assert_eq!(resumed, Resumed { moved: 0, unfinished: true }, "somebody has {somebodys}");
        let rest = "select from queue where delivery_id <> $1 for update nowait";
        let rest = sqlx::query(rest).bind(Uuid::from_u128(somebodys));
        let mut another = database.pool.begin().await.unwrap();
        rest.execute(&mut *another).await.unwrap();
        // Not by dropping them, which lets go of the rows some time later.
        another.rollback().await.unwrap();
        somebody.rollback().await.unwrap();
    }
    let resumed = sweeps::resume(&mut drainer, limit).await;
    assert_eq!(resumed.moved, HELD);
    let due = "select count(distinct due_at) from queue where draining and due_at < 'infinity'";
    assert_eq!(sqlx::query_scalar::<_, i64>(due).fetch_one(&database.pool).await.unwrap(), 1);
}
