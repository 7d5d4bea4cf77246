//! The update of a subscription: each published failure to the letter, their order, both of its methods, and who wins a race.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    CALLBACKS, SUBSCRIPTIONS, callback, filter, invalid, not_found, subscription, subscription_path, world,
};
use crate::support::server::{Partner, Reply};

/// The published samples, with names in the place of their placeholders.
const SAMPLE: &str = r#"{
  "callBackName": "c",
  "eventTypes": ["EMAIL_BOUNCED"],
  "status": "PAUSED"
}"#;

/// By PUT, and by the GET that the published page prints.
async fn both(partner: &Partner, name: &str, body: &str) -> Reply {
    let path = subscription_path(name);
    let headers = [("authorization", partner.key.as_str()), ("content-type", "application/json")];
    let put = partner.send_raw("PUT", &path, &headers, Some(body.to_owned())).await;
    let get = partner.send_raw("GET", &path, &headers, Some(body.to_owned())).await;
    assert_eq!((put.status, put.json()), (get.status, get.json()), "{body}");
    assert_eq!(get.header("cache-control"), "no-store");
    get
}

#[tokio::test]
async fn each_of_the_eight_published_failures_is_told_to_the_letter_in_their_order() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("taken", &["SMS_MO_FW_FAILED", "SMS_RECEIPT"]).await;
    ann.notified("mine", &["EMAIL_BOUNCED"]).await;
    let body = |callback: &str, event_types: Value, status: Value| json!({ "callBackName": callback, "eventTypes": event_types, "status": status });
    let no_status =
        |callback: &str, event_types: Value| json!({ "callBackName": callback, "eventTypes": event_types });
    // Each of these has its own fault, and all of the later ones besides where one body can.
    let taken = json!(["SMS_MO_FW_FAILED", "SMS_MO_FW_FAILED"]);
    let unknown_event = json!(["SMS_FAILED", "SMS_FAILED1", "SMS_FAILED"]);
    for (name, body, expected) in [
        (
            "nobodys",
            body("none", unknown_event.clone(), json!(null)),
            not_found("Subscription with name [nobodys ] not found"),
        ),
        (
            "mine",
            body("none", unknown_event.clone(), json!(null)),
            not_found("Subscription [mine ] does not exists"),
        ),
        (
            "mine",
            body("c", unknown_event, json!(null)),
            not_found("Event Type [ SMS_FAILED1 ] not found or is not supported"),
        ),
        ("mine", body("c", json!([]), json!(null)), invalid("Event type is empty or null")),
        ("mine", body("c", json!(null), json!("X")), invalid("Event type is empty or null")),
        ("mine", json!({ "callBackName": "c", "status": "" }), invalid("Event type is empty or null")),
        (
            "mine",
            body("c", taken.clone(), json!(null)),
            invalid("Subscription status cannot be empty or null"),
        ),
        ("mine", body("c", taken.clone(), json!("")), invalid("Subscription status cannot be empty or null")),
        (
            "mine",
            body("c", taken.clone(), json!("STOPPED")),
            invalid("Subscription status can only be ACTIVE or PAUSED"),
        ),
        (
            "mine",
            body("c", taken.clone(), json!("ACTIVE")),
            invalid("Duplicate event types found in the request"),
        ),
        ("mine", no_status("c", taken), invalid("Duplicate event types found in the request")),
        (
            "mine",
            body("c", json!(["EMAIL_BOUNCED", "SMS_MO_FW_FAILED", "SMS_RECEIPT"]), json!("ACTIVE")),
            invalid("There's an active subscription for event [ SMS_MO_FW_FAILED ] with other subscriptions"),
        ),
        (
            "mine",
            body("c", json!(["SMS_RECEIPT", "SMS_MO_FW_FAILED"]), json!("PAUSED")),
            invalid("There's an active subscription for event [ SMS_RECEIPT ] with other subscriptions"),
        ),
        (
            "mine",
            no_status("c", json!(["SMS_RECEIPT"])),
            invalid("There's an active subscription for event [ SMS_RECEIPT ] with other subscriptions"),
        ),
    ] {
        assert_eq!(both(&ann, name, &body.to_string()).await.told(), expected, "{name}: {body}");
    }
    // None of them has changed anything.
    let mine = ann.get(&subscription_path("mine")).await.ok();
    assert_eq!((&mine["eventTypes"], &mine["status"]), (&json!(["EMAIL_BOUNCED"]), &json!("ACTIVE")));
}

