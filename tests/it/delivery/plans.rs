//! What the statements read that are made again and again: as much as they take, however long the queue is, although it was empty when they
//! were planned.

use std::sync::Arc;
use std::time::Instant;

use chrono::DateTime;
use herald::domain::attempt::Outcome;
use herald::domain::delivery::{DeliveryState, Lease};
use herald::domain::event::Event;
use herald::domain::id::{AttemptId, DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};
use herald::store::queue::{self, Claimed, Ending, Finish, Record, Share};
use herald::store::sessions;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::support::cluster;

const ROWS: i64 = 20_000;
const TAKEN: i64 = 40;
const LEASE_MS: i64 = 30_000;

/// Rows of one subscription that nobody has leased and that are due.
async fn fill(db: &mut PgConnection, rows: i64) -> SubscriptionId {
    let subscription = SubscriptionId::new();
    sqlx::query(
        "insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
         select $1, gen_random_uuid(), gen_random_uuid(), $2, herald_now() from generate_series(1, $3)",
    )
    .bind(Uuid::new_v4())
    .bind(subscription.0)
    .bind(rows)
    .execute(db)
    .await
    .unwrap();
    subscription
}

fn a_lease() -> Lease {
    let event = Event {
        id: EventId::new(),
        kind: "it.happened".to_owned(),
        source: "/".to_owned(),
        payload: Vec::new(),
        occurred_at: DateTime::UNIX_EPOCH,
    };
    Lease {
        partner: PartnerId::new(),
        delivery: DeliveryId::new(),
        subscription: SubscriptionId::new(),
        event: Arc::new(event),
        attempts: 0,
        epoch: 1,
        probe: false,
        draining: false,
        crashes: 0,
        until: Instant::now(),
        batch: None,
    }
}

fn lease(row: &Claimed) -> Lease {
    let (partner, delivery) = (PartnerId(row.partner_id), DeliveryId(row.delivery_id));
    Lease { partner, delivery, epoch: row.lease_epoch, ..a_lease() }
}

fn ended(lease: &Lease, (ending, outcome): (Ending, Outcome)) -> Finish<'_> {
    let record = Record {
        attempt: AttemptId::new(),
        outcome,
        status: None,
        started_ago_ms: 0,
        latency_ms: 1,
        response: None,
        detail: None,
    };
    Finish { lease, ending, record: Some(record) }
}

const ENDS: [(Ending, Outcome); 4] = [
    (Ending::Final(DeliveryState::Delivered), Outcome::Delivered),
    (Ending::Final(DeliveryState::Dead), Outcome::Refused),
    (Ending::Retry { delay_ms: 0 }, Outcome::Refused),
    (Ending::Hold, Outcome::Refused),
];

/// Rows of the queue that this transaction has read so far.
async fn rows_read(db: &mut PgConnection) -> i64 {
    let rows =
        "select (seq_tup_read + idx_tup_fetch)::int8 from pg_stat_xact_user_tables where relname = 'queue'";
    sqlx::query_scalar(rows).fetch_one(db).await.unwrap()
}

#[tokio::test]
async fn statements_that_were_planned_while_the_queue_was_empty_read_what_they_take() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    let node = NodeId::new();
    for empty in ["alter table queue set (autovacuum_enabled = false)", "vacuum analyze queue"] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    let in_order = sessions::in_index_order(&database.pool, 1);
    let mut in_order = in_order.acquire().await.unwrap();

    // All of them are planned now.
    let drawn = |subscription| [Share { subscription, up_to: TAKEN, due_from: None }];
    let nothing = queue::draw(&mut in_order, node, LEASE_MS, &drawn(SubscriptionId::new())).await.unwrap();
    assert!(nothing.is_empty());
    assert!(queue::claim(&mut in_order, node, TAKEN, LEASE_MS).await.unwrap().is_empty());
    assert!(queue::claim_suspect(&mut in_order, node, LEASE_MS).await.unwrap().is_none());
    let unknown = a_lease();
    for end in ENDS {
        assert_eq!(queue::finish(&mut by_key, node, &[ended(&unknown, end)]).await.unwrap().changed, 0);
    }

    let many = fill(&mut connection, ROWS).await;
    sqlx::raw_sql("begin").execute(&mut *in_order).await.unwrap();
    let mut rows = queue::claim(&mut in_order, node, TAKEN, LEASE_MS).await.unwrap();
    rows.extend(queue::draw(&mut in_order, node, LEASE_MS, &drawn(many)).await.unwrap());
    assert!(queue::claim_suspect(&mut in_order, node, LEASE_MS).await.unwrap().is_none());
    assert_eq!(rows.len() as i64, 2 * TAKEN);
    let read = rows_read(&mut in_order).await;
    assert!(read < 8 * TAKEN, "claims read {read} rows");
    sqlx::raw_sql("commit").execute(&mut *in_order).await.unwrap();

    let leases: Vec<Lease> = rows.iter().map(lease).collect();
    let ends: Vec<Finish<'_>> =
        leases.iter().zip(ENDS.iter().cycle()).map(|(lease, end)| ended(lease, *end)).collect();
    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    let done = queue::finish(&mut by_key, node, &ends).await.unwrap();
    assert_eq!(done.changed, 2 * TAKEN);
    let read = rows_read(&mut by_key).await;
    assert!(read < 8 * TAKEN, "results read {read} rows");
    sqlx::raw_sql("commit").execute(&mut *by_key).await.unwrap();

    // And so do those that are planned while it is long, and said to be short.
    let late = sessions::in_index_order(&database.pool, 1);
    let mut late = late.acquire().await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *late).await.unwrap();
    let claimed = queue::claim(&mut late, node, TAKEN, LEASE_MS).await.unwrap();
    assert_eq!(claimed.len() as i64, TAKEN);
    let read = rows_read(&mut late).await;
    assert!(read < 4 * TAKEN, "a claim read {read} rows");
    sqlx::raw_sql("rollback").execute(&mut *late).await.unwrap();
}
