//! From a cancel to its callback, and into the history.

use chrono::TimeDelta;
use herald::clock;
use herald::domain::signature::{Received, SigningKey, TOLERANCE_S, sign, verify};
use reqwest::Method;
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{CALLBACK_KEY, of_attempts, own_path, text};
use crate::support::receiver::{Call, Receiver, Reply};

#[tokio::test]
async fn a_cancelled_session_arrives_as_published() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let session = app.cancel_one().await;
    let call = receiver.wait_for(1).await.remove(0);
    let delivery = app.the_delivery().await;
    let delivery = app.wait_for_state(&delivery, "delivered").await;

    let mut names: Vec<&str> = call.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-api-key",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(call.header("content-type"), "application/json");
    assert_eq!(call.header("x-api-key"), CALLBACK_KEY);
    assert_eq!(call.header("webhook-id"), delivery["id"]);
    assert_eq!(call.header("x-request-id"), call.header("webhook-id"));
    assert_eq!(call.header("user-agent"), concat!("Herald/", env!("CARGO_PKG_VERSION")));
    assert!(
        (clock::now().timestamp() - call.header("webhook-timestamp").parse::<i64>().unwrap()).abs() <= 60
    );

    let shown = app.get(&format!("/redirect-sessions/{session}")).await;
    let event = text(&delivery["event"]["id"]);
    assert_eq!(
        call.json(),
        json!({
            "specversion": "1.0", "id": event, "source": "/customer-authentication-service",
            "time": shown["lastModifiedOn"], "datacontenttype": "application/json", "type": "RedirectSessionCancelled",
            "data": { "id": session, "state": "Cancelled", "type": "NewCustomer",
                      "createdOn": shown["createdOn"], "lastModifiedOn": shown["lastModifiedOn"] }
        })
    );

    assert_eq!(delivery["subscription"], json!({ "surface": "redirect", "id": subscription.to_string() }));
    assert_eq!(delivery["callbackUrl"], receiver.url);
    assert_eq!(delivery["attemptCount"], 1);
    assert_eq!(delivery.get("nextAttemptAt"), None);
    let attempt = &delivery["attempts"][0];
    assert_eq!((&attempt["number"], &attempt["outcome"]), (&json!(1), &json!("delivered")));
    assert_eq!((&attempt["status"], &attempt["late"]), (&json!(204), &json!(false)));
    assert!(attempt["latencyMs"].as_i64().unwrap() >= 0);
    assert!(text(&attempt["startedAt"]) <= text(&attempt["endedAt"]));

    let event = app.get(&format!("/herald/v1/events/{event}")).await;
    assert_eq!((&event["matched"], event["deliveries"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(event["deliveries"][0]["id"], delivery["id"]);
    assert_eq!(event["data"], call.json()["data"]);
    let standing = app.standing(subscription).await;
    assert_eq!(standing["health"]["consecutiveFailures"], 0);
    assert_eq!(standing["health"]["lastSuccessAt"], attempt["startedAt"]);
}

#[tokio::test]
async fn rule_08_signatures_fit_the_key_and_rotation_overlaps_for_a_day() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let first = app.roll_signing_key(subscription).await;
    app.cancel_one().await;
    let call = receiver.wait_for(1).await.remove(0);
    assert!(fits(&call, &first));
    assert!(!fits(&call, SigningKey::generate().text().expose_str().unwrap()));
    assert!(call.header("webhook-signature").starts_with(&signature_by(&call, &first)), "newest first");

    let second = app.roll_signing_key(subscription).await;
    app.cancel_one().await;
    let call = receiver.wait_for(2).await.remove(1);
    let both = format!("{} {} ", signature_by(&call, &second), signature_by(&call, &first));
    // The last is that of the key which the subscription was made with, and nobody was shown.
    assert!(call.header("webhook-signature").starts_with(&both) && signatures(&call) == 3);

    database.advance(TimeDelta::hours(25)).await;
    // What the engine knows of a subscription is believed for a second; a change makes it look again at once.
    app.set_policy(subscription, json!({ "timeoutMs": 1000 })).await;
    app.cancel_one().await;
    let call = receiver.wait_for(3).await.remove(2);
    assert_eq!(call.header("webhook-signature"), signature_by(&call, &second));
}

#[tokio::test]
async fn rule_08_each_superseded_key_signs_until_its_own_day_is_over() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let first = app.roll_signing_key(subscription).await;
    database.advance(TimeDelta::hours(25)).await;
    let second = app.roll_signing_key(subscription).await;
    database.advance(TimeDelta::hours(12)).await;
    let third = app.roll_signing_key(subscription).await;
    let mut sent = 0;
    let mut signed_by = async |keys: &[&str]| {
        app.set_policy(subscription, json!({ "timeoutMs": 1000 })).await;
        app.cancel_one().await;
        sent += 1;
        let call = receiver.wait_for(sent).await.remove(sent - 1);
        let expected: Vec<String> = keys.iter().map(|key| signature_by(&call, key)).collect();
        assert_eq!(call.header("webhook-signature"), expected.join(" "));
    };
    signed_by(&[&third, &second, &first]).await;
    database.advance(TimeDelta::hours(13)).await;
    signed_by(&[&third, &second]).await;
    database.advance(TimeDelta::hours(12)).await;
    signed_by(&[&third]).await;
}

