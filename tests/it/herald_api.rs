//! Herald's own API, as a partner uses it.

use herald::domain::attempt::Outcome;
use herald::domain::delivery::DeliveryState;
use herald::domain::id::{CallbackId, SubscriptionId};
use herald::domain::surface::Surface;
use herald::store;
use herald::store::callbacks::{self, NewCallback};
use herald::store::queue::Ending;
use herald::store::subscriptions::{self, NewSubscription};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::desk::Desk;

const RETRY: Ending = Ending::Retry { delay_ms: 60_000 };
const DELIVERED: Ending = Ending::Final(DeliveryState::Delivered);
const DEAD: Ending = Ending::Final(DeliveryState::Dead);

async fn ids(desk: &Desk, key: &str, query: &str) -> Vec<String> {
    let page = desk.get(key, &format!("/herald/v1/deliveries{query}")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let items = page.body["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn only_delivery(desk: &Desk, key: &str) -> String {
    let all = ids(desk, key, "").await;
    assert_eq!(all.len(), 1);
    format!("/herald/v1/deliveries/{}", all[0])
}

#[tokio::test]
async fn a_delivery_is_followed_from_its_birth_to_its_end_and_beyond() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    desk.cancel_a_session(&key).await;
    let path = only_delivery(&desk, &key).await;

    let born = desk.get(&key, &path).await.body;
    assert_eq!((&born["state"], &born["attemptCount"]), (&json!("pending"), &json!(0)));
    assert_eq!(born["subscription"], json!({ "surface": "redirect", "id": subscription }));
    assert_eq!(born["callbackUrl"], format!("http://127.0.0.1:9/{subscription}"));

    desk.attempt(Outcome::Refused, Some(500), Some(b"\0broken\xff"), RETRY).await;
    let retrying = desk.get(&key, &path).await.body;
    assert_eq!((&retrying["state"], &retrying["attemptCount"]), (&json!("pending"), &json!(1)));
    assert!(retrying["nextAttemptAt"].is_string() && retrying.get("finishedAt").is_none());
    let first = &retrying["attempts"][0];
    assert_eq!(
        (&first["number"], &first["outcome"], &first["status"]),
        (&json!(1), &json!("refused"), &json!(500))
    );
    assert_eq!(first["responseBody"], "\0broken\u{fffd}");

    assert!(desk.take().await.is_none(), "it is not due yet");
    assert_eq!(desk.post(&key, &format!("{path}/redeliver")).await.status, 202);
    desk.attempt(Outcome::Blocked, None, None, DEAD).await;
    let dead = desk.get(&key, &path).await;
    assert_eq!((&dead.body["state"], &dead.body["attemptCount"]), (&json!("dead"), &json!(2)));
    assert_eq!(dead.body["attempts"][1]["outcome"], "unreachable", "blocked looks like unreachable");
    assert!(!dead.text.contains("blocked") && !dead.text.contains("for-the-operator-only"), "{}", dead.text);
    assert!(dead.body["finishedAt"].is_string() && dead.body.get("nextAttemptAt").is_none());

    let again = desk.post(&key, &format!("{path}/redeliver")).await;
    assert_eq!((again.status, &again.body["state"]), (202, &json!("pending")));
    let lease = desk.take().await.expect("it is due again");
    assert!(path.ends_with(&lease.delivery.to_string()), "under its own id");
    assert_eq!(lease.attempts, 0, "with a fresh budget");
    let delivered = Some((Outcome::Delivered, Some(204), Some(&b""[..])));
    desk.finish(&lease, DELIVERED, delivered).await;
    let ended = desk.get(&key, &path).await.body;
    let numbers: Vec<_> =
        ended["attempts"].as_array().unwrap().iter().map(|one| one["number"].clone()).collect();
    assert_eq!((&ended["state"], numbers), (&json!("delivered"), vec![json!(1), json!(2), json!(3)]));
}

#[tokio::test]
async fn a_list_is_narrowed_and_turned_page_by_page() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let (one, other) = (desk.subscribe(&key).await, desk.subscribe(&key).await);
    desk.cancel_a_session(&key).await;
    desk.attempt(Outcome::TimedOut, None, None, DEAD).await;
    desk.deliver().await;
    desk.cancel_a_session(&key).await;

    assert_eq!(ids(&desk, &key, "").await.len(), 4);
    for (query, count) in [
        ("?state=dead", 1),
        ("?state=delivered", 1),
        ("?state=pending", 2),
        ("?state=held", 0),
        (&format!("?subscription=redirect/{one}"), 2),
        (&format!("?subscription=redirect%2F{other}&state=pending"), 1),
        (&format!("?subscription=redirect/{}", one.to_string().to_uppercase()), 2),
        (&format!("?subscription=webhooks/{one}"), 0),
        ("?type=RedirectSessionCancelled", 4),
        ("?type=Other", 0),
    ] {
        assert_eq!(ids(&desk, &key, query).await.len(), count, "{query}");
    }

    let (mut turned, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/herald/v1/deliveries?limit=3{cursor}");
        let page = desk.get(&key, &path).await.body;
        turned.extend(
            page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(turned, ids(&desk, &key, "").await, "every one once, newest first");
    let newest_first = turned.windows(2).all(|pair| pair[0] > pair[1]);
    assert!(newest_first, "{turned:?}");

    let (_, stranger) = desk.partner("partner").await;
    for (key, query) in [(&key, "&state=pending"), (&key, "&type=Other"), (&stranger, "")] {
        let page = desk.get(key, &format!("/herald/v1/deliveries?limit=3{cursor}{query}")).await;
        assert_eq!(page.fields(), ["cursor"], "{query}");
    }
}

#[tokio::test]
async fn the_history_of_a_deleted_subscription_stays() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    desk.cancel_a_session(&key).await;
    desk.deliver().await;
    desk.cancel_a_session(&key).await;
    let unsent = desk.take().await.unwrap();
    desk.finish(&unsent, RETRY, None).await;
    desk.unsubscribe(&key, subscription).await;

    let of = format!("?subscription=redirect/{subscription}");
    assert_eq!(ids(&desk, &key, &of).await.len(), 2);
    assert_eq!(ids(&desk, &key, &format!("{of}&state=cancelled")).await, [unsent.delivery.to_string()]);
    let cancelled = desk.get(&key, &format!("/herald/v1/deliveries/{}", unsent.delivery)).await.body;
    assert_eq!((&cancelled["attemptCount"], &cancelled["attempts"]), (&json!(0), &json!([])));
    for id in ids(&desk, &key, &of).await {
        let again = desk.post(&key, &format!("/herald/v1/deliveries/{id}/redeliver")).await;
        assert_eq!(again.problem(), (409, "DeliveryNotRedeliverable"));
    }
    let gone = desk.get(&key, &format!("/herald/v1/subscriptions/redirect/{subscription}")).await;
    assert_eq!(gone.problem(), (404, "SubscriptionNotFound"));
}

#[tokio::test]
async fn an_event_shows_what_was_sent_and_where_it_went() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    desk.subscribe(&key).await;
    desk.subscribe(&key).await;
    let session = desk.cancel_a_session(&key).await;
    let lease = desk.take().await.unwrap();

    let event = desk.get(&key, &format!("/herald/v1/events/{}", lease.event.id)).await;
    assert_eq!(event.status, 200);
    assert_eq!(
        (&event.body["matched"], &event.body["type"]),
        (&json!(2), &json!("RedirectSessionCancelled"))
    );
    assert_eq!(
        (&event.body["data"]["id"], &event.body["data"]["state"]),
        (&json!(session), &json!("Cancelled"))
    );
    assert_eq!(event.body["deliveries"].as_array().unwrap().len(), 2);
    assert_eq!(event.body["nextCursor"], json!(null), "that is all");
    assert!(event.text.contains(std::str::from_utf8(&lease.event.payload).unwrap()), "digit for digit");
}

