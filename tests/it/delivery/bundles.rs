//! What is born leased stands in one row with what was born with it, and nobody can tell.

use std::time::{Duration, Instant};

use herald::domain::attempt::Outcome;
use herald::domain::delivery::{DeliveryState, Lease, Whereabouts};
use herald::domain::event::NewEvent;
use herald::domain::id::{DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};
use herald::domain::publication::Attributes;
use herald::store::events::{self, Alongside, Begins, BirthLease, Insert, NewDelivery};
use herald::store::queue::{self, Books, Ending};
use herald::store::{self, bundles, partitions, sessions};
use serde_json::json;
use sqlx::PgConnection;

use super::nodes::wait_until_none_is;
use super::plans::{ROWS, read_so_far};
use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::leases::{self, finish};
use crate::support::partner::{PATIENCE, of_attempts, text};
use crate::support::receiver::{Receiver, Reply, gate};

const DELIVERED: Ending = Ending::Final(DeliveryState::Delivered);
const RETRY: Ending = Ending::Retry { delay_ms: 60_000 };

/// Events for as many subscriptions of one partner, stored by one statement, and the leases that this gives.
async fn born(db: &mut PgConnection, owner: NodeId, partner: PartnerId, count: usize) -> Vec<Lease> {
    partitions::make_ahead(db).await.unwrap();
    let event = || NewEvent {
        id: EventId::new(),
        partner,
        kind: "order.paid".to_owned(),
        source: "/orders".to_owned(),
        payload: b"{}".to_vec(),
        occurred_at: chrono::DateTime::UNIX_EPOCH,
        attributes: Attributes::default(),
        ordering_key: None,
    };
    let new: Vec<_> = std::iter::repeat_with(event).take(count).collect();
    let delivery = |event: &NewEvent| NewDelivery {
        id: DeliveryId::beside(event.id),
        partner,
        event: event.id,
        subscription: SubscriptionId::new(),
        gathers: false,
        begins: Begins::Leased,
    };
    let deliveries: Vec<_> = new.iter().map(delivery).collect();
    let terms = BirthLease { owner, duration: Duration::from_secs(30) };
    let insert = Insert {
        events: &new,
        matched: &vec![1; count],
        deliveries: &deliveries,
        versions: &[],
        alongside: Alongside::default(),
    };
    let stored = events::insert(db, terms, insert).await.unwrap();
    let lease =
        |(event, delivery): (NewEvent, NewDelivery)| leases::born(event, &delivery, stored[&delivery.id].at);
    new.into_iter().zip(deliveries).map(lease).collect()
}

async fn count(db: &mut PgConnection, of: &'static str) -> i64 {
    sqlx::query_scalar(of).fetch_one(db).await.unwrap()
}

const BUNDLES: &str = "select count(*) from bundles";
const ROWS_LEASED: &str = "select count(*) from queue where lease_owner is not null and lease_epoch = 0";

/// As the roll call does.
async fn take_apart(db: &mut PgConnection, owner: NodeId) -> i64 {
    let now = store::now(db).await.unwrap();
    bundles::take_apart_of(db, owner, now, 1).await.unwrap()
}

async fn begun() -> (TestDatabase, sqlx::pool::PoolConnection<sqlx::Postgres>) {
    let database = cluster::database().await;
    let connection = database.pool.acquire().await.unwrap();
    (database, connection)
}

#[tokio::test]
async fn what_takes_long_is_seen_as_pending_while_the_rest_of_its_bundle_is_over_and_then_has_a_row() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 200)]);
    let event = || json!({ "type": "RedirectSessionCancelled", "data": {} });
    app.operator().publish(&[event(), event(), event()]).await;
    let slow = receiver.wait_for(3).await[0].header("webhook-id").to_owned();

    let seen = |state: &'static str| {
        let app = &app;
        async move {
            let seen = app.deliveries_that(&format!("state={state}")).await;
            seen.iter().map(|delivery| text(&delivery["id"])).collect::<Vec<_>>()
        }
    };
    // Three from the first moment to the last, wherever each stands.
    let deadline = Instant::now() + PATIENCE;
    while seen("delivered").await.len() < 2 {
        assert_eq!(app.deliveries().await.len(), 3);
        assert!(Instant::now() < deadline);
    }
    assert_eq!(seen("pending").await, std::slice::from_ref(&slow));
    assert_eq!(seen("held").await, [] as [String; 0]);
    assert_eq!(app.redeliver(&slow).await.0, 202, "it is as due as it gets");
    wait_until_none_is(&database, BUNDLES).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    assert_eq!(count(db, ROWS_LEASED).await, 1, "as if it had always had a row");
    assert_eq!(seen("pending").await, std::slice::from_ref(&slow));

    gate.add_permits(1);
    let delivery = app.wait_for_state(&slow, "delivered").await;
    assert_eq!(of_attempts(&delivery, "late"), [false]);
    assert_eq!(receiver.calls().len(), 3);
    assert_eq!(count(db, "select count(*) from unfinished").await, 0);
}