#[tokio::test]
async fn the_published_sample_updates_a_subscription_and_is_answered_as_printed() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let filters = json!([filter("EMAIL_FAILED", &["vk_campaign_failed"])]);
    let mut wish = subscription("s", &["EMAIL_FAILED"]);
    wish["filters"] = filters.clone();
    ann.post(SUBSCRIPTIONS, &wish).await.ok();
    let updated = both(&ann, "s", SAMPLE).await.ok();
    assert_eq!(
        updated,
        json!({
            "subscriptionName": "s", "callBackUrl": "https://partner.example/c", "callBackName": "c",
            "batchSize": 100, "eventTypes": ["EMAIL_BOUNCED"], "status": "PAUSED", "filters": filters,
        })
    );
    assert_eq!(ann.get(&subscription_path("s")).await.ok(), updated);
    // The order of the published members, too.
    let text = ann.get(&subscription_path("s")).await.text;
    let members =
        ["subscriptionName", "callBackUrl", "callBackName", "batchSize", "eventTypes", "status", "filters"];
    let places: Vec<_> = members.iter().map(|name| text.find(&format!("\"{name}\"")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test]
async fn a_get_is_an_update_only_with_json_that_is_not_blank() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("s", &["SMS_FAILED"]).await;
    let path = subscription_path("s");
    let ask = async |method: &str, content_type: Option<&str>, body: &str| {
        let mut headers = vec![("authorization", ann.key.as_str())];
        headers.extend(content_type.map(|it| ("content-type", it)));
        ann.send_raw(method, &path, &headers, Some(body.to_owned())).await.status
    };
    for (method, content_type, body) in [
        ("GET", Some("application/json"), " \r\n"),
        ("GET", Some("text/plain"), SAMPLE),
        ("GET", None, SAMPLE),
        ("HEAD", Some("application/json"), SAMPLE),
    ] {
        assert_eq!(ask(method, content_type, body).await, 200, "{method} {content_type:?}");
        assert_eq!(ann.get(&path).await.ok()["status"], "ACTIVE", "{method} {content_type:?}");
    }
    assert_eq!(ask("GET", Some("application/json; charset=utf-8"), SAMPLE).await, 200);
    assert_eq!(ann.get(&path).await.ok()["status"], "PAUSED");
    assert_eq!(ask("GET", Some("application/json"), "{").await, 400);
    assert_eq!(ask("GET", Some("application/json"), &" ".repeat(16_385)).await, 413);
}

#[tokio::test]
async fn what_an_update_does_not_name_stays_and_a_reason_belongs_to_its_status() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.post(CALLBACKS, &callback("d")).await.ok();
    ann.notified("s", &["SMS_FAILED"]).await;
    let update = async |change: Value| {
        let mut body = json!({ "callbackName": "c", "eventNames": ["SMS_FAILED"] });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let updated = ann.put_json(&subscription_path("s"), &body).await.ok();
        (updated["status"].clone(), updated["statusReason"].clone(), updated["filters"].clone())
    };
    let (filters, none) = (json!([filter("SMS_SKIPPED", &["a", "b"])]), json!([]));
    let why = json!("maintenance");
    let paused = json!("PAUSED");
    for (change, expected) in [
        (json!({ "filters": filters }), (json!("ACTIVE"), Value::Null, filters.clone())),
        (json!({ "status": "PAUSED", "statusReason": why }), (paused.clone(), why.clone(), filters.clone())),
        (json!({}), (paused.clone(), why.clone(), filters.clone())),
        (json!({ "status": "PAUSED", "filters": null }), (paused.clone(), why.clone(), filters.clone())),
        (json!({ "statusReason": "" }), (paused.clone(), Value::Null, filters.clone())),
        (json!({ "statusReason": "again" }), (paused, json!("again"), filters)),
        (json!({ "status": "ACTIVE", "filters": [] }), (json!("ACTIVE"), Value::Null, none)),
    ] {
        assert_eq!(update(change.clone()).await, expected, "{change}");
    }
    let moved = json!({ "callBackName": "d", "eventTypes": ["SMS_FAILED"] });
    let moved = ann.put_json(&subscription_path("s"), &moved).await.ok();
    assert_eq!(
        (&moved["callBackName"], &moved["callBackUrl"]),
        (&json!("d"), &json!("https://partner.example/d"))
    );
}

