//! Subscriptions: made, listed, read, deleted.

use herald::domain::notification;
use herald::store::subscriptions::{self, Disabling};
use herald::store::targets;
use serde_json::json;

use super::{
    CALLBACKS, SUBSCRIPTIONS, callback, filter, invalid, not_found, subscription, subscription_path, world,
};

#[tokio::test]
async fn a_subscription_is_made_active_and_answered_as_published() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let filters = json!([filter("EMAIL_FAILED", &["vk_campaign_failed"])]);
    let wish = json!({
        "name": "subscription_name", "callbackName": "c", "status": "PAUSED", "statusReason": "no",
        "eventNames": ["EMAIL_BOUNCED", "EMAIL_FAILED", "EMAIL_SKIPPED", "SMS_FAILED", "SMS_SKIPPED", "SMS_MO_FW_FAILED"],
        "filters": filters,
    });
    let made = ann.post(SUBSCRIPTIONS, &wish).await.ok();
    assert_eq!(
        made,
        json!({
            "subscriptionName": "subscription_name", "callBackUrl": "https://partner.example/c",
            "callBackName": "c", "batchSize": 100, "eventTypes": wish["eventNames"], "status": "ACTIVE",
            "filters": filters,
        })
    );
    assert_eq!(ann.get(&subscription_path("subscription_name")).await.ok(), made);
}

#[tokio::test]
async fn a_creation_fails_as_an_update_does_and_of_two_faults_a_name_that_is_taken_comes_first() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("s", &["SMS_FAILED"]).await;
    let told = async |name: &str, callback: &str, event_types: serde_json::Value| {
        let wish = json!({ "name": name, "callBackName": callback, "eventTypes": event_types });
        ann.post(SUBSCRIPTIONS, &wish).await.told()
    };
    let unknown = not_found("Event Type [ SMS ] not found or is not supported");
    assert_eq!(told("n", "none", json!(["SMS"])).await, not_found("Subscription [n ] does not exists"));
    assert_eq!(told("s", "c", json!(["SMS"])).await, unknown);
    assert_eq!(told("n", "c", json!([])).await, invalid("Event type is empty or null"));
    let twice = json!(["SMS_FAILED", "SMS_FAILED"]);
    assert_eq!(told("n", "c", twice).await, invalid("Duplicate event types found in the request"));
    let taken = json!(["SMS_FAILED"]);
    assert_eq!(told("s", "c", taken.clone()).await, invalid("Subscription with same name already exists"));
    assert_eq!(
        told("n", "c", taken).await,
        invalid("There's an active subscription for event [ SMS_FAILED ] with other subscriptions")
    );
    let wish = json!({ "callBackName": "none", "eventTypes": [] });
    assert_eq!(ann.post(SUBSCRIPTIONS, &wish).await.told(), invalid("name is required"));
    assert_eq!(ann.get(&subscription_path("n")).await.status, 404, "nothing was left behind");
}

#[tokio::test]
async fn the_list_has_the_active_ones_with_where_to_go_from_them() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let shown = ann.notified("Email Bounces", &["EMAIL_BOUNCED"]).await;
    ann.notified("paused", &["SMS_FAILED"]).await;
    let pause = json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED"], "status": "PAUSED" });
    ann.put_json(&subscription_path("paused"), &pause).await.ok();
    let path = subscription_path("Email%20Bounces");
    let mut expected = shown;
    expected["links"] = json!([
        { "rel": "self", "href": SUBSCRIPTIONS, "method": "GET" },
        { "rel": "createSubscription", "href": SUBSCRIPTIONS, "method": "POST" },
        { "rel": "deleteSubscription", "href": path, "method": "DELETE" },
        { "rel": "updateSubscription", "href": path, "method": "PUT" },
        { "rel": "getSubscription", "href": path, "method": "GET" },
    ]);
    assert_eq!(ann.get(SUBSCRIPTIONS).await.ok(), json!([expected]));
    assert_eq!(ann.get(&path).await.ok()["subscriptionName"], "Email Bounces");
}