#[tokio::test]
async fn rule_18_of_a_dead_nodes_bundle_another_sends_what_had_not_arrived_and_nothing_else() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([Reply::Gate(gate(), 200), Reply::Status(500)]);
    let events = vec![json!({ "type": "RedirectSessionCancelled", "data": {} }); 6];
    app.operator().publish(&events).await;
    let calls = receiver.wait_for(6).await;
    wait_until_none_is(&database, "select 5 - count(*) from attempts").await;
    app.kill();
    let db = &mut *database.pool.acquire().await.unwrap();
    let unfinished = "select delivery_id::text, lease_owner is not null, attempts from unfinished order by 3";
    let unfinished: Vec<(String, bool, i32)> = sqlx::query_as(unfinished).fetch_all(&mut *db).await.unwrap();
    let ids = [0, 1].map(|call| calls[call].header("webhook-id").to_owned());
    assert_eq!(unfinished, [(ids[0].clone(), true, 0), (ids[1].clone(), false, 1)]);

    database.advance(chrono::TimeDelta::seconds(30)).await;
    let app = App::start(&database, settings()).await;
    for id in &ids {
        app.wait_for_state(id, "delivered").await;
    }
    assert_eq!(receiver.calls().len(), 8);
    assert_eq!(count(db, "select count(*) from unfinished").await, 0);
    assert_eq!(count(db, BUNDLES).await, 0);
}

#[tokio::test]
async fn rule_18_a_bundle_whose_lease_ran_out_is_sent_by_whoever_is_there() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let db = &mut *database.pool.acquire().await.unwrap();
    let partner =
        sqlx::query_scalar("select partner_id from subscriptions").fetch_one(&mut *db).await.unwrap();
    // A node that nobody ever heard of, so that only time tells.
    born(db, NodeId::new(), PartnerId(partner), 2).await;
    let theirs = "update bundles set subscription_ids = array(select s.id from subscriptions s, generate_series(1, 2))";
    sqlx::query(theirs).execute(&mut *db).await.unwrap();
    database.advance(chrono::TimeDelta::seconds(30)).await;
    for call in receiver.wait_for(2).await {
        app.wait_for_state(call.header("webhook-id"), "delivered").await;
    }
    assert_eq!(count(db, BUNDLES).await, 0);
}

#[tokio::test]
async fn a_bundle_goes_with_the_last_of_what_was_in_it_whatever_came_of_each() {
    let (_database, mut db) = begun().await;
    let (node, mut books) = (NodeId::new(), Books::default());
    let leases = born(&mut db, node, PartnerId::new(), 4).await;
    assert!(leases.iter().all(|lease| matches!(lease.at, Whereabouts::Bundle(_))));
    assert_eq!(count(&mut db, "select count(*) from queue").await, 0);
    assert_eq!(count(&mut db, "select count(*) from unfinished where lease_owner is not null").await, 4);
    let dead = Ending::Final(DeliveryState::Dead);
    let ends = [
        (DELIVERED, Outcome::Delivered),
        (RETRY, Outcome::Refused),
        (dead, Outcome::Refused),
        (DELIVERED, Outcome::Delivered),
    ];
    for (settled, (lease, (ending, outcome))) in leases.iter().zip(ends).enumerate() {
        assert_eq!(count(&mut db, BUNDLES).await, 1, "{settled} of 4");
        let done = queue::finish(&mut db, &mut books, node, &[finish(lease, ending, outcome)]).await;
        assert_eq!(done.unwrap().changed, 1);
    }
    assert_eq!(count(&mut db, BUNDLES).await, 0);
    assert_eq!(books.overdue_at(), None);
    let left = "select delivery_id, attempts, lease_epoch from queue";
    let left: Vec<(uuid::Uuid, i32, i32)> = sqlx::query_as(left).fetch_all(&mut *db).await.unwrap();
    assert_eq!(left, [(leases[1].delivery.0, 1, 1)]);

    // All at once, and in a statement each.
    let leases = born(&mut db, node, PartnerId::new(), 4).await;
    let all: Vec<_> =
        leases.iter().zip(ends).map(|(lease, (ending, outcome))| finish(lease, ending, outcome)).collect();
    assert_eq!(queue::finish(&mut db, &mut books, node, &all).await.unwrap().changed, 4);
    assert_eq!(count(&mut db, BUNDLES).await, 0);
    assert_eq!(count(&mut db, "select count(*) from queue").await, 2);
}

