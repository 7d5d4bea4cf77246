//! Callbacks that are tried out, by each of the two published paths.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::delivery::{authentication, basic};
use super::{CALLBACKS, callback_path};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::Partner;
use crate::support::receiver::{Receiver, Reply, gate};

#[tokio::test]
async fn a_callback_is_tried_out_with_nothing_signed_as_everything_is() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("my c", &receiver.url).await;
    let path = callback_path("my%20c");
    let verified = json!({ "status": "Successfully verified [my c] " });
    for verify in [format!("{path}/actions/verify"), format!("{path}?action=verify")] {
        assert_eq!(app.get(&verify).await, verified);
    }
    let calls = receiver.calls();
    assert_eq!(calls.len(), 2);
    for call in &calls {
        assert_eq!((&call.body[..], call.header("authorization")), (&b"[]"[..], basic().as_str()));
        assert!(call.header("webhook-signature").starts_with("v1,"));
    }
    assert_ne!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    let nobody = Receiver::nobody().await;
    app.make_callback("nobody", &nobody).await;
    receiver.always(404);
    for (name, url) in [("my%20c", &receiver.url), ("nobody", &nobody)] {
        let (status, told) =
            app.ask(Method::GET, &format!("{}/actions/verify", callback_path(name)), None).await;
        let detail = format!("Could not connect to callback url [{url} ]");
        assert_eq!(
            (status, &told["errorCode"], &told["detail"]),
            (400, &json!("INVALID_PARAMETER"), &json!(detail))
        );
    }
    assert!(app.deliveries().await.is_empty(), "nothing of it is a delivery");
}

#[tokio::test]
async fn rule_20_who_tries_out_callbacks_that_hang_keeps_nobody_else_waiting() {
    let (database, hanging, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &hanging.url).await;
    let gate = gate();
    hanging.always(Reply::Gate(gate.clone(), 204));
    let verify = format!("{}/actions/verify", callback_path("c"));
    let (partner, path) = (Partner::clone(&app), verify.clone());
    let tries = tokio::spawn(async move {
        let tries = (0..20).map(|_| partner.ask(Method::GET, &path, None));
        join_all(tries).await.into_iter().map(|(status, _)| status).collect::<Vec<_>>()
    });
    hanging.wait_for(4).await;

    let other = app.another_partner().await;
    let wish = json!({ "name": "c", "url": healthy.url, "batchSize": 1, "authentication": authentication() });
    assert_eq!(other.ask(Method::POST, CALLBACKS, Some(wish)).await.0, 200);
    assert_eq!(other.ask(Method::GET, &verify, None).await.0, 200);
    assert_eq!(hanging.calls().len(), 4, "the others were refused");

    gate.add_permits(20);
    let mut statuses = tries.await.unwrap();
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 4].as_slice(), &[429; 16]].concat());
    assert_eq!(app.ask(Method::GET, &verify, None).await.0, 200, "there is room again");
}
