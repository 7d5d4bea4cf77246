//! What a callback receives: one by one, filtered, held and drained, shared and moved, in batches.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use herald::domain::id::SubscriptionId;
use herald::store::targets;
use reqwest::Method;
use serde_json::{Value, json};

use super::{CALLBACKS, SUBSCRIPTIONS, callback_path, filter, subscription_path};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{Partner, of_attempts, text};
use crate::support::receiver::{Call, Receiver, Reply};

const PASSWORD: &str = "correct horse: battery";

pub(super) fn authentication() -> Value {
    json!({ "type": "B", "data": { "userName": "someone", "password": PASSWORD } })
}

impl App {
    async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, Some(body)).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Makes a callback whose events go one by one.
    pub(super) async fn make_callback(&self, name: &str, url: &str) {
        self.make_batching_callback(name, url, 1).await;
    }

    async fn make_batching_callback(&self, name: &str, url: &str, batch_size: u8) {
        let wish =
            json!({ "name": name, "url": url, "batchSize": batch_size, "authentication": authentication() });
        self.ok(Method::POST, CALLBACKS, wish).await;
    }

    async fn make_subscription(&self, name: &str, callback: &str, event_types: &[&str]) {
        let wish = json!({ "name": name, "callBackName": callback, "eventTypes": event_types });
        self.ok(Method::POST, SUBSCRIPTIONS, wish).await;
    }

    /// Gives a subscription with one event type another status.
    async fn set_status(&self, name: &str, callback: &str, event_type: &str, status: &str) -> Value {
        let wish = json!({ "callBackName": callback, "eventTypes": [event_type], "status": status });
        self.ok(Method::PUT, &subscription_path(name), wish).await
    }

    /// Publishes an event; how many subscriptions it matched.
    async fn publish(&self, event: Value) -> i64 {
        let (status, receipt) = self.operator().ask(Method::POST, "/events", Some(event)).await;
        assert_eq!(status, 202, "{receipt}");
        receipt["matched"].as_i64().unwrap()
    }

    /// Waits until some attempt has failed and is recorded.
    async fn wait_for_failure(&self) {
        let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
        loop {
            for delivery in self.deliveries().await {
                let delivery = self.delivery(&text(&delivery["id"])).await;
                if of_attempts(&delivery, "status").contains(&json!(503)) {
                    return;
                }
            }
            assert!(std::time::Instant::now() < deadline, "no failure is recorded");
            tokio::task::yield_now().await;
        }
    }

    async fn held(&self, name: &str) -> Value {
        self.get(&own_path(name, "")).await["heldCount"].clone()
    }
}

fn own_path(name: &str, below: &str) -> String {
    format!("/herald/v1/subscriptions/notifications/{name}{below}")
}

pub(super) fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("someone:{PASSWORD}")))
}