#[tokio::test]
async fn all_deliveries_of_an_event_are_shown_a_page_at_a_time() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    for _ in 0..103 {
        desk.subscribe(&key).await;
    }
    desk.cancel_a_session(&key).await;
    desk.cancel_a_session(&key).await;
    let path = format!("/herald/v1/events/{}", desk.take().await.unwrap().event.id);
    let mut cursor = String::new();
    for (query, sizes) in [("", vec![100, 3]), ("limit=100&", vec![100, 3]), ("limit=40&", vec![40, 40, 23])]
    {
        let (mut shown, mut pages) = (Vec::new(), Vec::new());
        let mut rest = String::new();
        loop {
            let page = desk.get(&key, &format!("{path}?{query}{rest}")).await;
            assert_eq!((page.status, &page.body["matched"]), (200, &json!(103)), "{}", page.text);
            let deliveries = page.body["deliveries"].as_array().unwrap();
            let ids: Vec<String> =
                deliveries.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
            assert!(ids.is_sorted(), "oldest first within a page: {ids:?}");
            pages.push(ids.len());
            shown.splice(0..0, ids);
            match page.body["nextCursor"].as_str() {
                Some(next) => cursor = format!("cursor={next}"),
                None => break,
            }
            rest.clone_from(&cursor);
        }
        assert_eq!(pages, sizes, "{query}");
        assert_eq!(shown.len(), 103);
        assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "every one once: {shown:?}");
    }

    let another = desk.get(&key, "/herald/v1/deliveries?limit=1").await.body;
    let another = another["items"][0]["event"]["id"].as_str().unwrap().to_owned();
    assert!(!path.ends_with(&another), "there are two events");
    for elsewhere in [format!("/herald/v1/events/{another}"), "/herald/v1/deliveries".to_owned()] {
        assert_eq!(
            desk.get(&key, &format!("{elsewhere}?{cursor}")).await.fields(),
            ["cursor"],
            "{elsewhere}"
        );
    }
    let wrong = desk.get(&key, &format!("{path}?limit=0&cursor=a&cursor=b")).await;
    assert_eq!(wrong.fields(), ["cursor", "limit"]);
}

