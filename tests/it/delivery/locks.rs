//! Several rows that others may lock as well are locked in one order, so that no two wait for each other: somebody has the first, the statement
//! waits for it, and the rest is free meanwhile.

use herald::domain::id::{DeliveryId, NodeId, PartnerId};
use herald::store::queue;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::nodes::wait_until_none_is;
use crate::support::cluster::{self, TestDatabase};

const PARTNER: PartnerId = PartnerId(Uuid::from_u128(1));
const SMALLER: Uuid = Uuid::from_u128(2);
const GREATER: Uuid = Uuid::from_u128(3);

/// Fails where somebody has it.
async fn lock(somebody: &mut Transaction<'_, Postgres>, which: &'static str, id: Uuid) {
    sqlx::query(which).bind(id).execute(&mut **somebody).await.unwrap();
}

const QUEUED: &str = "select from queue where delivery_id = $1 for update nowait";

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
    database.until_waiting(1).await;
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
    database.until_waiting(1).await;
    lock(&mut somebody, QUEUED, GREATER).await;
    somebody.commit().await.unwrap();
    assert!(hastened.await.unwrap().unwrap());
    wait_until_none_is(&database, "select count(*) from queue where due_at > herald_now()").await;
}
