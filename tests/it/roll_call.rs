//! Who is gone is noticed, and who is only away for a moment is not taken for gone.

use std::time::Duration;

use chrono::TimeDelta;
use herald::domain::Error;
use herald::domain::id::NodeId;
use herald::store::{self, bundles, nodes, queue};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::{PATIENCE, of_attempts};
use crate::support::receiver::{Receiver, Reply, gate};

const GRACE: TimeDelta = TimeDelta::seconds(5);
const BETWEEN_LOOKS: TimeDelta = TimeDelta::seconds(2);

async fn look(db: &mut PgConnection) -> Vec<NodeId> {
    nodes::call_roll(db, 5_000, 3_000).await.unwrap()
}

async fn connect(database: &TestDatabase) -> PgConnection {
    database.options().connect().await.unwrap()
}

async fn wait_until(database: &TestDatabase, condition: &'static str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !sqlx::query_scalar::<_, bool>(condition).fetch_one(&database.pool).await.unwrap() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {condition}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_node_is_gone_when_looks_for_a_while_found_nobody_under_its_name() {
    let database = cluster::database().await;
    let (node, watcher) = (NodeId::new(), &mut connect(&database).await);
    let mut own = connect(&database).await;
    nodes::join(&mut own, node, &["k1#00".to_owned()]).await.unwrap();
    assert!(nodes::is_joined(&mut own, node, &["k1#00".to_owned()]).await.unwrap());
    assert!(
        !nodes::is_joined(watcher, node, &["k1#00".to_owned()]).await.unwrap(),
        "only by the session that has the lock"
    );
    let twice = nodes::join(watcher, node, &["k1#00".to_owned()]).await.unwrap_err();
    assert!(matches!(twice, Error::Unavailable(_)), "{twice:?}");
    database.advance(GRACE * 2).await;
    assert_eq!(look(watcher).await, [], "it is there");

    own.close().await.unwrap();
    wait_until(&database, "select not exists (select from pg_locks where locktype = 'advisory' and objsubid = 1 and database = (select oid from pg_database where datname = current_database()))").await;
    assert_eq!(look(watcher).await, [], "nobody can know for how long");
    for _ in 0..2 {
        database.advance(BETWEEN_LOOKS).await;
        assert_eq!(look(watcher).await, [], "it may be connecting again");
    }

    // It was: absences do not add up.
    let mut own = connect(&database).await;
    nodes::join(&mut own, node, &["k1#00".to_owned()]).await.unwrap();
    database.advance(GRACE).await;
    assert_eq!(look(watcher).await, []);
    own.close().await.unwrap();
    wait_until(&database, "select not exists (select from pg_locks where locktype = 'advisory' and objsubid = 1 and database = (select oid from pg_database where datname = current_database()))").await;
    assert_eq!(look(watcher).await, []);
    database.advance(GRACE * 10).await;
    assert_eq!(look(watcher).await, [], "nobody looked for so long: the database may have been away");
    for _ in 0..2 {
        database.advance(BETWEEN_LOOKS).await;
        assert_eq!(look(watcher).await, []);
    }
    database.advance(BETWEEN_LOOKS).await;
    assert_eq!(look(watcher).await, [node]);
    nodes::strike(watcher, node).await.unwrap();
    assert_eq!(look(watcher).await, [], "once");
}

#[tokio::test]
async fn a_node_that_was_struck_off_by_mistake_is_listed_again() {
    let database = cluster::database().await;
    let (node, mut own) = (NodeId::new(), connect(&database).await);
    nodes::join(&mut own, node, &["k1#00".to_owned()]).await.unwrap();
    nodes::strike(&mut database.pool.acquire().await.unwrap(), node).await.unwrap();
    assert!(nodes::is_joined(&mut own, node, &["k1#00".to_owned()]).await.unwrap());
    wait_until(&database, "select count(*) = 1 from nodes where absent_since is null").await;
}

#[tokio::test]
async fn rule_18_what_a_dead_node_had_is_passed_on_before_its_lease_has_passed() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let first = App::start(&database, settings()).await;
    first.subscribe(&receiver.url).await;
    wait_until(&database, "select count(*) = 1 from nodes").await;
    receiver.reply([Reply::Gate(gate(), 200)]);
    first.cancel_one().await;
    let before = receiver.wait_for(1).await.remove(0);
    first.kill();

    let second = App::start(&database, settings()).await;
    let id = second.the_delivery().await;
    let again = receiver.wait_for(2).await.remove(1);
    assert!(again.at - before.at < Duration::from_secs(25), "the lease had 30 s");
    assert_eq!(again.header("webhook-id"), before.header("webhook-id"));
    let delivery = second.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [204]);
    wait_until(&database, "select count(*) = 1 from nodes").await;
    second.stop().await;
    wait_until(&database, "select count(*) = 0 from nodes").await;
}

#[tokio::test]
async fn a_lease_that_is_passed_on_counts_as_a_crash_and_its_holder_comes_late() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    receiver.reply([Reply::Gate(gate(), 200)]);
    app.cancel_one().await;
    receiver.wait_for(1).await;
    app.kill();
    let db = &mut *database.pool.acquire().await.unwrap();
    let (owner, epoch): (uuid::Uuid, i32) =
        sqlx::query_as("select lease_owner, lease_epoch from unfinished").fetch_one(&mut *db).await.unwrap();
    let heir = NodeId::new();
    for node in [heir, NodeId(owner)] {
        let now = store::now(db).await.unwrap();
        bundles::take_apart_of(db, node, now, 10).await.unwrap();
    }
    assert_eq!(queue::end_leases(db, heir, 10).await.unwrap(), 0, "those of others are not touched");
    assert_eq!(queue::end_leases(db, NodeId(owner), 10).await.unwrap(), 1);
    assert_eq!(queue::end_leases(db, NodeId(owner), 10).await.unwrap(), 0);
    let claimed = queue::claim(db, heir, 10, 30_000).await.unwrap().remove(0);
    assert_eq!((claimed.crashes, claimed.lease_epoch), (1, epoch + 1));
}

#[tokio::test]
async fn a_living_node_that_lost_its_connection_is_not_taken_for_gone() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let one = App::start(&database, settings()).await;
    let other = App::start(&database, settings()).await;
    one.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 200)]);
    one.cancel_one().await;
    receiver.wait_for(1).await;
    wait_until(&database, "select count(*) = 2 from nodes").await;
    for _ in 0..3 {
        // As a restart of the database does: every lock is gone at once, and every node lives.
        let ended: Vec<bool> = sqlx::query_scalar(
            "select pg_terminate_backend(l.pid, 10000) from nodes n join pg_locks l on l.locktype = 'advisory' and l.objsubid = 1
                 and ((l.classid::bigint << 32) | l.objid::bigint) = herald_node_lock(n.id)",
        )
        .fetch_all(&database.pool)
        .await
        .unwrap();
        assert_eq!(ended, [true, true]);
        wait_until(
            &database,
            "select count(*) = 2 from nodes n join pg_locks l on l.locktype = 'advisory' and l.objsubid = 1
                 and ((l.classid::bigint << 32) | l.objid::bigint) = herald_node_lock(n.id) where n.absent_since is null",
        )
        .await;
        database.advance(GRACE).await;
    }
    gate.add_permits(1);
    let id = other.the_delivery().await;
    let delivery = other.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "late"), [false]);
    assert_eq!(receiver.calls().len(), 1, "nobody else sent it");
}