#[tokio::test]
async fn a_delivery_that_was_sent_very_often_shows_its_attempts_a_page_at_a_time() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    desk.subscribe(&key).await;
    desk.cancel_a_session(&key).await;
    desk.deliver().await;
    let path = only_delivery(&desk, &key).await;
    // As if it had been redelivered 249 times, and expired once in between.
    let again = "insert into attempts (id, partner_id, delivery_id, event_id, subscription_id, event_type, outcome, started_at, latency_ms)
         select herald_uuid7_beside(herald_uuid7_floor(herald_now() + number * interval '1 ms')), partner_id, delivery_id, event_id,
                subscription_id, event_type, case when number = 100 then 'crashed' else 'refused' end, started_at, 1
         from attempts, generate_series(1, 250) number";
    sqlx::raw_sql(again).execute(&desk.database.pool).await.unwrap();
    let numbers = |page: &Value| -> Vec<u64> {
        page["attempts"].as_array().unwrap().iter().map(|one| one["number"].as_u64().unwrap()).collect()
    };
    let mut page = desk.get(&key, &path).await.body;
    assert_eq!((numbers(&page), &page["attemptCount"]), ((151..=250).collect(), &json!(250)));
    for expected in [51..=150, 1..=50] {
        let cursor = page["nextCursor"].as_str().unwrap();
        page = desk.get(&key, &format!("{path}?cursor={cursor}")).await.body;
        assert_eq!(numbers(&page), expected.collect::<Vec<_>>());
    }
    assert_eq!(page["nextCursor"], Value::Null);
    let few = desk.get(&key, &format!("{path}?limit=2")).await.body;
    assert_eq!(numbers(&few), [249, 250]);
    assert_eq!(desk.get(&key, &format!("{path}?cursor=none")).await.fields(), ["cursor"]);
    assert_eq!(desk.get(&key, &format!("{path}?limit=101")).await.fields(), ["limit"]);
}

#[tokio::test]
async fn what_is_held_is_counted_explained_and_not_redelivered() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    let path = format!("/herald/v1/subscriptions/redirect/{subscription}");
    let fresh = desk.get(&key, &path).await.body;
    assert_eq!(fresh["state"], "active");
    assert_eq!((&fresh["heldCount"], &fresh["health"]), (&json!(0), &json!({ "consecutiveFailures": 0 })));

    desk.cancel_a_session(&key).await;
    desk.deliver().await;
    desk.cancel_a_session(&key).await;
    desk.attempt(Outcome::Refused, Some(500), None, Ending::Retry { delay_ms: 0 }).await;
    sqlx::query(
        "update subscriptions set state = 'disabled', state_reason = 'The callback answered 410 Gone.'",
    )
    .execute(&desk.database.pool)
    .await
    .unwrap();
    desk.attempt(Outcome::Refused, Some(410), None, Ending::Hold).await;

    let disabled = desk.get(&key, &path).await.body;
    assert_eq!((&disabled["state"], &disabled["heldCount"]), (&json!("disabled"), &json!(1)));
    assert_eq!(disabled["reason"], "The callback answered 410 Gone.");
    assert_eq!(disabled["health"]["consecutiveFailures"], 2);
    assert!(
        disabled["health"]["lastSuccessAt"].is_string() && disabled["health"]["lastFailureAt"].is_string()
    );
    let held = ids(&desk, &key, "?state=held").await;
    let again = desk.post(&key, &format!("/herald/v1/deliveries/{}/redeliver", held[0])).await;
    assert_eq!(again.problem(), (409, "DeliveryNotRedeliverable"));

    let many_more = "insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
        select partner_id, gen_random_uuid(), event_id, subscription_id, due_at from queue, generate_series(1, $1) limit $1";
    for (more, counted) in [(9_998, 9_999), (1, 10_000), (1, 10_000)] {
        sqlx::query(many_more).bind(more).execute(&desk.database.pool).await.unwrap();
        assert_eq!(desk.get(&key, &path).await.body["heldCount"], counted);
    }
}

