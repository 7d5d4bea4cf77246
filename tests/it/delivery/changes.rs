//! Subscriptions that are changed all the time while events are sent to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::receiver::Receiver;

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