#[tokio::test]
async fn rule_08_a_key_that_was_superseded_before_there_could_be_several_goes_on_signing() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let first = app.roll_signing_key(subscription).await;
    database.advance(TimeDelta::hours(25)).await;
    let second = app.roll_signing_key(subscription).await;
    let as_it_was = "alter table callbacks add column previous_signing_key bytea, add column previous_signing_key_until timestamptz;
        update callbacks c set previous_signing_key = k.signing_key, previous_signing_key_until = k.valid_until
        from superseded_signing_keys k where k.callback_id = c.id;
        drop table superseded_signing_keys";
    for change in [as_it_was, include_str!("../../../migrations/0030_superseded_signing_keys.sql")] {
        sqlx::raw_sql(change).execute(&database.pool).await.unwrap();
    }
    app.set_policy(subscription, json!({ "timeoutMs": 1000 })).await;
    app.cancel_one().await;
    let call = receiver.wait_for(1).await.remove(0);
    let both = format!("{} {}", signature_by(&call, &second), signature_by(&call, &first));
    assert_eq!(call.header("webhook-signature"), both);
}

#[tokio::test]
async fn rule_08_many_new_keys_in_a_day_leave_the_newest_eight_superseded_ones() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    let (one, other) = tokio::join!(app.roll_signing_key(subscription), app.roll_signing_key(subscription));
    app.cancel_one().await;
    let call = receiver.wait_for(1).await.remove(0);
    assert!(fits(&call, &one) && fits(&call, &other), "neither of two at once is lost");
    let mut keys = Vec::new();
    for _ in 0..9 {
        keys.insert(0, app.roll_signing_key(subscription).await);
    }
    app.cancel_one().await;
    let call = receiver.wait_for(2).await.remove(1);
    let expected: Vec<String> = keys.iter().map(|key| signature_by(&call, key)).collect();
    assert_eq!(call.header("webhook-signature"), expected.join(" "));

    database.advance(TimeDelta::hours(25)).await;
    app.roll_signing_key(subscription).await;
    let kept = sqlx::query_scalar::<_, i64>("select count(*) from superseded_signing_keys");
    assert_eq!(kept.fetch_one(&database.pool).await.unwrap(), 1, "what is over goes with the next change");
}

#[tokio::test]
async fn rule_09_a_new_signing_key_that_comes_too_late_brings_no_secret_back() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscription = app.subscribe(&receiver.url).await;
    // The part of a deletion that a new key has to wait for.
    let mut deletion = database.pool.begin().await.unwrap();
    let wiped = sqlx::query("update callbacks set credentials = null, signing_key = null");
    assert_eq!(wiped.execute(&mut *deletion).await.unwrap().rows_affected(), 1);
    let path = own_path(subscription, "/signing-keys");
    let (rolled, ()) = tokio::join!(app.ask(Method::POST, &path, None), async {
        database.until_waiting(1).await;
        deletion.commit().await.unwrap();
    });
    assert_eq!((rolled.0, &rolled.1["code"]), (404, &json!("SubscriptionNotFound")));
    let kept = "select (select count(*) from callbacks where signing_key is not null) + (select count(*) from superseded_signing_keys)";
    assert_eq!(sqlx::query_scalar::<_, i64>(kept).fetch_one(&database.pool).await.unwrap(), 0);
}

fn signatures(call: &Call) -> usize {
    call.header("webhook-signature").split(' ').count()
}

fn fits(call: &Call, key: &str) -> bool {
    let received = Received {
        id: call.header("webhook-id"),
        timestamp: call.header("webhook-timestamp"),
        signature: call.header("webhook-signature"),
        body: &call.body,
    };
    let key = SigningKey::parse(key).unwrap();
    verify(&[key], received, clock::now().timestamp(), TOLERANCE_S).is_ok()
}

fn signature_by(call: &Call, key: &str) -> String {
    let timestamp = call.header("webhook-timestamp").parse().unwrap();
    sign(&[SigningKey::parse(key).unwrap()], call.header("webhook-id"), timestamp, &call.body)
}

#[tokio::test]
async fn rule_05_the_first_16_kib_of_an_answer_are_kept_whatever_it_is() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let nasty = b"a\0\xff\x1b[31m<script>\"".to_vec();
    receiver.reply([Reply::Body(200, vec![b'x'; 20 * 1024]), Reply::Body(200, nasty)]);
    for (calls, shown) in [(1, "x".repeat(16 * 1024)), (2, "a\0\u{fffd}\u{1b}[31m<script>\"".to_owned())] {
        app.cancel_one().await;
        let call = receiver.wait_for(calls).await.remove(calls - 1);
        let delivery = app.wait_for_state(call.header("webhook-id"), "delivered").await;
        assert_eq!(of_attempts(&delivery, "responseBody"), [json!(shown)]);
    }
}

#[tokio::test]
async fn every_subscription_gets_its_own_delivery_of_an_event() {
    let (database, one, other) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&one.url).await;
    app.subscribe(&other.url).await;
    app.cancel_one().await;
    let (first, second) = (one.wait_for(1).await.remove(0), other.wait_for(1).await.remove(0));
    assert_eq!(first.body, second.body, "one event");
    assert_ne!(first.header("webhook-id"), second.header("webhook-id"), "two deliveries");
}

#[tokio::test]
async fn an_event_that_matched_nobody_is_kept_and_says_so() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let session = app.cancel_one().await;
    let row = sqlx::query("select id from events").fetch_one(&database.pool).await.unwrap();
    let event = app.get(&format!("/herald/v1/events/{}", row.get::<Uuid, _>("id"))).await;
    assert_eq!((&event["matched"], &event["deliveries"]), (&json!(0), &json!([])));
    assert_eq!(event["data"]["id"], session);
    assert_eq!(app.deliveries().await, Vec::<serde_json::Value>::new());
}