#[tokio::test]
async fn what_is_being_recorded_while_a_bundle_is_taken_apart_is_not_sent_again() {
    let (database, mut db) = begun().await;
    let (node, mut books) = (NodeId::new(), Books::default());
    let leases = born(&mut db, node, PartnerId::new(), 3).await;
    let Whereabouts::Bundle(bundle) = leases[0].at else { panic!("{:?}", leases[0].at) };
    let delivered = |lease| finish(lease, DELIVERED, Outcome::Delivered);
    sqlx::raw_sql("begin").execute(&mut *db).await.unwrap();
    assert_eq!(queue::finish(&mut db, &mut books, node, &[delivered(&leases[0])]).await.unwrap().changed, 1);

    let mut other = database.pool.acquire().await.unwrap();
    assert_eq!(take_apart(&mut other, node).await, 0, "others leave it alone");
    let taking = tokio::spawn(async move { bundles::take_apart(&mut other, &[bundle.id]).await });
    let waits =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%take_apart%'";
    let mut watch = database.pool.acquire().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while count(&mut watch, waits).await == 0 {
        assert!(Instant::now() < deadline && !taking.is_finished(), "whoever has to take it apart waits");
    }
    sqlx::raw_sql("commit").execute(&mut *db).await.unwrap();
    taking.await.unwrap().unwrap();
    assert_eq!(count(&mut db, BUNDLES).await, 0);
    assert_eq!(count(&mut db, ROWS_LEASED).await, 2, "what had arrived has no row");

    // Who had leased them finishes them by their rows now.
    let rest = [delivered(&leases[1]), finish(&leases[2], RETRY, Outcome::Refused), delivered(&leases[0])];
    assert_eq!(queue::finish(&mut db, &mut books, node, &rest).await.unwrap().changed, 2);
    let told = "select count(*) filter (where final_state = 'delivered'), count(*) filter (where late) from attempts";
    let told: (i64, i64) = sqlx::query_as(told).fetch_one(&mut *db).await.unwrap();
    assert_eq!(told, (2, 1));
}

#[tokio::test]
async fn what_stands_in_a_bundle_is_neither_hastened_nor_queued_beside_itself_nor_a_strangers_to_end() {
    let (_database, mut db) = begun().await;
    let (node, stranger, partner) = (NodeId::new(), NodeId::new(), PartnerId::new());
    let leases = born(&mut db, node, partner, 2).await;
    let lease = &leases[0];
    assert!(!queue::hasten(&mut db, partner, lease.delivery).await.unwrap());
    sqlx::query(
        "with c as (insert into callbacks (id, partner_id, surface, url) values ($1, $2, 'notifications', 'http://127.0.0.1/')),
              p as (insert into partners (id, name) values ($2, 'P'))
         insert into subscriptions (id, partner_id, surface, external_key, callback_id) values ($3, $2, 'notifications', 'a', $1)",
    )
    .bind(uuid::Uuid::new_v4())
    .bind(partner.0)
    .bind(lease.subscription.0)
    .execute(&mut *db)
    .await
    .unwrap();
    assert!(!leases::begins_again(&mut db, lease).await, "it is being sent");
    for ending in [DELIVERED, RETRY] {
        let theirs = finish(lease, ending, Outcome::Delivered);
        let done = queue::finish(&mut db, &mut Books::default(), stranger, &[theirs]).await.unwrap();
        assert_eq!(done.changed, 0);
    }
    assert_eq!(count(&mut db, "select count(*) from attempts where not late").await, 0);
    assert_eq!(count(&mut db, "select count(*) from queue").await, 0);

    let mut books = Books::default();
    let own = finish(lease, DELIVERED, Outcome::Delivered);
    assert_eq!(queue::finish(&mut db, &mut books, node, &[own]).await.unwrap().changed, 1);
    assert!(leases::begins_again(&mut db, lease).await, "its bundle is still there, but it has ended");
    take_apart(&mut db, node).await;
    let rows = "select count(*) from queue";
    assert_eq!(count(&mut db, rows).await, 2, "the one that was queued again, and the one that was left");
}

