//! The bound on what is unfinished (SECURITY rule 14): it refuses publishing, never a cancel, and passes by itself.

use std::time::Instant;

use herald::config::RawConfig;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::PATIENCE;
use crate::support::receiver::{Receiver, Reply, gate};

/// Publishes what nobody waits for until the answer has this status; returns it with what it says about coming again.
async fn publish_until(app: &App, wanted: u16) -> (Value, Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = app.operator().request(Method::POST, "/events");
        let answer = request.json(&json!({ "type": "nobody.waits", "data": 1 })).send().await.unwrap();
        let after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        let body = answer.json().await.unwrap();
        if status == wanted {
            return (body, after);
        }
        assert!(matches!(status, 202 | 429), "{body}");
        assert!(Instant::now() < deadline, "it was never answered {wanted}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn rule_14_beyond_the_backlogs_bound_publishing_waits_and_cancels_go_on() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let bounded = RawConfig { backlog_max: Some("3".to_owned()), ..settings() };
    let app = App::start(&database, bounded).await;
    app.subscribe(&receiver.url).await;
    let gate = gate();
    receiver.always(Reply::Gate(gate.clone(), 204));
    publish_until(&app, 202).await;
    for _ in 0..3 {
        app.cancel_one().await;
    }
    let (problem, after) = publish_until(&app, 429).await;
    assert_eq!(problem["code"], "LimitThresholdExceeded");
    assert_eq!(after.as_deref(), Some("10"));
    // Each is answered 200.
    for _ in 0..2 {
        app.cancel_one().await;
    }
    gate.add_permits(5);
    receiver.wait_for(5).await;
    publish_until(&app, 202).await;
}
