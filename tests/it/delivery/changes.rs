//! Subscriptions that are changed all the time while events are sent to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::of_attempts;
use crate::support::receiver::{Receiver, Reply, gate};

#[tokio::test]
async fn rule_18_changes_that_never_stop_cancel_nothing() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let mut subscriptions = Vec::new();
    for place in 0..4 {
        subscriptions.push(app.subscribe(&format!("{}/{place}", receiver.url)).await);
    }
    let over = Arc::new(AtomicBool::new(false));
    let changers: Vec<_> = subscriptions[..2]
        .iter()
        .map(|subscription| {
            let (partner, subscription, over) = (app.clone(), *subscription, over.clone());
            tokio::spawn(async move {
                let mut changes = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    changes += 1;
                    partner.change(subscription, json!({ "apiKey": format!("key-{changes}") })).await;
                }
                changes
            })
        })
        .collect();
    const CANCELS: usize = 60;
    for _ in 0..CANCELS {
        app.cancel_one().await;
    }
    receiver.wait_for(CANCELS * subscriptions.len()).await;
    over.store(true, Ordering::Relaxed);
    for changer in changers {
        assert!(changer.await.unwrap() > 10, "it was changed all the time");
    }
}

#[tokio::test]
async fn rule_21_a_410_from_the_former_url_of_a_shared_callback_disables_nothing() {
    const CALLBACKS: &str = "/rest/api/v1.3/notifications/callbacks";
    let (database, old, new) = (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let ask = async |method: Method, path: &str, body: Value| {
        let (status, answer) = app.ask(method, path, Some(body)).await;
        assert_eq!(status, 200, "{path}: {answer}");
    };
    let authentication = json!({ "type": "B", "data": { "userName": "someone", "password": "secret" } });
    let callback = json!({ "name": "c", "url": old.url, "batchSize": 1, "authentication": authentication });
    ask(Method::POST, CALLBACKS, callback).await;
    let subscription = json!({ "name": "s", "callBackName": "c", "eventTypes": ["SMS_FAILED"] });
    ask(Method::POST, "/rest/api/v1.3/notifications/subscriptions", subscription).await;
    let gate = gate();
    old.reply([Reply::Gate(gate.clone(), 410)]);
    app.operator().publish(&[json!({ "type": "SMS_FAILED", "data": {} })]).await;
    let id = old.wait_for(1).await[0].header("webhook-id").to_owned();
    let moved = json!({ "url": new.url, "authentication": authentication });
    ask(Method::PUT, &format!("{CALLBACKS}/c"), moved).await;
    gate.add_permits(1);
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "status"), [410, 204]);
    assert_eq!(new.calls().len(), 1);
}