#[tokio::test]
async fn much_is_taken_apart_a_little_at_a_time_and_what_comes_meanwhile_is_left() {
    let (database, mut db) = begun().await;
    let (node, partner) = (NodeId::new(), PartnerId::new());
    for size in [2, 3, 1, 1] {
        born(&mut db, node, partner, size).await;
    }
    let before = store::now(&mut db).await.unwrap();
    database.advance(chrono::TimeDelta::seconds(1)).await;
    born(&mut db, node, partner, 1).await;
    let mut taken = Vec::new();
    loop {
        taken.push(bundles::take_apart_of(&mut db, node, before, 3).await.unwrap());
        if taken.ends_with(&[0]) {
            break;
        }
    }
    assert_eq!((taken, count(&mut db, ROWS_LEASED).await), (vec![2, 2, 0], 7));

    database.advance(chrono::TimeDelta::seconds(30)).await;
    for size in [2, 1] {
        born(&mut db, node, partner, size).await;
    }
    assert_eq!(bundles::take_apart_due(&mut db, None, 3).await.unwrap(), 1, "the others are still leased");
    database.advance(chrono::TimeDelta::seconds(30)).await;
    let later = store::now(&mut db).await.unwrap() + chrono::TimeDelta::milliseconds(1);
    assert_eq!(bundles::take_apart_due(&mut db, Some(later), 3).await.unwrap(), 0, "not due since then");
    assert_eq!(bundles::take_apart_due(&mut db, None, 1).await.unwrap(), 1);
    assert_eq!(bundles::take_apart_due(&mut db, None, 1).await.unwrap(), 1);
    assert_eq!((count(&mut db, BUNDLES).await, count(&mut db, ROWS_LEASED).await), (0, 11));
}

#[tokio::test]
async fn a_bundle_is_taken_apart_by_keys_however_long_the_queue_and_the_history_are() {
    const MEMBERS: usize = 40;
    let (database, mut db) = begun().await;
    let (node, partner) = (NodeId::new(), PartnerId::new());
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    // Planned with one that is empty, and while all tables are known to be.
    born(&mut db, node, partner, 1).await;
    for empty in ["delete from bundles", "delete from events", "vacuum analyze"] {
        sqlx::raw_sql(empty).execute(&mut *db).await.unwrap();
    }
    born(&mut db, node, partner, 1).await;
    assert_eq!(take_apart(&mut by_key, node).await, 1);
    sqlx::raw_sql("delete from queue").execute(&mut *db).await.unwrap();
    let leases = born(&mut db, node, partner, MEMBERS).await;
    let fill = "with rows as (
            insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
            select $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), herald_now() from generate_series(1, $2))
        insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
        select $1, gen_random_uuid(), herald_uuid7_beside(herald_uuid7_floor(herald_now())), gen_random_uuid(), gen_random_uuid(), 'a',
               'delivered', 'delivered', herald_now(), 1 from generate_series(1, $2)";
    sqlx::query(fill).bind(partner.0).bind(ROWS).execute(&mut *db).await.unwrap();
    let mut books = Books::default();
    let arrived: Vec<_> =
        leases[..MEMBERS / 2].iter().map(|lease| finish(lease, DELIVERED, Outcome::Delivered)).collect();
    queue::finish(&mut db, &mut books, node, &arrived).await.unwrap();

    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    assert_eq!(take_apart(&mut by_key, node).await, 1);
    for table in ["queue", "attempts"] {
        let (rows, blocks) = read_so_far(&mut by_key, table).await;
        assert!(rows <= MEMBERS as i64, "{rows} rows of {table}");
        assert!(blocks < 40 * MEMBERS as i64, "{blocks} blocks of {table}");
    }
    sqlx::raw_sql("commit").execute(&mut *by_key).await.unwrap();
    assert_eq!(count(&mut db, ROWS_LEASED).await, (MEMBERS / 2) as i64);
}
