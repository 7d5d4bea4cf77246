//! Nothing of one partner is visible to another (SECURITY rule 12).

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{own_path, text};
use crate::support::receiver::Receiver;

#[tokio::test]
async fn rule_12_nothing_crosses_between_two_partners() {
    let (database, mine, theirs) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let other = app.another_partner().await;
    let my_subscription = app.subscribe(&mine.url).await;
    let their_subscription = other.subscribe(&theirs.url).await;
    let my_session = app.cancel_one().await;
    let their_session = other.cancel_one().await;
    assert_eq!(mine.wait_for(1).await[0].session(), my_session);
    assert_eq!(theirs.wait_for(1).await[0].session(), their_session);

    let delivery = other.the_delivery().await;
    let shown = other.wait_for_state(&delivery, "delivered").await;
    let my_delivery = app.the_delivery().await;
    app.wait_for_state(&my_delivery, "delivered").await;
    let event = text(&shown["event"]["id"]);
    let policy = json!({ "timeoutMs": 500 });
    for (method, path, body) in [
        (Method::GET, format!("/herald/v1/deliveries/{delivery}"), None),
        (Method::POST, format!("/herald/v1/deliveries/{delivery}/redeliver"), None),
        (Method::GET, format!("/herald/v1/events/{event}"), None),
        (Method::GET, own_path(their_subscription, ""), None),
        (Method::PATCH, own_path(their_subscription, ""), Some(policy)),
        (Method::POST, own_path(their_subscription, "/signing-keys"), None),
        (Method::POST, own_path(their_subscription, "/test"), None),
    ] {
        let (status, problem) = app.ask(method.clone(), &path, body).await;
        assert_eq!(status, 404, "{method} {path}: {problem}");
    }
    let query = format!("subscription=redirect/{their_subscription}");
    assert_eq!(app.deliveries_that(&query).await, Vec::<Value>::new());
    let query = format!("subscription=redirect/{my_subscription}");
    assert_eq!(app.deliveries_that(&query).await.len(), 1);
    assert_eq!((mine.calls().len(), theirs.calls().len()), (1, 1));
}

#[tokio::test]
async fn rule_12_the_same_published_things_of_two_partners_stay_apart() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let other = app.another_partner().await;
    // The same callback URL and event type is no duplicate between partners.
    app.subscribe(&receiver.url).await;
    other.subscribe(&receiver.url).await;
    let session = other.cancel_one().await;
    assert_eq!(receiver.wait_for(1).await[0].session(), session);
    other.wait_for_state(&other.the_delivery().await, "delivered").await;
    assert_eq!(app.deliveries().await, Vec::<Value>::new());
    assert_eq!(receiver.calls().len(), 1);
}
