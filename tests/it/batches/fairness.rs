//! Callbacks that take batches and hang delay none of the others (SECURITY rule 20), and what is held for them in memory is bounded.

use std::collections::BTreeSet;
use std::sync::Arc;

use herald::config::RawConfig;
use herald::domain::id::NodeId;
use herald::store::batches::{self, Terms};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use super::subscriber::{Subscriber, subscribe, told};
use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::receiver::{Call, Receiver, Reply, gate};

/// What is due is due from the beginning, and hangs for longer than the test takes.
fn hanging() -> RawConfig {
    RawConfig {
        batch_linger_ms: Some("0".to_owned()),
        delivery_timeout_ms: Some("50000".to_owned()),
        lease_ms: Some("120000".to_owned()),
        ..settings()
    }
}

/// A database with what servers make when they start.
async fn ready() -> TestDatabase {
    let database = cluster::database().await;
    App::start(&database, settings()).await.stop().await;
    database
}

/// Puts so many deliveries into the queue that are due in this order, each with an event of so many bytes and a little more.
async fn fill(pool: &PgPool, subscriber: &Subscriber, batched: bool, count: i32, bytes: i32) {
    let rows = "with events as (
            insert into events (id, partner_id, type, source, payload, occurred_at, matched)
            select herald_uuid7_beside(herald_uuid7_floor(herald_now())), s.partner_id, $2, '/', convert_to(
                       json_build_object('of', $2, 'key', '', 'number', n, 'filling', repeat('x', $4))::text, 'UTF8'), herald_now(), 1
            from subscriptions s, generate_series(0, $3 - 1) n where s.id = $1 returning id, partner_id)
        insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, due_at)
        select partner_id, herald_uuid7_beside(id), id, $1, $5, herald_now() from events";
    let rows = sqlx::query(rows).bind(subscriber.id.0).bind(&subscriber.event_type).bind(count).bind(bytes);
    rows.bind(batched).execute(pool).await.unwrap();
}

struct Gated {
    receiver: Receiver,
    gate: Arc<Semaphore>,
    subscriber: Subscriber,
}

/// A callback that hangs until its gate is opened.
async fn hang(database: &TestDatabase, number: usize, batch_size: i32) -> Gated {
    let (receiver, gate) = (Receiver::start().await, gate());
    receiver.always(Reply::Gate(gate.clone(), 204));
    let event_type = format!("order.hangs.{number}");
    let subscriber = subscribe(&database.pool, &event_type, &receiver.url, batch_size).await;
    Gated { receiver, gate, subscriber }
}

/// A callback that takes what it gets, and has one full batch due after all others.
async fn healthy(database: &TestDatabase) -> Receiver {
    let receiver = Receiver::start().await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 200).await;
    fill(&database.pool, &subscriber, true, 200, 0).await;
    receiver
}

/// A callback that nobody knows gets a few at first, if many hang, and the rest in large batches once it has answered these.
async fn wait_for_all(healthy: &Receiver) {
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 200 {
        sizes = healthy.wait_for(sizes.len() + 1).await.iter().map(|call| told(call).len()).collect();
    }
    assert!(sizes.len() < 50, "not a few each time: {sizes:?}");
}

#[tokio::test]
async fn rule_20_batches_for_many_hanging_callbacks_leave_room_for_the_others() {
    let database = ready().await;
    let mut gated = Vec::new();
    // What is due first is due to those that hang: to some as many batches as each may have under way, to many one.
    for number in 0..60 {
        let hanging = hang(&database, number, 200).await;
        let due = if number < 12 { 800 } else { 200 };
        fill(&database.pool, &hanging.subscriber, true, due, 0).await;
        gated.push(hanging);
    }
    let healthy = healthy(&database).await;
    let _app = App::start(&database, hanging()).await;
    wait_for_all(&healthy).await;
    for hanging in &gated {
        hanging.receiver.wait_for(1).await;
    }
}

#[tokio::test]
async fn rule_20_a_hanging_callback_has_no_more_room_for_having_many_subscriptions() {
    let database = ready().await;
    let hangs = hang(&database, 0, 200).await;
    fill(&database.pool, &hangs.subscriber, true, 800, 0).await;
    for number in 1..12 {
        let another =
            subscribe(&database.pool, &format!("order.hangs.{number}"), &hangs.receiver.url, 200).await;
        let same = "update subscriptions set callback_id = $2 where id = $1";
        let same = sqlx::query(same).bind(another.id.0).bind(hangs.subscriber.callback.0);
        same.execute(&database.pool).await.unwrap();
        fill(&database.pool, &another, true, 800, 0).await;
    }
    let healthy = healthy(&database).await;
    let _app = App::start(&database, hanging()).await;
    wait_for_all(&healthy).await;
}