/// Whoever matches an event has all of a partner's filters for its type in memory, those of paused subscriptions as well.
#[tokio::test]
async fn rule_14_the_filters_of_all_of_a_partners_subscriptions_are_bounded_together() {
    let world = world().await;
    let [ann, ben] = [world.ann.clone().with_callback().await, world.ben.clone().with_callback().await];
    // What is filtered need not be subscribed to.
    let filters = |names: usize| {
        let names: Vec<_> = (0..names).map(|number| format!("{number:010}")).collect();
        json!([{ "eventTypes": notification::EVENT_TYPES, "values": [{ "campaignNames": names }] }])
    };
    let bytes = |names: usize| 26 * names * 34;
    let wish = |name: &str, event_type: &str, names: usize| {
        let mut wish = subscription(name, &[event_type]);
        wish["filters"] = filters(names);
        wish
    };
    let full = |bytes: usize| {
        format!(
            "filters would make the filters of all your subscriptions {bytes} bytes, of which there may be 4194304; \
             each campaign's name counts its bytes and 24 more, once for each type in its filter: name fewer campaigns or types, \
             or delete subscriptions"
        )
    };
    for event_type in &notification::EVENT_TYPES[10..14] {
        ann.post(SUBSCRIPTIONS, &wish(event_type, event_type, 1_000)).await.ok();
    }
    ann.post(SUBSCRIPTIONS, &wish("first", "SMS_FAILED", 400)).await.ok();
    let second = wish("second", "EMAIL_FAILED", 345);
    assert_eq!(ann.post(SUBSCRIPTIONS, &second).await.told(), invalid(&full(bytes(4_745))));
    assert_eq!(ann.get(&subscription_path("second")).await.status, 404, "nothing was left behind");
    ann.post(SUBSCRIPTIONS, &wish("second", "EMAIL_FAILED", 344)).await.ok();
    ben.post(SUBSCRIPTIONS, &wish("first", "SMS_FAILED", 400)).await.ok();

    let update = async |name: &str, event_type: &str, names: usize| {
        ann.put_json(&subscription_path(name), &wish(name, event_type, names)).await
    };
    assert_eq!(update("first", "SMS_FAILED", 401).await.told(), invalid(&full(bytes(4_745))));
    // What is too much already, by an earlier rule, may be kept as it is and made less.
    let weights = "select sum(filters_bytes) from subscriptions where state <> 'deleted'";
    let weight: i64 = sqlx::query_scalar(weights).fetch_one(&world.database.pool).await.unwrap();
    assert_eq!(weight, i64::try_from(bytes(4_744 + 400)).unwrap());
    let heavier =
        "update subscriptions set filters_bytes = filters_bytes + 1000000 where external_key = 'second'";
    sqlx::query(heavier).execute(&world.database.pool).await.unwrap();
    update("first", "SMS_FAILED", 400).await.ok();
    update("first", "SMS_FAILED", 399).await.ok();
    assert_eq!(update("first", "SMS_FAILED", 400).await.told().0, 400);
    ann.remove(&subscription_path("second")).await;
    update("first", "SMS_FAILED", 744).await.ok();

    // What was there before the column was is weighed in the same way.
    let weight = sqlx::query_scalar::<_, i64>(weights).fetch_one(&world.database.pool).await.unwrap();
    sqlx::query("update subscriptions set filters_bytes = 0").execute(&world.database.pool).await.unwrap();
    let migration = include_str!("../../../migrations/0023_weight_of_filters.sql");
    let (_, weigh) = migration.split_once("\nupdate ").unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("update {weigh}"))).execute(&world.database.pool).await.unwrap();
    let again = sqlx::query_scalar::<_, i64>(weights).fetch_one(&world.database.pool).await.unwrap();
    assert_eq!(again, weight);
}

#[tokio::test]
async fn a_deleted_subscription_is_gone_with_its_event_types_and_its_name() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("s", &["SMS_FAILED"]).await;
    let path = subscription_path("s");
    assert_eq!(
        ann.remove(&path).await.ok(),
        json!({ "message": "Subscription [s ] deleted successfully", "status": true })
    );
    let told = not_found("Subscription with name [s] not found");
    assert_eq!(ann.get(&path).await.told(), told);
    assert_eq!(ann.remove(&path).await.told(), told);
    ann.notified("t", &["SMS_FAILED"]).await;
    ann.notified("s", &["MMS_FAILED"]).await;
}

