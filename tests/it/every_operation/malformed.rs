//! Bodies, cursors and encodings that nobody should send (SECURITY rules 14 to 16): each of them to every operation that takes one.

use serde_json::{Value, json};

use super::ask::{Ask, asks};
use super::{PROMPTLY, status};
use crate::support::desk::{Desk, Listener};

const REPLAYS: &str = "/herald/v1/replays";

/// Opens everything that has a body.
async fn key(desk: &Desk) -> String {
    desk.partner("partner,producer,operator").await.1
}

/// The operations that take a JSON object, and their examples.
fn with_json() -> Vec<(Ask, Value)> {
    // An empty list is an empty text in CSV, which the document's judge takes for no body.
    let asks = asks().into_iter().filter(|ask| ask.needs_key && !ask.template.starts_with("/csv/"));
    asks.filter_map(|ask| {
        let (content_type, body) = ask.body()?;
        let is_json = content_type == "application/json";
        let example = serde_json::from_str(&body)
            .ok()
            .filter(|example: &Value| example.as_object().is_some_and(|fields| !fields.is_empty()))?;
        is_json.then_some((ask, example))
    })
    .collect()
}

async fn answered(desk: &Desk, key: &str, ask: &Ask, body: String) -> (u16, String) {
    let body = Some(("application/json", body));
    let answer = desk.request(ask.listener, &ask.method, key, &ask.path(), body, PROMPTLY).await;
    let answer = answer.unwrap_or_else(|| panic!("{ask}: no answer"));
    (answer.status, answer.text)
}