#[tokio::test]
async fn malformed_bodies_are_told_before_anything_is_looked_up() {
    let world = world().await;
    let told = async |content_type: &str, body: &str| {
        let headers = [("authorization", world.ann.key.as_str()), ("content-type", content_type)];
        let path = subscription_path("nobodys");
        world.ann.send_raw("PUT", &path, &headers, Some(body.to_owned())).await.told().0
    };
    for (body, status) in [
        ("{}", 404),
        ("", 400),
        ("[]", 400),
        (r#"{"eventTypes":"SMS_FAILED"}"#, 400),
        (r#"{"eventTypes":[],"eventTypes":[]}"#, 400),
        (r#"{"callBackName":"\u0000"}"#, 400),
        (r#"{"status":1e400}"#, 400),
    ] {
        assert_eq!(told("application/json", body).await, status, "{body}");
    }
    assert_eq!(told("text/plain", "{}").await, 415);
    assert_eq!(told("application/json", &" ".repeat(16_385)).await, 413);
    // Names that none can have.
    let body = json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED"] });
    for (name, shown) in [("%00", "\0"), ("a%0Ab", "a\nb"), ("%20", " ")] {
        let told = world.ann.put_json(&subscription_path(name), &body).await.told();
        assert_eq!(told, not_found(&format!("Subscription with name [{shown} ] not found")));
    }
}

#[tokio::test]
async fn of_many_who_want_one_event_type_at_once_one_gets_it() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let names: Vec<String> = (0..12).map(|number| format!("s{number}")).collect();
    let create = names.iter().map(|name| {
        let (ann, wish) = (&ann, subscription(name, &["SMS_FAILED", "MMS_FAILED"]));
        async move { ann.post(SUBSCRIPTIONS, &wish).await }
    });
    let answers = join_all(create).await;
    let detail = "There's an active subscription for event [ SMS_FAILED ] with other subscriptions";
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(refused.told(), invalid(detail));
    }
    // Those that are paused may all have it, and of those that are to be active again one gets it.
    let winner = names[answers.iter().position(|answer| answer.status == 200).unwrap()].clone();
    let pause = json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED"], "status": "PAUSED" });
    ann.put_json(&subscription_path(&winner), &pause).await.ok();
    for name in names.iter().filter(|name| **name != winner) {
        ann.notified(name, &["SMS_FAILED"]).await;
        ann.put_json(&subscription_path(name), &pause).await.ok();
    }
    let resume = json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED"], "status": "ACTIVE" });
    let answers = join_all(names.iter().map(|name| {
        let (ann, resume) = (&ann, &resume);
        async move { ann.put_json(&subscription_path(name), resume).await }
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert!(
        answers.iter().filter(|answer| answer.status != 200).all(|answer| answer.told() == invalid(detail))
    );
}

/// Whoever does not take turns as requests do is kept out by the index, and the request is told what is published.
#[tokio::test]
async fn the_database_itself_keeps_an_event_type_to_one_active_subscription() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("other", &["SMS_RECEIPT"]).await;
    ann.notified("s", &["SMS_FAILED"]).await;
    let mut writer = world.database.pool.begin().await.unwrap();
    sqlx::query(
        "update subscription_event_types set event_type = 'MMS_FAILED' where event_type = 'SMS_RECEIPT'",
    )
    .execute(&mut *writer)
    .await
    .unwrap();
    let wish = json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED", "MMS_FAILED"] });
    let path = subscription_path("s");
    let asking = ann.put_json(&path, &wish);
    let commit = async {
        // The request has read that nobody has the type, and waits for the writer.
        world.database.until_waiting(1).await;
        writer.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, commit);
    let detail = "There's an active subscription for event [ MMS_FAILED ] with other subscriptions";
    assert_eq!(answer.told(), invalid(detail));
    assert_eq!(ann.get(&path).await.ok()["eventTypes"], json!(["SMS_FAILED"]), "all of it is undone");
}
