//! A batch whose sending kills the process ends, and takes no innocent one with it (SECURITY rule 23).

use chrono::TimeDelta;

use super::subscriber::{numbers, subscribe};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::of_attempts;
use crate::support::receiver::{Receiver, Reply, gate};

const LEASE: TimeDelta = TimeDelta::seconds(30);

#[tokio::test]
async fn rule_23_a_batch_that_kills_its_sender_is_sent_alone_from_the_second_time_and_dead_after_the_fifth() {
    let (database, poisoned, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscribers = [
        subscribe(&database.pool, "order.poison", &poisoned.url, 2).await,
        subscribe(&database.pool, "order.paid", &healthy.url, 2).await,
    ];
    let mut deliveries = Vec::new();
    for (subscriber, receiver) in subscribers.iter().zip([&poisoned, &healthy]) {
        receiver.always(Reply::Gate(gate(), 204));
        let mut of_batch = Vec::new();
        for event in app.operator().publish(&subscriber.events(None, 0..2)).await {
            of_batch.push(app.delivery_of(&event).await);
        }
        receiver.wait_for(1).await;
        deliveries.push(of_batch);
    }
    app.kill();
    // Twice everything that the process had counts a crash.
    database.advance(LEASE).await;
    let app = App::start(&database, settings()).await;
    poisoned.wait_for(2).await;
    healthy.wait_for(2).await;
    app.kill();

    healthy.always(Reply::Status(204));
    for death in 3..=5 {
        database.advance(LEASE).await;
        let app = App::start(&database, settings()).await;
        poisoned.wait_for(death).await;
        let beside = "select count(distinct batch_id) from queue where lease_owner is not null and due_at > herald_now()";
        let beside: i64 = sqlx::query_scalar(beside).fetch_one(&database.pool).await.unwrap();
        assert_eq!(beside, 1, "it is alone");
        app.kill();
    }
    database.advance(LEASE).await;
    let app = App::start(&database, settings()).await;
    for delivery in &deliveries[0] {
        let dead = app.wait_for_state(delivery, "dead").await;
        assert_eq!(of_attempts(&dead, "outcome"), [] as [&str; 0], "nobody lived to tell");
    }
    assert_eq!(poisoned.calls().len(), 5);
    for delivery in &deliveries[1] {
        let delivered = app.wait_for_state(delivery, "delivered").await;
        assert_eq!(of_attempts(&delivered, "outcome"), ["delivered"]);
    }
    let calls = [poisoned.calls(), healthy.calls()].concat();
    assert!(numbers(&calls).iter().all(|batch| *batch == [0, 1]), "whole each time");
    app.stop().await;
}
