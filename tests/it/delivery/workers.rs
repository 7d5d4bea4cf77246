//! A server one of whose workers has ended by itself.

use std::time::Duration;

use chrono::TimeDelta;
use herald::config::RawConfig;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::of_attempts;
use crate::support::receiver::{Receiver, Reply, gate};

#[tokio::test]
async fn rule_24_a_server_whose_worker_has_fallen_stops_in_order_and_says_which() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.reply([Reply::Gate(gate.clone(), 204)]);
    app.cancel_one().await;
    receiver.wait_for(1).await;
    let (delivery, address) = (app.the_delivery().await, app.base.replace("http://", ""));

    drop(app.health.worker("of-this-test"));
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What is under way is finished and recorded.
    gate.add_permits(1);
    let fallen = app.ended().await.unwrap_err();
    assert!(fallen.to_string().contains("`of-this-test`"), "{fallen}");
    let next = App::start(&database, settings()).await;
    let delivery = next.wait_for_state(&delivery, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [204]);
    assert_eq!(receiver.calls().len(), 1);
    next.stop().await;
}

#[tokio::test]
async fn rule_24_what_a_fallen_server_had_in_hand_stays_leased_until_the_lease_is_over() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app =
        App::start(&database, RawConfig { stop_timeout_ms: Some("1000".to_owned()), ..settings() }).await;
    app.subscribe(&receiver.url).await;
    // Longer than a stop waits.
    receiver.reply([Reply::Gate(gate(), 204)]);
    app.cancel_one().await;
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    drop(app.health.worker("of-this-test"));
    app.ended().await.unwrap_err();
    let leased =
        "select (select count(*) from bundles) + (select count(*) from queue where lease_owner is not null)";
    let leased: i64 = sqlx::query_scalar(leased).fetch_one(&database.pool).await.unwrap();
    assert_eq!(leased, 1, "who has fallen cannot tell what it has sent, and gives nothing back");

    let next = App::start(&database, settings()).await;
    database.advance(TimeDelta::minutes(1)).await;
    let call = receiver.wait_for(2).await.remove(1);
    assert_eq!(call.header("webhook-id"), id);
    next.wait_for_state(&id, "delivered").await;
    next.stop().await;
}