#[tokio::test]
async fn a_disabled_subscription_is_shown_as_paused_with_the_reason_and_its_types_are_free() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    ann.notified("s", &["SMS_FAILED"]).await;
    let (id,): (uuid::Uuid,) =
        sqlx::query_as("select id from subscriptions").fetch_one(&world.database.pool).await.unwrap();
    let mut connection = world.database.pool.acquire().await.unwrap();
    let id = herald::domain::id::SubscriptionId(id);
    for (reason, expected) in [("it is gone", Disabling::Done), ("again", Disabling::Outdated)] {
        let judged = targets::find(&mut connection, &[id]).await.unwrap()[0].as_read();
        let disabled =
            subscriptions::disable(&mut connection, (ann.id, id), judged, None, reason).await.unwrap();
        assert_eq!(disabled, expected, "{reason}");
    }
    drop(connection);
    let shown = ann.get(&subscription_path("s")).await.ok();
    assert_eq!((&shown["status"], &shown["statusReason"]), (&json!("PAUSED"), &json!("it is gone")));
    assert_eq!(ann.get(SUBSCRIPTIONS).await.ok(), json!([]));
    ann.notified("t", &["SMS_FAILED"]).await;
    let wish = |status: &str| json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED"], "status": status });
    let taken = invalid("There's an active subscription for event [ SMS_FAILED ] with other subscriptions");
    assert_eq!(ann.put_json(&subscription_path("s"), &wish("ACTIVE")).await.told(), taken);
    ann.remove(&subscription_path("t")).await.ok();
    let kept = json!({ "callBackName": "c", "eventTypes": ["SMS_FAILED", "MMS_FAILED"] });
    let kept = ann.put_json(&subscription_path("s"), &kept).await.ok();
    assert_eq!((&kept["status"], &kept["statusReason"]), (&json!("PAUSED"), &json!("it is gone")));
    let resumed = ann.put_json(&subscription_path("s"), &wish("ACTIVE")).await.ok();
    assert_eq!((&resumed["status"], resumed.get("statusReason")), (&json!("ACTIVE"), None));
}

#[tokio::test]
async fn the_event_list_is_the_published_one() {
    let world = world().await;
    let list = world.ann.get("/rest/api/v1.3/notifications/eventList").await.ok();
    let list: Vec<&str> = list.as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()).collect();
    let of = |channel: &str, kinds: &[&str]| {
        kinds.iter().map(|kind| format!("{channel}_{kind}")).collect::<Vec<_>>()
    };
    let published = [
        of("EMAIL", &["BOUNCED", "FAILED", "SKIPPED", "CLICKED", "OPTOUT", "OPTIN", "COMPLAINT"]),
        of("SMS", &["FAILED", "SKIPPED", "MO_FW_FAILED", "OPT_IN", "OPT_OUT", "RECEIPT"]),
        of("MMS", &["SKIPPED", "FAILED"]),
        of("PUSH", &["SKIPPED", "FAILED", "BOUNCED", "OPT_IN", "OPT_OUT"]),
        of("WEBPUSH", &["FAILED", "SKIPPED", "BOUNCED", "CLOSED", "OPTIN", "OPTOUT"]),
    ]
    .concat();
    assert_eq!(list, published);
}

#[tokio::test]
async fn there_may_be_a_thousand_of_each_and_no_more() {
    let world = world().await;
    let ann = world.ann.clone().with_callback().await;
    let fill = "insert into callbacks (id, partner_id, surface, name, url) select gen_random_uuid(), $1, 'notifications', 'n' || n, 'https://partner.example' from generate_series(2, 1000) n";
    sqlx::query(fill).bind(ann.id.0).execute(&world.database.pool).await.unwrap();
    let full = ann.post(CALLBACKS, &callback("one-more")).await.told();
    assert_eq!(full, invalid("name would be one more than the 1000 callbacks that there may be"));
    let fill = "insert into subscriptions (id, partner_id, surface, external_key, callback_id, state)
        select gen_random_uuid(), $1, 'notifications', 's' || n, (select id from callbacks where name = 'c'), 'paused' from generate_series(1, 1000) n";
    sqlx::query(fill).bind(ann.id.0).execute(&world.database.pool).await.unwrap();
    let full = ann.post(SUBSCRIPTIONS, &subscription("one-more", &["SMS_FAILED"])).await.told();
    assert_eq!(full, invalid("name would be one more than the 1000 subscriptions that there may be"));
}