fn numbers(calls: &[Call]) -> Vec<i64> {
    let all = calls.iter().flat_map(|call| call.json().as_array().unwrap().clone());
    all.map(|event| event["n"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn an_event_arrives_as_its_producers_object_with_its_type_signed_and_with_the_credentials() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &receiver.url).await;
    app.make_subscription("s", "c", &["EMAIL_BOUNCED", "SMS_FAILED"]).await;
    let (status, rolled) = app.ask(Method::POST, &own_path("s", "/signing-keys"), None).await;
    assert_eq!(status, 201, "{rolled}");
    receiver.reply([500, 204]);
    let event = r#"{"type":"EMAIL_BOUNCED","data":{ "riid" : 37384097410000000001.50, "a":"\u00e9" }}"#;
    let request = app.operator().request(Method::POST, "/events").header("content-type", "application/json");
    assert_eq!(request.body(event).send().await.unwrap().status(), 202);
    let first = receiver.wait_for(1).await.remove(0);
    assert_eq!(
        std::str::from_utf8(&first.body).unwrap(),
        r#"[{ "riid" : 37384097410000000001.50, "a":"\u00e9" ,"failureType":"EMAIL_BOUNCED"}]"#
    );
    assert_eq!(
        (first.header("authorization"), first.header("content-type")),
        (basic().as_str(), "application/json")
    );
    let delivery = app.the_delivery().await;
    assert_eq!(first.header("webhook-id"), delivery);
    app.wait_for_attempts(&delivery, 1).await;
    database.advance(chrono::TimeDelta::minutes(1)).await;
    let second = receiver.wait_for(2).await.remove(1);
    assert_eq!((second.header("webhook-id"), &second.body), (delivery.as_str(), &first.body));
    let key = herald::domain::signature::SigningKey::parse(&text(&rolled["key"])).unwrap();
    for call in [first, second] {
        let at = call.header("webhook-timestamp").parse().unwrap();
        let signed = herald::domain::signature::sign(std::slice::from_ref(&key), &delivery, at, &call.body);
        assert!(call.header("webhook-signature").split(' ').any(|one| one == signed));
    }
    let delivered = app.wait_for_state(&delivery, "delivered").await;
    assert_eq!(of_attempts(&delivered, "status"), [500, 204]);
    // Data that is no object.
    assert_eq!(app.publish(json!({ "type": "SMS_FAILED", "data": [1] })).await, 1);
    let call = receiver.wait_for(3).await.remove(2);
    assert_eq!(call.json(), json!([{ "data": [1], "failureType": "SMS_FAILED" }]));
}

#[tokio::test]
async fn filters_are_judged_when_an_event_is_published_and_only_of_the_types_that_they_name() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &receiver.url).await;
    let wish = json!({
        "name": "s", "callBackName": "c", "eventTypes": ["EMAIL_FAILED", "EMAIL_SKIPPED"],
        "filters": [filter("EMAIL_FAILED", &["spring", "it's \"summer\""]), filter("SMS_FAILED", &["autumn"])],
    });
    app.ok(Method::POST, SUBSCRIPTIONS, wish).await;
    let event = |kind: &str, campaign: Option<&str>| match campaign {
        Some(campaign) => json!({ "type": kind, "data": {}, "attributes": { "campaignName": campaign } }),
        None => json!({ "type": kind, "data": { "campaignName": "spring" } }),
    };
    for (kind, campaign, matched) in [
        ("EMAIL_FAILED", Some("spring"), 1),
        ("EMAIL_FAILED", Some("it's \"summer\""), 1),
        ("EMAIL_FAILED", Some("Spring"), 0),
        ("EMAIL_FAILED", Some("autumn"), 0),
        ("EMAIL_FAILED", Some(""), 0),
        ("EMAIL_FAILED", None, 0),
        ("EMAIL_SKIPPED", Some("autumn"), 1),
        ("EMAIL_SKIPPED", None, 1),
        ("SMS_FAILED", Some("autumn"), 0),
    ] {
        assert_eq!(app.publish(event(kind, campaign)).await, matched, "{kind} {campaign:?}");
    }
    // What is not named stays, for a type that comes to be subscribed to as well.
    let update = json!({ "callBackName": "c", "eventTypes": ["EMAIL_FAILED", "SMS_FAILED"] });
    app.ok(Method::PUT, &subscription_path("s"), update).await;
    assert_eq!(app.publish(event("EMAIL_FAILED", Some("autumn"))).await, 0);
    assert_eq!(app.publish(event("SMS_FAILED", Some("autumn"))).await, 1);
    assert_eq!(app.publish(event("SMS_FAILED", Some("spring"))).await, 0);
    let update = json!({ "callBackName": "c", "eventTypes": ["EMAIL_FAILED"], "filters": [] });
    app.ok(Method::PUT, &subscription_path("s"), update).await;
    assert_eq!(app.publish(event("EMAIL_FAILED", None)).await, 1);
    receiver.wait_for(6).await;
}