#[tokio::test]
async fn a_policy_is_set_member_by_member_within_the_operators_limits() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let path = format!("/herald/v1/subscriptions/redirect/{}", desk.subscribe(&key).await);
    let standard = json!({
        "retryDelaysS": [5, 30, 120, 600, 3600, 10800, 21600, 43200, 86400, 86400], "timeoutMs": 15000,
    });
    assert_eq!(desk.get(&key, &path).await.body["policy"], standard);

    let patch = async |body: Value| desk.api(Method::PATCH, &key, &path, Some(body)).await;
    let set = patch(json!({ "retryDelaysS": [5, 30], "ratePerS": 20 })).await;
    assert_eq!(set.body["policy"], json!({ "retryDelaysS": [5, 30], "timeoutMs": 15000, "ratePerS": 20 }));
    let set = patch(json!({ "retryDelaysS": null, "timeoutMs": 500 })).await;
    let expected = json!({ "retryDelaysS": standard["retryDelaysS"], "timeoutMs": 500, "ratePerS": 20 });
    assert_eq!(set.body["policy"], expected);
    assert_eq!(desk.get(&key, &path).await.body["policy"], expected);
    let set = patch(json!({ "timeoutMs": null, "ratePerS": null })).await;
    assert_eq!(set.body["policy"], standard);
    let none = patch(json!({ "retryDelaysS": [] })).await;
    assert_eq!(none.body["policy"]["retryDelaysS"], json!([]), "no retries at all is a policy");

    for (body, fields) in [
        (json!({ "timeoutMs": 15_001, "ratePerS": 0 }), vec!["timeoutMs", "ratePerS"]),
        (json!({ "timeoutMs": 99 }), vec!["timeoutMs"]),
        (json!({ "retryDelaysS": [1, 2, 3, 4] }), vec!["retryDelaysS"]),
        (json!({ "retryDelaysS": [0] }), vec!["retryDelaysS"]),
        (json!({ "retryDelaysS": "5" }), vec!["retryDelaysS"]),
        (json!({ "ratePerS": 1.5 }), vec!["ratePerS"]),
        (json!({}), vec!["body"]),
        (json!([]), vec!["body"]),
    ] {
        assert_eq!(patch(body.clone()).await.fields(), fields, "{body}");
    }
    assert_eq!(desk.raw(&key, &path, "application/json", "{").await.fields(), ["body"]);
    assert_eq!(desk.raw(&key, &path, "text/plain", "{}").await.problem(), (415, "UnsupportedMediaType"));
    let large = desk.raw(&key, &path, "application/json", " ".repeat(5_000)).await;
    assert_eq!(large.problem(), (413, "PayloadTooLarge"));
    assert_eq!(
        desk.get(&key, &path).await.body["policy"]["retryDelaysS"],
        json!([]),
        "nothing of it was done"
    );
}

#[tokio::test]
async fn rule_10_a_signing_key_is_shown_once() {
    let desk = Desk::open().await;
    let (partner, key) = desk.partner("partner").await;
    let path = format!("/herald/v1/subscriptions/redirect/{}", desk.subscribe(&key).await);
    let first = desk.post(&key, &format!("{path}/signing-keys")).await;
    assert_eq!(first.status, 201);
    let second = desk.post(&key, &format!("{path}/signing-keys")).await;
    assert!(second.body["previousValidUntil"].is_string(), "{}", second.text);
    let text = second.body["key"].as_str().unwrap();
    assert_ne!(first.body["key"], text);
    assert!(!desk.get(&key, &path).await.text.contains(text));

    let webhook = webhook_subscription(&desk, partner).await;
    let fixed = desk.post(&key, &format!("/herald/v1/subscriptions/webhooks/{webhook}/signing-keys")).await;
    assert_eq!(fixed.problem(), (409, "SigningKeyFixed"));
}

