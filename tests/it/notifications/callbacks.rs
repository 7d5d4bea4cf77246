//! Callbacks: made, read, changed, deleted, and whose they are. That one is tried out is a story of `delivery`.

use serde_json::{Value, json};

use super::{
    CALLBACKS, SUBSCRIPTIONS, authentication, callback, callback_path, invalid, not_found, subscription,
    subscription_path, world,
};

/// As the published page prints it.
const SAMPLE: &str = r#"{
  "name": "callback_name",
  "url": "https://partner.example/callback_url",
  "backupUrl ": "https://partner.example/backupCallbackUrl",
  "batchSize": 1,
  "authentication": {
    "type": "B",
    "data": {
      "userName": "username",
      "password": "canary"
    }
  }
}"#;

/// As the published page prints its change.
const SAMPLE_CHANGE: &str = r#"{
  "url": "https://partner.example/other_url",
  "backupUrl ": "https://partner.example/otherBackupUrl",
  "batchSize": 2,
  "authentication": {
    "type": "B",
    "data": {
      "userName": "username",
      "password": "canary"
    }
  }
}"#;

#[tokio::test]
async fn the_published_samples_make_a_callback_that_is_read_changed_and_deleted() {
    let world = world().await;
    let ann = &world.ann;
    let sample: Value = serde_json::from_str(SAMPLE).unwrap();
    let made = ann.post(CALLBACKS, &sample).await.ok();
    let path = callback_path("callback_name");
    assert_eq!(
        made,
        json!({
            "name": "callback_name", "url": "https://partner.example/callback_url",
            "backupUrl": "https://partner.example/backupCallbackUrl", "batchSize": 1,
            "links": [
                { "rel": "self", "href": path, "method": "PUT" },
                { "rel": "getCallBack", "href": path, "method": "GET" },
                { "rel": "deleteCallBack", "href": path, "method": "DELETE" },
            ],
        })
    );
    assert_eq!(ann.get(&path).await.ok(), made);
    assert_eq!(ann.get(CALLBACKS).await.ok(), json!([made]));
    let change: Value = serde_json::from_str(SAMPLE_CHANGE).unwrap();
    let changed = ann.put_json(&path, &change).await.ok();
    let links = &made["links"];
    assert_eq!(
        changed,
        json!({ "name": "callback_name", "url": change["url"], "backupUrl": change["backupUrl "], "batchSize": 2, "links": links })
    );
    let change = json!({ "batchSize": 200, "authentication": authentication() });
    let kept = changed["backupUrl"].clone();
    let changed = ann.put_json(&path, &change).await.ok();
    assert_eq!((&changed["batchSize"], &changed["backupUrl"]), (&json!(200), &kept));
    let change = json!({ "name": "ignored", "url": "https://partner.example/new", "backupUrl": null, "authentication": authentication() });
    let changed = ann.put_json(&path, &change).await.ok();
    assert_eq!((&changed["url"], changed.get("backupUrl")), (&change["url"], None));
    assert_eq!(
        ann.remove(&path).await.ok(),
        json!({ "message": "CallBack [callback_name ] deleted successfully", "status": true })
    );
    assert_eq!(ann.get(&path).await.told(), not_found("CallBack [callback_name] not found"));
    assert_eq!(ann.get(CALLBACKS).await.ok(), json!([]));
    ann.post(CALLBACKS, &sample).await.ok();
}

#[tokio::test]
async fn callbacks_that_cannot_be_are_refused() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let path = callback_path("c");
    let taken = ann.post(CALLBACKS, &callback("c")).await.told();
    assert_eq!(taken, invalid("Callback with name [c] already exists"));
    let with = |member: &str, value: Value| {
        let mut wish = callback("d");
        wish[member] = value;
        wish
    };
    for (wish, detail) in [
        (with("batchSize", json!(0)), "batchSize must be a whole number from 1 to 200"),
        (with("batchSize", json!(201)), "batchSize must be a whole number from 1 to 200"),
        (with("url", json!("nonsense")), "url must be an absolute URL that starts with https:// or http://"),
        (with("backupUrl", json!("https://partner.example/d")), "backupUrl must differ from url"),
        (
            with("authentication", json!({ "type": "OAUTH", "data": { "userName": "u", "password": "p" } })),
            "authentication.type must be B",
        ),
    ] {
        assert_eq!(ann.post(CALLBACKS, &wish).await.told(), invalid(detail));
    }
    let everything = ann.post(CALLBACKS, &json!({})).await.told();
    let detail = "name is required; url is required; batchSize is required; authentication is required";
    assert_eq!(everything, invalid(detail));
    let same = json!({ "backupUrl": "https://partner.example/c", "batchSize": 1, "authentication": authentication() });
    assert_eq!(ann.put_json(&path, &same).await.told(), invalid("backupUrl must differ from url"));
    assert_eq!(
        ann.put_json(&path, &json!({ "batchSize": 7 })).await.told(),
        invalid("authentication is required")
    );
    let nothing = json!({ "authentication": authentication() });
    assert_eq!(
        ann.put_json(&path, &nothing).await.told(),
        invalid("body must have one of url and batchSize")
    );
    assert_eq!(ann.get(&path).await.ok()["batchSize"], 100);
    assert_eq!(ann.get(&format!("{path}?action=explode")).await.told(), invalid("action must be verify"));
    for name in ["none", "%00", "a%2Fb"] {
        let shown = name.replace("%00", "\0").replace("%2F", "/");
        let told = not_found(&format!("CallBack [{shown}] not found"));
        let path = callback_path(name);
        let change = json!({ "batchSize": 1, "authentication": authentication() });
        assert_eq!(ann.get(&path).await.told(), told);
        assert_eq!(ann.put_json(&path, &change).await.told(), told);
        assert_eq!(ann.remove(&path).await.told(), told);
        assert_eq!(ann.get(&format!("{path}/actions/verify")).await.told(), told);
        assert_eq!(ann.get(&format!("{path}?action=verify")).await.told(), told);
        assert_eq!(ann.get(&format!("{path}/subscriptions")).await.told(), told);
    }
}