#[tokio::test]
async fn paused_holds_visibly_and_active_drains_oldest_first() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let one_at_a_time =
        herald::config::RawConfig { callback_in_flight_max: Some("1".to_owned()), ..settings() };
    let app = App::start(&database, one_at_a_time).await;
    app.make_callback("c", &receiver.url).await;
    app.make_subscription("s", "c", &["SMS_FAILED"]).await;
    let event = |n: i64| json!({ "type": "SMS_FAILED", "data": { "n": n } });
    app.publish(event(0)).await;
    receiver.wait_for(1).await;
    assert_eq!(app.set_status("s", "c", "SMS_FAILED", "PAUSED").await["status"], "PAUSED");
    for n in 1..=30 {
        assert_eq!(app.publish(event(n)).await, 1);
    }
    assert_eq!(app.held("s").await, 30);
    assert_eq!(app.deliveries_that("state=held&subscription=notifications/s").await.len(), 30);
    assert_eq!(receiver.calls().len(), 1, "nothing is sent meanwhile");
    app.set_status("s", "c", "SMS_FAILED", "ACTIVE").await;
    let calls = receiver.wait_for(31).await;
    assert_eq!(numbers(&calls), (0..=30).collect::<Vec<_>>(), "oldest first");
    assert_eq!(app.held("s").await, 0);
}

#[tokio::test]
async fn a_callback_that_moves_and_a_subscription_that_changes_callbacks_are_followed_at_once() {
    let (database, app_settings) = (cluster::database().await, settings());
    let (old, new, other) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, app_settings).await;
    app.make_callback("c", &old.url).await;
    app.make_callback("d", &other.url).await;
    app.make_subscription("s", "c", &["SMS_FAILED"]).await;
    let event = |n: i64| json!({ "type": "SMS_FAILED", "data": { "n": n } });
    app.publish(event(1)).await;
    old.wait_for(1).await;
    let moved = json!({ "url": new.url, "authentication": { "type": "B", "data": { "userName": "u", "password": "p" } } });
    app.ok(Method::PUT, &callback_path("c"), moved).await;
    app.publish(event(2)).await;
    let call = new.wait_for(1).await.remove(0);
    assert_eq!((numbers(std::slice::from_ref(&call)), call.header("authorization")), (vec![2], "Basic dTpw"));
    app.set_status("s", "d", "SMS_FAILED", "ACTIVE").await;
    app.publish(event(3)).await;
    let call = other.wait_for(1).await.remove(0);
    assert_eq!(
        (numbers(std::slice::from_ref(&call)), call.header("authorization")),
        (vec![3], basic().as_str())
    );
    assert_eq!((old.calls().len(), new.calls().len()), (1, 1));
}

#[tokio::test]
async fn a_subscription_that_leaves_a_dead_callback_leaves_its_breaker_behind() {
    const BACKLOG: i64 = 40;
    let (database, dead, alive) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("dead", &dead.url).await;
    app.make_callback("alive", &alive.url).await;
    for (name, kind) in [("leaves", "SMS_FAILED"), ("stays", "MMS_FAILED")] {
        app.make_subscription(name, "dead", &[kind]).await;
    }
    dead.always(500);
    for number in 0..BACKLOG {
        app.publish(json!({ "type": "MMS_FAILED", "data": {} })).await;
        app.publish(json!({ "type": "SMS_FAILED", "data": { "n": number } })).await;
    }
    // Its breaker is open by then, and what else there is waits for it.
    dead.wait_for(10).await;
    app.set_status("leaves", "alive", "SMS_FAILED", "ACTIVE").await;
    app.publish(json!({ "type": "SMS_FAILED", "data": { "n": BACKLOG } })).await;
    // Some have failed at the former callback, and wait for their next attempt.
    let fresh = |calls: &[Call]| numbers(calls).contains(&BACKLOG) && calls.len() > BACKLOG as usize / 2;
    alive.wait_until("all that was not tried yet", fresh).await;
    let attempts = dead.calls().len();
    assert!(attempts < BACKLOG as usize, "{attempts}: the former breaker was open");
}