#[tokio::test]
async fn a_subscription_is_found_by_whatever_its_surface_takes_for_its_id() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let id = desk.subscribe(&key).await.to_string();
    let body =
        json!({ "events": ["order_paid"], "url": "http://127.0.0.1:9/", "secret": "c2VjcmV0c2VjcmV0" });
    let made = desk.api(Method::POST, &key, "/sync/webhooks/subscriptions/create", Some(body)).await;
    let webhook = made.body[0]["subscription"]["id"].as_str().expect("it was made").to_owned();
    for (surface, written, id) in [
        ("redirect", id.to_uppercase(), &id),
        ("webhooks", webhook.to_uppercase(), &webhook),
        ("webhooks", format!("%7B{webhook}%7D"), &webhook),
        ("webhooks", webhook.replace('-', ""), &webhook),
    ] {
        let found = desk.get(&key, &format!("/herald/v1/subscriptions/{surface}/{written}")).await;
        assert_eq!((found.status, &found.body["id"]), (200, &json!(id)), "{surface}/{written}");
    }
    for written in ["none".to_owned(), format!("%7B{id}%7D"), id.replace('-', "")] {
        let path = format!("/herald/v1/subscriptions/redirect/{written}");
        assert_eq!(desk.get(&key, &path).await.problem(), (404, "SubscriptionNotFound"), "{written}");
    }
}

async fn webhook_subscription(desk: &Desk, partner: herald::domain::id::PartnerId) -> String {
    let mut db = desk.database.pool.acquire().await.unwrap();
    let (callback, surface, external_key) = (CallbackId::new(), Surface::Webhooks, "an id");
    let url = "http://127.0.0.1:9/";
    let new = NewCallback { id: callback, partner, surface, url, credentials: None, signing_key: b"sealed" };
    callbacks::insert(&mut db, new).await.unwrap();
    let id = SubscriptionId::new();
    let created_at = store::now(&mut db).await.unwrap();
    let new = NewSubscription { id, partner, surface, external_key, callback, created_at };
    subscriptions::insert(&mut db, new).await.unwrap();
    "an%20id".to_owned()
}

#[tokio::test]
async fn a_test_event_answers_with_its_attempt() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    let path = format!("/herald/v1/subscriptions/redirect/{subscription}/test");
    for (outcome, status, shown) in
        [(Outcome::Delivered, Some(204), "delivered"), (Outcome::Blocked, None, "unreachable")]
    {
        let (tested, ()) = tokio::join!(desk.post(&key, &path), async {
            let lease = desk.wait_and_take().await;
            assert!(lease.probe, "it is tried once");
            let ending = if outcome == Outcome::Delivered { DELIVERED } else { DEAD };
            desk.finish(&lease, ending, Some((outcome, status, None))).await;
        });
        assert_eq!(tested.status, 200, "{}", tested.text);
        let attempt = &tested.body["attempt"];
        assert_eq!((&attempt["outcome"], &attempt["number"]), (&json!(shown), &json!(1)));
        let delivery = tested.body["deliveryId"].as_str().unwrap();
        let seen = desk.get(&key, &format!("/herald/v1/deliveries/{delivery}")).await.body;
        assert_eq!((&seen["event"]["type"], &seen["attemptCount"]), (&json!("HeraldTest"), &json!(1)));
    }
}

#[tokio::test]
async fn a_test_event_whose_subscription_is_deleted_meanwhile_finds_none() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    let path = format!("/herald/v1/subscriptions/redirect/{subscription}/test");
    let (tested, ()) = tokio::join!(desk.post(&key, &path), async {
        let lease = desk.wait_and_take().await;
        desk.finish(&lease, Ending::Release { delay_ms: 60_000 }, None).await;
        desk.unsubscribe(&key, subscription).await;
    });
    assert_eq!(tested.problem(), (404, "SubscriptionNotFound"));
}