#[tokio::test]
async fn rule_15_malformed_json_is_a_400_of_every_operation_and_never_a_500() {
    let desk = Desk::open().await;
    let key = key(&desk).await;
    let asks = with_json();
    assert!(asks.len() > 8, "{}", asks.len());
    for (ask, example) in &asks {
        let fields = example.as_object().unwrap();
        let (name, value) = fields.iter().next().unwrap();
        let nested = |depth: usize| format!("{{{}:{}{}}}", json!(name), "[".repeat(depth), "]".repeat(depth));
        for body in [
            "{".to_owned(),
            "{]".to_owned(),
            "\u{0}".to_owned(),
            "[]".to_owned(),
            format!("[{example}]"),
            "1e400".to_owned(),
            "null".to_owned(),
            "\"text\"".to_owned(),
            format!("{example}{example}"),
            "{\"\\ud800\":1}".to_owned(),
            format!("{{{}:1e400}}", json!(name)),
            format!("{{{}:\"\\ud800\"}}", json!(name)),
            format!("{{{0}:{1},{0}:{1}}}", json!(name), value),
            nested(1_500),
            "[".repeat(4_000),
            "{\"a\":".repeat(700),
        ] {
            let (status, text) = answered(&desk, &key, ask, body.clone()).await;
            let shown: String = body.chars().take(80).collect();
            // The example of an operation that is chosen by name may ask for none of what the body has; what nobody asks for is ignored.
            let may_be_ignored =
                ask.template.ends_with("{Operation}") && body.starts_with("{\"") && status == 200;
            assert!((400..500).contains(&status) || may_be_ignored, "{ask} with {shown}: {status} {text}");
        }
        // Values of every other kind in the place of each text: some may be right, none is a failure of ours.
        for place in ask.texts() {
            for odd in [
                json!(null),
                json!([]),
                json!({}),
                json!(1e300),
                json!(-1),
                json!("\u{0}"),
                json!(true),
                json!("é\u{202e}"),
            ] {
                let mut body = example.clone();
                *body.pointer_mut(&place).unwrap() = odd.clone();
                let (status, text) = answered(&desk, &key, ask, body.to_string()).await;
                assert!(status < 500, "{ask}, {place} = {odd}: {status} {text}");
            }
            let marked = json!("mark-of-this-place");
            let mut body = example.clone();
            *body.pointer_mut(&place).unwrap() = marked.clone();
            for odd in ["1e400", "\"\\ud800\"", "\"\\udc00\\ud800\"", "01", "NaN"] {
                let body = body.to_string().replace(&marked.to_string(), odd);
                let (status, text) = answered(&desk, &key, ask, body).await;
                // Within an event's data only the syntax counts.
                let judged = place.starts_with("/data") && !["01", "NaN"].contains(&odd);
                let may_be_ignored = ask.template.ends_with("{Operation}");
                assert!(
                    status < 500 && (judged || may_be_ignored || status >= 400),
                    "{ask}, {place} = {odd}: {status} {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn rule_14_a_body_that_is_too_large_or_compressed_is_refused_by_every_operation() {
    let desk = Desk::open().await;
    let key = key(&desk).await;
    for ask in asks().into_iter().filter(|ask| ask.needs_key && ask.body().is_some()) {
        // Batches of events have a bound of their own.
        let large = if ask.tag == "Publishing" { 17 * 1024 * 1024 } else { 70 * 1024 };
        let (content_type, _) = ask.body().unwrap();
        let body = Some((content_type, " ".repeat(large)));
        let answer =
            desk.request(ask.listener, &ask.method, &key, &ask.path(), body, PROMPTLY).await.unwrap();
        assert_eq!(answer.status, 413, "{ask}: {}", answer.text);
    }
    // Nothing is unpacked: what is compressed is read as it stands, and is no JSON.
    let packed = "\u{1f}\u{8b}\u{8}\u{0}".to_owned() + &"\u{0}".repeat(100);
    for (ask, _) in with_json() {
        let (status, text) = answered(&desk, &key, &ask, packed.clone()).await;
        assert_eq!(status, 400, "{ask}: {text}");
    }
}

#[tokio::test]
async fn rule_16_every_list_refuses_cursors_and_limits_that_it_did_not_give() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner").await;
    let (_, other) = desk.partner("partner").await;
    for _ in 0..3 {
        desk.cancel_a_session(&other).await;
        desk.subscribe(&other).await;
        let everything = Some(("application/json", "{}".to_owned()));
        let begun = desk.request(Listener::Api, "POST", &other, REPLAYS, everything, PROMPTLY).await.unwrap();
        // One at a time.
        let cancel = format!("{REPLAYS}/{}/cancel", begun.body["id"].as_str().unwrap());
        assert_eq!(desk.post(&other, &cancel).await.status, 200);
    }
    desk.cancel_a_session(&other).await;
    // The newest is of three subscriptions, so that its list has several pages, too.
    let newest = desk.get(&other, "/herald/v1/deliveries?limit=1").await.body;
    let event = format!("/herald/v1/events/{}", newest["items"][0]["event"]["id"].as_str().unwrap());
    let delivery = newest["items"][0]["id"].as_str().unwrap();
    // Three attempts.
    let made = "insert into attempts (id, partner_id, delivery_id, event_id, subscription_id, event_type, outcome, started_at, latency_ms)
         select herald_uuid7_beside(herald_uuid7_floor(herald_now())), partner_id, delivery_id, event_id, subscription_id, 'a', 'refused', herald_now(), 1
         from unfinished, generate_series(1, 3) where delivery_id = $1::uuid";
    sqlx::query(made).bind(delivery).execute(&desk.database.pool).await.unwrap();
    let delivery = format!("/herald/v1/deliveries/{delivery}");
    let mut lists = 0;
    for ask in asks().into_iter().filter(|ask| ask.query.iter().any(|name| name == "cursor")) {
        assert_eq!(ask.listener, Listener::Api);
        lists += 1;
        let path = match ask.template.as_str() {
            "/herald/v1/events/{eventId}" => event.clone(),
            "/herald/v1/deliveries/{deliveryId}" => delivery.clone(),
            _ => ask.path(),
        };
        let get = async |key: &str, query: &str| desk.get(key, &format!("{path}?{query}")).await;
        let page = get(&other, "limit=1").await;
        let cursor = page.body["nextCursor"].as_str().unwrap_or_else(|| panic!("{ask}: {}", page.text));
        let altered = format!("{}{}", &cursor[1..], &cursor[..1]);
        for (key, value) in [
            (&key, cursor),
            (&other, &altered),
            (&other, &cursor[1..]),
            (&other, ""),
            (&other, "A"),
            (&other, "%00"),
            (&other, "%ff"),
            (&other, "-1"),
            (&other, "00000000-0000-0000-0000-000000000000"),
            (&other, &"A".repeat(3_000)),
        ] {
            let answer = get(key, &format!("cursor={value}")).await;
            assert_eq!(answer.status, 400, "{ask} with {value}: {}", answer.text);
        }
        for value in ["-1", "0", "101", "1e3", "99999999999999999999", "", "1%00", "ten"] {
            let answer = get(&other, &format!("limit={value}")).await;
            assert_eq!(answer.status, 400, "{ask} with limit={value}: {}", answer.text);
        }
        assert_eq!(get(&other, &format!("cursor={cursor}")).await.status, 200, "{ask}");
    }
    assert!(lists >= 5, "{lists}");
}

#[tokio::test]
async fn rule_14_nothing_is_read_of_a_body_before_the_key_is_known() {
    let desk = Desk::open().await;
    for (ask, _) in with_json() {
        assert_eq!(status(&desk, "", &ask).await, 401);
        let (status, text) = answered(&desk, "not-a-key-of-anybody", &ask, "{".repeat(100_000)).await;
        assert_eq!(status, 401, "{ask}: {text}");
    }
}
