//! A server one of whose workers has ended by itself.

use std::time::Duration;

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
