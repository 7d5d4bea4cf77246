//! Nodes tell each other that something is due: seldom, and never so that anything depends on it (SECURITY rule 24).

use std::collections::BTreeSet;
use std::time::Duration;

use herald::domain::id::NodeId;
use herald::engine::hints;
use herald::hub::handoff::Bells;
use herald::store::nodes::HINTS;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::PATIENCE;
use crate::support::receiver::{Receiver, Reply};

/// The sessions that listen, once there are as many and none of them is among `earlier`.
async fn listening(database: &TestDatabase, count: usize, earlier: &BTreeSet<i32>) -> BTreeSet<i32> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let pids: Vec<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity where datname = current_database() and state = 'idle' and query ilike 'listen %'",
        )
        .fetch_all(&database.pool)
        .await
        .unwrap();
        let pids: BTreeSet<i32> = pids.into_iter().collect();
        if pids.len() == count && pids.is_disjoint(earlier) {
            return pids;
        }
        assert!(std::time::Instant::now() < deadline, "{count} should listen: {pids:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn rings(bell: &Notify) {
    tokio::time::timeout(PATIENCE, bell.notified()).await.expect("the bell rings");
}

/// A node that does nothing but hear and tell.
fn node(database: &TestDatabase, stop: &watch::Receiver<bool>) -> Bells {
    let bells = Bells::default();
    tokio::spawn(hints::run(database.pool.clone(), NodeId::new(), bells.clone(), stop.clone()));
    bells
}

#[tokio::test]
async fn rule_24_a_hint_reaches_the_other_node_again_after_its_connection_was_lost() {
    let database = cluster::database().await;
    let (_stop, stopping) = watch::channel(false);
    let (one, other) = (node(&database, &stopping), node(&database, &stopping));
    let mut sessions = listening(&database, 2, &BTreeSet::new()).await;
    one.tell.notify_one();
    rings(&other.due).await;
    other.tell.notify_one();
    rings(&one.due).await;
    let own = tokio::time::timeout(Duration::ZERO, one.due.notified()).await;
    assert!(own.is_err(), "nobody hears himself: the other's hint came after");

    for _ in 0..2 {
        for pid in &sessions {
            sqlx::query("select pg_terminate_backend($1)").bind(pid).execute(&database.pool).await.unwrap();
        }
        sessions = listening(&database, 2, &sessions).await;
        // Whoever lost the connection looks for himself, because he may have missed a hint.
        rings(&one.due).await;
        rings(&other.due).await;
        one.tell.notify_one();
        rings(&other.due).await;
    }
}

#[tokio::test]
async fn two_nodes_share_what_is_due_and_hints_speak_only_of_what_nobody_has_leased() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (app, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    listening(&database, 2, &BTreeSet::new()).await;
    let mut ear = PgListener::connect_with(&database.pool).await.unwrap();
    ear.listen(HINTS).await.unwrap();
    let subscription = app.subscribe(&receiver.url).await;
    let made = ear.recv().await.unwrap();
    receiver.reply([Reply::Status(500), Reply::Status(204), Reply::Status(500)]);
    app.cancel_one().await;
    let id = app.the_delivery().await;
    app.wait_for_attempts(&id, 1).await;
    app.cancel_one().await;
    app.cancel_one().await;
    receiver.wait_for(3).await;

    // The cancels, the answers and the retry said nothing: the next to be heard are these, of either node.
    assert_eq!(app.redeliver(&id).await.0, 202);
    let again = ear.recv().await.unwrap();
    assert_eq!(again.payload(), made.payload());
    app.wait_for_state(&id, "delivered").await;
    assert_eq!(other.test(subscription).await.0, 200);
    let test = ear.recv().await.unwrap();
    assert_ne!(test.payload(), made.payload());
    receiver.wait_for(5).await;
}