#[tokio::test]
async fn rule_12_another_partner_sees_nothing_of_it() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let (_, stranger) = desk.partner("partner").await;
    let subscription = desk.subscribe(&key).await;
    desk.cancel_a_session(&key).await;
    let lease = desk.take().await.unwrap();
    let delivery = format!("/herald/v1/deliveries/{}", lease.delivery);
    let of_it = format!("/herald/v1/subscriptions/redirect/{subscription}");
    let event = format!("/herald/v1/events/{}", lease.event.id);

    assert_eq!(ids(&desk, &stranger, "").await, [""; 0]);
    assert_eq!(ids(&desk, &stranger, &format!("?subscription=redirect/{subscription}")).await, [""; 0]);
    for (method, path, code) in [
        (Method::GET, delivery.clone(), "DeliveryNotFound"),
        (Method::POST, format!("{delivery}/redeliver"), "DeliveryNotFound"),
        (Method::GET, event, "EventNotFound"),
        (Method::GET, of_it.clone(), "SubscriptionNotFound"),
        (Method::PATCH, of_it.clone(), "SubscriptionNotFound"),
        (Method::POST, format!("{of_it}/signing-keys"), "SubscriptionNotFound"),
        (Method::POST, format!("{of_it}/test"), "SubscriptionNotFound"),
    ] {
        let body = (method == Method::PATCH).then(|| json!({ "timeoutMs": 500 }));
        let answer = desk.api(method.clone(), &stranger, &path, body).await;
        assert_eq!(answer.problem(), (404, code), "{method} {path}");
    }
    assert_eq!(desk.get(&key, &of_it).await.body["policy"]["timeoutMs"], 15_000);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_one_shape() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let (_, producer) = desk.partner("producer").await;
    let list = "/herald/v1/deliveries";
    for (key, expected) in [("", (401, "Unauthorized")), ("no-key-at-all-like-this", (401, "Unauthorized"))] {
        let answer = desk.get(key, list).await;
        assert_eq!(answer.problem(), expected);
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    assert_eq!(desk.get(&producer, list).await.problem(), (403, "Forbidden"));
    assert_eq!(
        desk.get("", "/herald/v1/deliveries?state=odd").await.problem(),
        (401, "Unauthorized"),
        "key first"
    );
    for path in [
        "/herald",
        "/herald/",
        "/herald//v1/deliveries",
        "/herald/v1",
        "/herald/v2/deliveries",
        "/herald/v1/deliveries/",
    ] {
        assert_eq!(desk.get(&key, path).await.problem(), (404, "ResourceNotFound"), "{path}");
    }
    for (method, path, allow) in [
        (Method::DELETE, list, "GET,HEAD"),
        (Method::PUT, "/herald/v1/subscriptions/redirect/x", "GET,HEAD,PATCH"),
        (Method::GET, "/herald/v1/subscriptions/redirect/x/test", "POST"),
    ] {
        let answer = desk.api(method, &key, path, None).await;
        assert_eq!(answer.problem(), (405, "MethodNotAllowed"), "{path}");
        assert_eq!(answer.headers["allow"], allow, "{path}");
    }
    for (path, fields) in [
        ("/herald/v1/deliveries/none", vec!["deliveryId"]),
        ("/herald/v1/events/019a8f2e5c407b028d5f6a3e9c1b7f24", vec!["eventId"]),
        ("/herald/v1/subscriptions/other/a%00b", vec!["surface", "publishedId"]),
        ("/herald/v1/subscriptions/redirect/%ff", vec!["path"]),
        ("/herald/v1/deliveries?state=odd&limit=0&subscription=x", vec!["state", "subscription", "limit"]),
        ("/herald/v1/deliveries?cursor=", vec!["cursor"]),
    ] {
        assert_eq!(desk.get(&key, path).await.fields(), fields, "{path}");
    }
    let unknown = desk.get(&key, &format!("/herald/v1/deliveries/{}", Uuid::nil())).await;
    assert_eq!(unknown.problem(), (404, "DeliveryNotFound"));
    for surface in ["redirect", "notifications", "webhooks"] {
        let unknown = desk.get(&key, &format!("/herald/v1/subscriptions/{surface}/a%2Fb")).await;
        assert_eq!(unknown.problem(), (404, "SubscriptionNotFound"), "{surface}");
    }
}

#[tokio::test]
async fn without_its_database_it_says_when_to_come_again() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    desk.take_database_away();
    let answer = desk.get(&key, "/herald/v1/deliveries").await;
    assert_eq!(answer.problem(), (503, "ServiceUnavailable"));
    assert!(answer.headers.contains_key("retry-after"));
}
