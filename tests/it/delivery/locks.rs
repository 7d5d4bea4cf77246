//! Several rows that others may lock as well are locked in one order, so that no two wait for each other: somebody has the first, the statement
//! waits for it, and the rest is free meanwhile.

use herald::domain::id::{DeliveryId, NodeId, PartnerId, SubscriptionId};
use herald::store::{queue, subscriptions};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::nodes::wait_until_none_is;
use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::receiver::{Receiver, Reply, gate};

/// One, until somebody waits for a lock.
const NOT_WAITING: &str = "select 1 - count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";

const PARTNER: PartnerId = PartnerId(Uuid::from_u128(1));
const SMALLER: Uuid = Uuid::from_u128(2);
const GREATER: Uuid = Uuid::from_u128(3);

/// Fails where somebody has it.
async fn lock(somebody: &mut Transaction<'_, Postgres>, which: &'static str, id: Uuid) {
    sqlx::query(which).bind(id).execute(&mut **somebody).await.unwrap();
}

const QUEUED: &str = "select from queue where delivery_id = $1 for update nowait";
const SUBSCRIPTION: &str = "select from subscriptions where id = $1 for update nowait";

/// Two of a batch, of which the one with the greater key lies first.
async fn two_in_the_queue(database: &TestDatabase, leased_to: Option<NodeId>) {
    for delivery in [GREATER, SMALLER] {
        let row = "insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at, lease_owner, batched, batch_id)
             values ($1, $2, gen_random_uuid(), gen_random_uuid(), herald_now() + interval '1 h', $3, true, $1)";
        let insert = sqlx::query(row).bind(PARTNER.0).bind(delivery).bind(leased_to.map(|node| node.0));
        insert.execute(&database.pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_gives_back_its_leases_in_the_order_of_their_keys() {
    let database = cluster::database().await;
    let node = NodeId::new();
    two_in_the_queue(&database, Some(node)).await;
    let mut somebody = database.pool.begin().await.unwrap();
    lock(&mut somebody, QUEUED, SMALLER).await;
    let pool = database.pool.clone();
    let released =
        tokio::spawn(async move { queue::release_all(&mut pool.acquire().await.unwrap(), node).await });
    wait_until_none_is(&database, NOT_WAITING).await;
    lock(&mut somebody, QUEUED, GREATER).await;
    somebody.commit().await.unwrap();
    assert_eq!(released.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_batch_is_hastened_in_the_order_of_its_keys() {
    let database = cluster::database().await;
    two_in_the_queue(&database, None).await;
    let mut somebody = database.pool.begin().await.unwrap();
    lock(&mut somebody, QUEUED, SMALLER).await;
    let pool = database.pool.clone();
    let hastened = tokio::spawn(async move {
        let mut connection = pool.acquire().await.unwrap();
        // However they are found: as they lie, here.
        sqlx::raw_sql("set enable_indexscan = off").execute(&mut *connection).await.unwrap();
        queue::hasten(&mut connection, PARTNER, DeliveryId(GREATER)).await
    });
    wait_until_none_is(&database, NOT_WAITING).await;
    lock(&mut somebody, QUEUED, GREATER).await;
    somebody.commit().await.unwrap();
    assert!(hastened.await.unwrap().unwrap());
    wait_until_none_is(&database, "select count(*) from queue where due_at > herald_now()").await;
}

#[tokio::test]
async fn callbacks_that_are_gone_together_disable_their_subscriptions_in_one_order() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let (first, others) = (gate(), gate());
    let mut receivers = Vec::new();
    for place in 0..8 {
        let receiver = Receiver::start().await;
        app.subscribe(&receiver.url).await;
        receiver.reply([Reply::Gate(if place == 0 { first.clone() } else { others.clone() }, 410)]);
        receivers.push(receiver);
    }
    app.cancel_one().await;
    for receiver in &receivers {
        receiver.wait_for(1).await;
    }
    let ids = "update subscriptions set failing_since = herald_now() returning id";
    let mut ids: Vec<Uuid> = sqlx::query_scalar(ids).fetch_all(&database.pool).await.unwrap();
    ids.sort_unstable();
    let mut somebody = database.pool.begin().await.unwrap();
    lock(&mut somebody, SUBSCRIPTION, ids[0]).await;
    // So that its result is the last of those that are recorded together.
    others.add_permits(7);
    first.add_permits(1);
    wait_until_none_is(&database, NOT_WAITING).await;
    for id in &ids[1..] {
        lock(&mut somebody, SUBSCRIPTION, *id).await;
    }
    somebody.commit().await.unwrap();
    wait_until_none_is(&database, "select count(*) from subscriptions where state <> 'disabled'").await;
}

#[tokio::test]
async fn subscriptions_that_cease_to_fail_together_are_locked_in_one_order_and_those_that_begin_wait_for_nobody()
 {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    for place in 0..2 {
        app.subscribe(&format!("http://127.0.0.1:9/{place}")).await;
    }
    let ids = "select id from subscriptions order by id";
    let ids: Vec<Uuid> = sqlx::query_scalar(ids).fetch_all(&database.pool).await.unwrap();
    // The first now lies behind the other.
    let written_anew = "update subscriptions set created_at = created_at where id = $1";
    sqlx::query(written_anew).bind(ids[0]).execute(&database.pool).await.unwrap();
    let both: Vec<SubscriptionId> = ids.iter().copied().map(SubscriptionId).collect();
    let failing = async || -> i64 {
        let failing = "select count(*) from subscriptions where failing_since is not null";
        sqlx::query_scalar(failing).fetch_one(&database.pool).await.unwrap()
    };
    let mut connection = database.pool.acquire().await.unwrap();
    let mut somebody = database.pool.begin().await.unwrap();
    lock(&mut somebody, SUBSCRIPTION, ids[0]).await;
    subscriptions::begin_failing(&mut connection, &both).await.unwrap();
    assert_eq!(failing().await, 1, "its next failure is as good");
    somebody.commit().await.unwrap();
    subscriptions::begin_failing(&mut connection, &both).await.unwrap();
    assert_eq!(failing().await, 2);

    let mut somebody = database.pool.begin().await.unwrap();
    lock(&mut somebody, SUBSCRIPTION, ids[0]).await;
    let noted = tokio::spawn(async move { subscriptions::end_failing(&mut connection, &both).await });
    wait_until_none_is(&database, NOT_WAITING).await;
    lock(&mut somebody, SUBSCRIPTION, ids[1]).await;
    somebody.commit().await.unwrap();
    noted.await.unwrap().unwrap();
    assert_eq!(failing().await, 0);
}