#[tokio::test]
async fn those_who_share_a_callback_share_its_fate_but_not_each_others() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &receiver.url).await;
    for (name, kind) in [("a", "SMS_FAILED"), ("b", "MMS_FAILED"), ("doomed", "PUSH_FAILED")] {
        app.make_subscription(name, "c", &[kind]).await;
    }
    let publish = async |kind: &str| app.publish(json!({ "type": kind, "data": {} })).await;
    receiver.reply([410]);
    publish("SMS_FAILED").await;
    receiver.wait_for(1).await;
    let delivery = app.the_delivery().await;
    app.wait_for_state(&delivery, "held").await;
    assert_eq!(app.get(&subscription_path("a")).await["status"], "PAUSED");
    assert!(app.get(&subscription_path("a")).await["statusReason"].as_str().unwrap().contains("410"));
    publish("MMS_FAILED").await;
    let arrived = receiver.wait_for(2).await.remove(1);
    assert_eq!(arrived.json(), json!([{ "failureType": "MMS_FAILED" }]), "the other one still flows");
    // Neither a pause nor a deletion touches the callback of the others, whose secrets it holds.
    let (status, _) = app.ask(Method::DELETE, &subscription_path("doomed"), None).await;
    assert_eq!((status, publish("PUSH_FAILED").await), (200, 0));
    app.set_status("a", "c", "SMS_FAILED", "ACTIVE").await;
    publish("MMS_FAILED").await;
    let calls = receiver.wait_for(4).await;
    assert!(calls.iter().all(|call| call.header("authorization") == basic()));
    app.wait_for_state(&delivery, "delivered").await;
}

#[tokio::test]
async fn the_rate_that_one_of_those_who_share_a_callback_sets_is_the_callbacks() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &receiver.url).await;
    app.make_subscription("strict", "c", &["SMS_FAILED"]).await;
    app.make_subscription("other", "c", &["MMS_FAILED"]).await;
    for (name, rate) in [("strict", 2), ("other", 50)] {
        app.ok(Method::PATCH, &own_path(name, ""), json!({ "ratePerS": rate })).await;
        assert_eq!(app.get(&own_path(name, "")).await["policy"]["ratePerS"], rate, "each shows its own wish");
    }
    for _ in 0..4 {
        for kind in ["MMS_FAILED", "SMS_FAILED"] {
            app.publish(json!({ "type": kind, "data": {} })).await;
        }
    }
    let calls = receiver.wait_for(8).await;
    // Two at once and two a second afterwards: the eighth is due after three seconds, and after one if each had a rate of its own.
    assert!(calls[7].at.duration_since(calls[0].at).as_millis() > 2_000);
    // One that is gone is strict no more.
    let (status, _) = app.ask(Method::DELETE, &subscription_path("strict"), None).await;
    assert_eq!(status, 200);
    let other: uuid::Uuid = sqlx::query_scalar("select id from subscriptions where external_key = 'other'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    let mut db = database.pool.acquire().await.unwrap();
    let read = targets::find(&mut db, &[SubscriptionId(other)]).await.unwrap();
    assert_eq!(read.iter().map(|row| row.rate_per_s).collect::<Vec<_>>(), [Some(50)]);
}

#[tokio::test]
async fn rule_05_a_password_that_is_echoed_in_any_of_its_forms_is_blanked() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &receiver.url).await;
    app.make_subscription("s", "c", &["SMS_FAILED"]).await;
    let echo = format!("{PASSWORD} and {} and someone:{PASSWORD}", basic());
    receiver.reply([Reply::Body(500, echo.into_bytes())]);
    app.publish(json!({ "type": "SMS_FAILED", "data": {} })).await;
    let delivery = app.the_delivery().await;
    let told = app.wait_for_attempts(&delivery, 1).await.to_string();
    assert!(told.contains("[masked] and Basic [masked] and [masked]"), "{told}");
    assert!(!told.contains("battery") && !told.contains(&basic()[6..]), "{told}");
}