/// Subscribers to batches of 10 that have so many deliveries due each, one after the other.
async fn due(database: &TestDatabase, counts: &[i32]) -> Vec<Subscriber> {
    let mut subscribers = Vec::new();
    for (number, count) in counts.iter().enumerate() {
        let event_type = format!("order.paid.{number}");
        let subscriber = subscribe(&database.pool, &event_type, "https://partner.example/", 10).await;
        fill(&database.pool, &subscriber, true, *count, 0).await;
        subscribers.push(subscriber);
    }
    subscribers
}

/// What is formed in one round: for which of them, and how many deliveries.
async fn formed(database: &TestDatabase, subscribers: &[Subscriber], room: i64) -> Vec<(usize, usize)> {
    let terms = Terms { each_max: 8, others_each_max: 8, ..Terms::of(NodeId::new(), 30_000, room) };
    let mut db = database.pool.acquire().await.unwrap();
    let formed = batches::form(&mut db, &terms, 0).await.unwrap();
    let number_of = |id| subscribers.iter().position(|subscriber| subscriber.id.0 == id).unwrap();
    let mut formed: Vec<_> =
        formed.iter().map(|batch| (number_of(batch[0].subscription_id), batch.len())).collect();
    formed.sort();
    formed
}

#[tokio::test]
async fn nobody_gets_a_second_batch_before_everybody_got_the_first() {
    let database = ready().await;
    let subscribers = due(&database, &[80, 80, 80, 80, 1]).await;
    let firsts = [(0, 10), (1, 10), (2, 10), (3, 10), (4, 1)];
    assert_eq!(formed(&database, &subscribers, 45).await, firsts);
    let more = formed(&database, &subscribers, 80).await;
    assert_eq!(more, [0, 0, 1, 1, 2, 2, 3, 3].map(|number| (number, 10)));
}

#[tokio::test]
async fn who_wants_little_need_not_wait_for_a_crowd_nor_the_crowd_for_all_of_these() {
    let database = ready().await;
    let subscribers = due(&database, &[80, 80, 80, 80, 1, 1, 1, 1]).await;
    assert_eq!(formed(&database, &subscribers, 23).await, [(0, 10), (1, 10), (4, 1), (5, 1)]);
}

/// Those who come first, and have nothing to give because somebody has locked it, take nobody's place.
#[tokio::test]
async fn what_somebody_has_locked_takes_nobodys_place() {
    let database = ready().await;
    let subscribers = due(&database, &[10, 10, 10]).await;
    let mut somebody = database.pool.begin().await.unwrap();
    let lock = "select from queue where subscription_id = any ($1) for update";
    let locked = vec![subscribers[0].id.0, subscribers[1].id.0];
    sqlx::query(lock).bind(locked).execute(&mut *somebody).await.unwrap();
    assert_eq!(formed(&database, &subscribers, 10).await, [(2, 10)]);
}

/// Of events of 250 KiB, those that are leased: in memory, or on their way there.
async fn held_mib(pool: &PgPool) -> i64 {
    let leased = "select count(*) from queue where lease_owner is not null";
    sqlx::query_scalar::<_, i64>(leased).fetch_one(pool).await.unwrap() / 4
}

#[tokio::test]
async fn rule_20_batches_of_large_events_are_held_in_memory_within_a_bound_of_bytes() {
    let database = ready().await;
    let mut gated = Vec::new();
    for number in 0..10 {
        let hanging = hang(&database, number, 10).await;
        fill(&database.pool, &hanging.subscriber, true, 40, 250 * 1024).await;
        gated.push(hanging);
    }
    let _app = App::start(&database, hanging()).await;
    for hanging in &gated {
        hanging.receiver.wait_for(1).await;
        let held = held_mib(&database.pool).await;
        assert!(held <= 64, "{held} MiB");
    }
}

#[tokio::test]
async fn rule_20_large_events_that_are_claimed_are_held_in_memory_within_a_bound_of_bytes() {
    let database = ready().await;
    let mut gated = Vec::new();
    for number in 0..6 {
        gated.push(hang(&database, number, 1).await);
    }
    // In turns, so that none is due before all of another.
    for _ in 0..6 {
        for hanging in &gated {
            fill(&database.pool, &hanging.subscriber, false, 5, 250 * 1024).await;
        }
    }
    let _app = App::start(&database, hanging()).await;
    for hanging in &gated {
        hanging.receiver.wait_for(1).await;
        let held = held_mib(&database.pool).await;
        assert!(held <= 20, "{held} MiB");
    }
    // And nothing is forgotten because there was no room for it.
    for hanging in &gated {
        hanging.gate.add_permits(1_000);
    }
    for hanging in &gated {
        let distinct = |calls: &[Call]| {
            calls.iter().map(|call| call.header("webhook-id")).collect::<BTreeSet<_>>().len()
        };
        hanging.receiver.wait_until("all of them", |calls| distinct(calls) == 30).await;
    }
}