#[tokio::test]
async fn a_callback_goes_only_when_no_subscription_uses_it() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("s", &["SMS_FAILED"]).await;
    ann.notified("t", &["MMS_FAILED"]).await;
    let pause = json!({ "callBackName": "c", "eventTypes": ["MMS_FAILED"], "status": "PAUSED" });
    ann.put_json(&subscription_path("t"), &pause).await.ok();
    let path = callback_path("c");
    let used = ann.get(&format!("{path}/subscriptions")).await.ok();
    assert_eq!(
        (&used["callBackName"], &used["callBackUrl"], &used["batchSize"]),
        (&json!("c"), &json!("https://partner.example/c"), &json!(100))
    );
    let brief = |name: &str, status: &str, kind: &str| json!({ "name": name, "status": status, "eventTypes": [kind], "filters": [] });
    assert_eq!(
        used["subscriptions"],
        json!([brief("s", "ACTIVE", "SMS_FAILED"), brief("t", "PAUSED", "MMS_FAILED")])
    );
    for name in ["s", "t"] {
        assert_eq!(ann.remove(&path).await.told(), invalid("Subscription with same name already exists"));
        ann.remove(&subscription_path(name)).await.ok();
    }
    ann.remove(&path).await.ok();
    // What pointed at it is history, and its name is free.
    ann.post(CALLBACKS, &callback("c")).await.ok();
    ann.notified("s", &["SMS_FAILED"]).await;
}

#[tokio::test]
async fn rule_12_another_partners_names_do_not_exist() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let ben = &world.ben;
    ann.notified("s", &["SMS_FAILED"]).await;
    assert_eq!(ben.get(CALLBACKS).await.ok(), json!([]));
    assert_eq!(ben.get(SUBSCRIPTIONS).await.ok(), json!([]));
    assert_eq!(ben.get(&callback_path("c")).await.told(), not_found("CallBack [c] not found"));
    assert_eq!(ben.remove(&callback_path("c")).await.told(), not_found("CallBack [c] not found"));
    let told = not_found("Subscription with name [s] not found");
    assert_eq!(ben.get(&subscription_path("s")).await.told(), told);
    assert_eq!(ben.remove(&subscription_path("s")).await.told(), told);
    let wish = subscription("s", &["SMS_FAILED"]);
    assert_eq!(ben.post(SUBSCRIPTIONS, &wish).await.told(), not_found("Subscription [s ] does not exists"));
    // The same names, and the same event types, are free for him.
    let ben = ben.clone().with_callback().await;
    ben.notified("s", &["SMS_FAILED"]).await;
    ben.remove(&subscription_path("s")).await.ok();
    assert_eq!(ann.get(&subscription_path("s")).await.ok()["status"], "ACTIVE");
}

#[tokio::test]
async fn rule_09_credentials_are_sealed_for_their_row() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.post(CALLBACKS, &callback("d")).await.ok();
    let stored: Vec<(String, Vec<u8>)> =
        sqlx::query_as("select c::text, credentials from callbacks c where name is not null")
            .fetch_all(&world.database.pool)
            .await
            .unwrap();
    assert_eq!(stored.len(), 2);
    for (row, sealed) in &stored {
        assert!(!row.contains("canary") && !row.contains("someone"));
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
    }
    assert_ne!(stored[0].1, stored[1].1);
    ann.remove(&callback_path("d")).await.ok();
    let left: i64 = sqlx::query_scalar("select count(*) from callbacks where credentials is not null")
        .fetch_one(&world.database.pool)
        .await
        .unwrap();
    assert_eq!(left, 1, "a deleted callback's secrets are wiped");
}