#[tokio::test]
async fn a_token_opens_heralds_own_api_too() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_callback("c", &receiver.url).await;
    app.make_subscription("s", "c", &["SMS_FAILED"]).await;
    let id: uuid::Uuid =
        sqlx::query_scalar("select partner_id from callbacks").fetch_one(&database.pool).await.unwrap();
    let login = format!("/rest/api/v1.3/auth/token?auth_type=password&user_name={id}&password={}", app.key);
    let (status, issued) = app.ask(Method::POST, &login, None).await;
    assert_eq!(status, 200, "{issued}");
    let by_token = Partner::new(&app.base, text(&issued["authToken"]));
    assert_eq!(by_token.get(&own_path("s", "")).await["state"], "active");
    let operator = Partner::new(&app.operator, text(&issued["authToken"]));
    let (status, _) =
        operator.ask(Method::POST, "/events", Some(json!({ "type": "SMS_FAILED", "data": {} }))).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn a_callback_gets_batches_of_its_size_each_of_one_subscription_and_a_failed_one_again_as_it_was() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.make_batching_callback("c", &receiver.url, 3).await;
    app.make_subscription("a", "c", &["SMS_FAILED"]).await;
    app.make_subscription("b", "c", &["MMS_FAILED"]).await;
    receiver.reply([503]);
    let lines: String = (0..14)
        .map(|n| {
            let kind = if n % 2 == 0 { "SMS_FAILED" } else { "MMS_FAILED" };
            format!("{}\n", json!({ "type": kind, "data": { "n": n }, "orderingKey": "k" }))
        })
        .collect();
    let request =
        app.operator().request(Method::POST, "/events").header("content-type", "application/x-ndjson");
    assert_eq!(request.body(lines).send().await.unwrap().status(), 202);
    let failed = receiver.wait_for(1).await.remove(0);
    let again = || database.advance(chrono::TimeDelta::seconds(15));
    let arrived = |calls: &[Call]| {
        let mut all: Vec<i64> =
            calls.iter().skip(1).flat_map(|call| numbers(std::slice::from_ref(call))).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    app.wait_for_failure().await;
    again().await;
    let calls = receiver.wait_until("every event", |calls| arrived(calls).len() == 14).await;
    for call in &calls {
        let events = call.json();
        let events = events.as_array().unwrap();
        assert!((1..=3).contains(&events.len()), "{events:?}");
        assert!(events.iter().all(|event| event["failureType"] == events[0]["failureType"]), "{events:?}");
        assert_eq!(call.header("authorization"), basic());
    }
    let repeated: Vec<_> =
        calls.iter().filter(|call| call.header("webhook-id") == failed.header("webhook-id")).collect();
    assert_eq!(repeated.len(), 2);
    assert_eq!(repeated[1].body, failed.body);
    for kind in ["SMS_FAILED", "MMS_FAILED"] {
        let own: Vec<Call> =
            calls[1..].iter().filter(|call| call.json()[0]["failureType"] == kind).cloned().collect();
        assert!(numbers(&own).is_sorted(), "in the order of their key");
    }
}

#[tokio::test]
async fn a_backup_url_gets_what_has_failed_three_times_at_the_first() {
    let (database, first, backup) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let patient = herald::config::RawConfig { retry_delays_s: Some("10,10,10".to_owned()), ..settings() };
    let app = App::start(&database, patient).await;
    // Under the name that the published samples print, too.
    for (name, member) in [("c", "backupUrl"), ("d", "backupUrl ")] {
        let mut wish =
            json!({ "name": name, "url": first.url, "batchSize": 10, "authentication": authentication() });
        wish[member] = json!(backup.url);
        assert_eq!(app.ok(Method::POST, CALLBACKS, wish).await["backupUrl"], backup.url);
    }
    app.make_subscription("s", "d", &["SMS_FAILED"]).await;
    first.always(500);
    app.publish(json!({ "type": "SMS_FAILED", "data": { "n": 1 } })).await;
    first.wait_for(1).await;
    let delivery = app.the_delivery().await;
    for attempts in 1..=3 {
        app.wait_for_attempts(&delivery, attempts).await;
        database.advance(chrono::TimeDelta::seconds(13)).await;
    }
    let call = backup.wait_for(1).await.remove(0);
    let before = first.calls();
    assert_eq!((before.len(), &call.body), (3, &before[0].body));
    assert_eq!(call.header("webhook-id"), before[0].header("webhook-id"));
    assert_eq!(call.header("authorization"), basic());
    app.wait_for_state(&delivery, "delivered").await;
}
