//! Publishing over `POST /events`: what is taken, what is refused and names why, and that the same id never happens twice.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use herald::store::event_keys;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::desk::{Answer, Desk};
use crate::support::receiver::Receiver;

const CANCELLED: &str = "RedirectSessionCancelled";
const NDJSON: &str = "application/x-ndjson";

async fn publish(desk: &Desk, key: &str, event: Value) -> Answer {
    desk.operator(Method::POST, key, "/events", Some(event)).await
}

async fn publish_lines(desk: &Desk, key: &str, lines: impl Into<reqwest::Body>) -> Answer {
    desk.operator_raw(key, "/events", NDJSON, lines).await
}

async fn event_count(desk: &Desk) -> i64 {
    sqlx::query_scalar("select count(*) from events").fetch_one(&desk.database.pool).await.unwrap()
}

/// The results of a batch.
fn results(answer: &Answer) -> Vec<Value> {
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (202, &NDJSON.parse().unwrap()),
        "{}",
        answer.text
    );
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fields that a refused request names, with its status and code.
fn refused(answer: &Answer) -> (u16, &str, Vec<&str>) {
    let (status, code) = answer.problem();
    let errors = answer.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    (status, code, errors.iter().map(|one| one["field"].as_str().unwrap()).collect())
}

#[tokio::test]
async fn data_arrives_byte_for_byte() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let data =
        r#"{ "z" : 1e400,  "a":[1.0,-0, 12345678901234567890123] , "a":"\u00e9\ud800\u0000 é","n":null}"#;
    let body = format!("{{\"data\":  {data}  ,\"type\":\"{CANCELLED}\"}}");
    let request = app.operator().request(Method::POST, "/events").header("content-type", "application/json");
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["matched"], 1);

    let call = receiver.wait_for(1).await.remove(0);
    let text = String::from_utf8(call.body.to_vec()).unwrap();
    let (envelope, arrived) = text.split_once(",\"data\":").unwrap();
    assert_eq!(arrived, format!("{data}}}"));
    let envelope: Value = serde_json::from_str(&format!("{envelope}}}")).unwrap();
    assert_eq!(envelope["id"], answer["id"]);
    assert_eq!(envelope["type"], CANCELLED);
    assert_eq!(envelope["source"], "/customer-authentication-service");
    app.stop().await;
}

#[tokio::test]
async fn any_json_is_data_and_what_matches_nobody_is_kept_and_findable() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner,producer").await;
    for data in [json!(null), json!(true), json!("text"), json!([1, {}]), json!({})] {
        let event = json!({ "type": "order.paid", "data": data, "attributes": { "region": "north", "é": "" },
                            "orderingKey": "order-17" });
        let answer = publish(&desk, &key, event).await;
        assert_eq!((answer.status, &answer.body["matched"]), (202, &json!(0)), "{}", answer.text);
        let id = answer.body["id"].as_str().unwrap();
        let found = desk.get(&key, &format!("/herald/v1/events/{id}")).await.body;
        assert_eq!(found["data"], data);
        assert_eq!(found["type"], "order.paid");
        assert_eq!(found["attributes"], json!({ "region": "north", "é": "" }));
        assert_eq!((&found["orderingKey"], &found["matched"]), (&json!("order-17"), &json!(0)));
    }
    assert!(desk.take().await.is_none(), "nothing is to be delivered");
    let (_, stranger) = desk.partner("partner").await;
    let id: uuid::Uuid =
        sqlx::query_scalar("select id from events limit 1").fetch_one(&desk.database.pool).await.unwrap();
    assert_eq!(desk.get(&stranger, &format!("/herald/v1/events/{id}")).await.status, 404);
}

#[tokio::test]
async fn every_wrong_field_is_named_at_once() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("producer").await;
    let long = "x".repeat(201);
    for (event, fields) in [
        (json!({}), vec!["type", "data"]),
        (json!({ "type": "a b", "data": 1 }), vec!["type"]),
        (json!({ "type": "", "data": 1 }), vec!["type"]),
        (json!({ "type": long, "data": 1 }), vec!["type"]),
        (json!({ "type": 1, "data": 1, "id": "", "orderingKey": long }), vec!["type", "orderingKey", "id"]),
        (json!({ "type": "a", "data": 1, "id": long, "partnerId": "me" }), vec!["id", "partnerId"]),
        (json!({ "type": "a", "data": 1, "id": null }), vec!["id"]),
        (json!({ "type": "a", "data": 1, "attributes": [] }), vec!["attributes"]),
        (json!({ "type": "a", "data": 1, "attributes": { "n": 1, "ok": "x" } }), vec!["attributes.n"]),
        (json!({ "type": "a", "data": 1, "attributes": { "n": "x\0" } }), vec!["attributes.n"]),
        (json!({ "type": "a", "data": 1, "attributes": { "n": "x".repeat(1_001) } }), vec!["attributes.n"]),
        (json!([]), vec!["body"]),
    ] {
        let answer = publish(&desk, &key, event.clone()).await;
        assert_eq!(answer.fields(), fields, "{event}");
    }
    let deep = format!(r#"{{"type":"a","data":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for (body, fields) in [
        (deep.as_str(), vec!["data"]),
        ("{\"type\":\"a\",\"data\":{]}", vec!["body"]),
        ("{\"type\":\"a\",\"data\":1,\"data\":2}", vec!["data"]),
        ("", vec!["body"]),
    ] {
        let answer = desk.operator_raw(&key, "/events", "application/json", body.to_owned()).await;
        assert_eq!(answer.fields(), fields);
    }
    assert_eq!(event_count(&desk).await, 0);
}

#[tokio::test]
async fn bodies_have_their_own_bounds_and_types() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("producer").await;
    let event = |bytes: usize| format!(r#"{{"type":"a","data":"{}"}}"#, "x".repeat(bytes));
    let json = |body: String| desk.operator_raw(&key, "/events", "application/json", body);
    assert_eq!(json(event(200 * 1024)).await.status, 202);
    assert_eq!(json(event(256 * 1024)).await.problem(), (413, "PayloadTooLarge"));
    let text = desk.operator_raw(&key, "/events", "text/plain", event(1)).await;
    assert_eq!(text.problem(), (415, "UnsupportedMediaType"));

    let lines = |line: &str, count: usize| format!("{line}\n").repeat(count);
    let answer = publish_lines(&desk, &key, lines(r#"{"type":"a","data":1}"#, 10_001)).await;
    assert_eq!(answer.fields(), ["body"]);
    let answer = publish_lines(&desk, &key, lines(&event(250 * 1024), 66)).await;
    assert_eq!(answer.problem(), (413, "PayloadTooLarge"));
    let answer = publish_lines(&desk, &key, format!("{}\n{}", event(1), event(256 * 1024))).await;
    assert_eq!(answer.fields(), ["line 2"]);
    let (largest, larger) = (event(256 * 1024 - 22), event(256 * 1024 - 21));
    assert_eq!(largest.len(), 256 * 1024);
    assert_eq!(json(larger.clone()).await.problem(), (413, "PayloadTooLarge"));
    assert_eq!(publish_lines(&desk, &key, larger).await.fields(), ["line 1"]);
    assert_eq!(event_count(&desk).await, 1);
    assert_eq!(json(largest.clone()).await.status, 202);
    // The end of a line is not a part of the event.
    assert_eq!(results(&publish_lines(&desk, &key, format!("{largest}\r\n{largest}")).await).len(), 2);
    for nothing in ["", "\n \n"] {
        assert_eq!(publish_lines(&desk, &key, nothing).await.fields(), ["body"]);
    }
    assert_eq!(event_count(&desk).await, 4);
}

#[tokio::test]
async fn the_same_id_is_the_same_event_and_other_content_is_refused() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner,producer").await;
    desk.subscribe(&key).await;
    let event = json!({ "type": CANCELLED, "data": { "a": 1 }, "attributes": { "b": "c" }, "id": "mine-1" });
    let first = publish(&desk, &key, event.clone()).await;
    assert_eq!((first.status, &first.body["matched"]), (202, &json!(1)), "{}", first.text);
    let again = publish(&desk, &key, event.clone()).await;
    assert_eq!((again.status, &again.body), (202, &first.body));
    for (field, other) in [
        ("type", json!("other")),
        ("data", json!({ "a": 2 })),
        ("attributes", json!({})),
        ("orderingKey", json!("k")),
    ] {
        let mut changed = event.clone();
        changed[field] = other;
        let answer = publish(&desk, &key, changed).await;
        assert_eq!(refused(&answer), (409, "DuplicateEntity", vec!["id"]), "{field}");
    }
    assert_eq!(event_count(&desk).await, 1);

    let (_, another) = desk.partner("producer").await;
    let theirs = publish(&desk, &another, event.clone()).await;
    assert_eq!(theirs.status, 202, "an id is the partner's own");
    assert_ne!(theirs.body["id"], first.body["id"]);

    let forgotten = "update event_keys set created_at = created_at - interval '8 days'";
    sqlx::query(forgotten).execute(&desk.database.pool).await.unwrap();
    let anew = publish(&desk, &key, event).await;
    assert_eq!(anew.status, 202);
    assert_ne!(anew.body["id"], first.body["id"], "after a week an id may be used again");
}

#[tokio::test]
async fn the_same_id_fifty_times_at_once_happens_once() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner,producer").await;
    desk.subscribe(&key).await;
    let event = json!({ "type": CANCELLED, "data": 1, "id": "once" });
    let answers = futures_util::future::join_all((0..50).map(|_| publish(&desk, &key, event.clone()))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (202, &answers[0].body), "{}", answer.text);
    }
    assert_eq!(answers[0].body["matched"], 1);
    assert_eq!(event_count(&desk).await, 1);
    desk.deliver().await;
    assert!(desk.take().await.is_none(), "one delivery");
}

#[tokio::test]
async fn the_same_id_at_two_nodes_at_once_happens_once() {
    let database = cluster::database().await;
    let (one, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    let event = json!({ "type": "a", "data": 1, "id": "once" });
    let (one_operator, other_operator) = (one.operator(), other.operator());
    let ask = |number: usize| {
        let operator = if number.is_multiple_of(2) { &one_operator } else { &other_operator };
        operator.ask(Method::POST, "/events", Some(event.clone()))
    };
    let answers = futures_util::future::join_all((0..50).map(ask)).await;
    assert_eq!(answers[0].0, 202);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let count: i64 =
        sqlx::query_scalar("select count(*) from events").fetch_one(&database.pool).await.unwrap();
    assert_eq!(count, 1);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn rule_25_chosen_ids_are_forgotten_after_a_week_and_not_before() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("producer").await;
    for id in ["old-1", "old-2", "young"] {
        assert_eq!(publish(&desk, &key, json!({ "type": "a", "data": 1, "id": id })).await.status, 202);
    }
    let age = "update event_keys set created_at = created_at - case key when 'young' then interval '167 h' else interval '169 h' end";
    sqlx::query(age).execute(&desk.database.pool).await.unwrap();
    let mut connection = desk.database.pool.acquire().await.unwrap();
    let mut claiming = desk.database.pool.begin().await.unwrap();
    sqlx::query("select from event_keys where key = 'old-1' for update")
        .execute(&mut *claiming)
        .await
        .unwrap();
    let forget = async |connection: &mut PgConnection| {
        let forgetting = tokio::time::timeout(Duration::from_secs(20), event_keys::forget(connection, 1));
        forgetting.await.expect("nobody is waited for").unwrap()
    };
    for forgotten in [1, 0] {
        assert_eq!(
            forget(&mut connection).await,
            forgotten,
            "what somebody is just claiming is not waited for"
        );
    }
    claiming.rollback().await.unwrap();
    for forgotten in [1, 0] {
        assert_eq!(forget(&mut connection).await, forgotten);
    }
    let left: String =
        sqlx::query_scalar("select key from event_keys").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(left, "young");
}

/// Whoever else writes ids in another order may wait for a publisher who waits for it.
#[tokio::test]
async fn a_publisher_who_loses_a_race_for_ids_begins_again() {
    let desk = Desk::open().await;
    let (partner, key) = desk.partner("producer").await;
    let taken = json!({ "type": "a", "data": 1, "id": "b" });
    assert_eq!(publish(&desk, &key, taken).await.status, 202);
    let mut other = desk.database.pool.begin().await.unwrap();
    // Of the two, it is the publisher who finds that this is a circle.
    sqlx::query("set local deadlock_timeout = '1min'").execute(&mut *other).await.unwrap();
    sqlx::query("select from event_keys for update").execute(&mut *other).await.unwrap();
    let lines = "{\"type\":\"a\",\"data\":1,\"id\":\"a\"}\n{\"type\":\"a\",\"data\":1,\"id\":\"b\"}\n";
    let race = async {
        let waits = "select count(*) from pg_locks l join pg_database d on d.datname = current_database()
                     join pg_stat_activity s on s.pid = l.pid and s.datid = d.oid where not granted";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *other).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let circle = "insert into event_keys (partner_id, key, event_id, content_hash) select $1, 'a', event_id, content_hash from event_keys";
        sqlx::query(circle).bind(partner.0).execute(&mut *other).await.unwrap();
        other.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(publish_lines(&desk, &key, lines), race);
    assert_eq!(results(&answer).len(), 2);
    assert_eq!(event_count(&desk).await, 2);
}

#[tokio::test]
async fn of_contradicting_requests_at_once_exactly_one_is_stored() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("producer").await;
    let batch = |number: usize| {
        format!(
            "{{\"type\":\"a\",\"data\":{number},\"id\":\"own-{number}\"}}\n{{\"type\":\"a\",\"data\":{number},\"id\":\"shared\"}}\n"
        )
    };
    let answers =
        futures_util::future::join_all((0..20).map(|number| publish_lines(&desk, &key, batch(number)))).await;
    let stored = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!((stored, event_count(&desk).await), (1, 2));
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        assert_eq!(refused(answer), (409, "DuplicateEntity", vec!["line 2: id"]));
    }
    // What was refused left nothing behind: its own ids are free for other content.
    let (taken, known): (i64, i64) = sqlx::query_as("select count(*), count(matched) from event_keys")
        .fetch_one(&desk.database.pool)
        .await
        .unwrap();
    assert_eq!((taken, known), (2, 2), "each says how many subscriptions its event matched");
}

#[tokio::test]
async fn a_batch_is_answered_line_by_line() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner,producer").await;
    desk.subscribe(&key).await;
    let lines = [
        format!(r#"{{"type":"{CANCELLED}","data":1,"id":"one"}}"#),
        String::new(),
        r#"{"type":"other","data":2}"#.to_owned(),
        format!(r#"{{"id":"one","type":"{CANCELLED}","data":1}}"#),
    ];
    let answer = publish_lines(&desk, &key, lines.join("\r\n")).await;
    let results = results(&answer);
    assert_eq!(results.iter().map(|it| it["matched"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(results[0], results[2], "the same id in one batch");
    assert_ne!(results[0]["id"], results[1]["id"]);
    assert_eq!(event_count(&desk).await, 2);
}

#[tokio::test]
async fn a_batch_of_ten_thousand_is_one_answer() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("partner,producer").await;
    desk.subscribe(&key).await;
    let lines: String =
        (0..10_000).map(|n| format!("{{\"type\":\"{CANCELLED}\",\"data\":{n},\"id\":\"n{n}\"}}\n")).collect();
    let first = publish_lines(&desk, &key, lines.clone()).await;
    assert_eq!(results(&first).len(), 10_000);
    assert!(results(&first).iter().all(|result| result["matched"] == 1));
    let again = publish_lines(&desk, &key, lines).await;
    assert_eq!(again.text, first.text);
    let waiting: i64 =
        sqlx::query_scalar("select count(*) from unfinished").fetch_one(&desk.database.pool).await.unwrap();
    assert_eq!((event_count(&desk).await, waiting), (10_000, 10_000));
    let metrics = desk.operator(Method::GET, "", "/metrics", None).await.text;
    assert!(metrics.contains("herald_events_accepted_total{surface=\"operator\"} 10000"), "{metrics}");
}

#[tokio::test]
async fn a_bad_line_stores_nothing_and_is_named() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("producer").await;
    let good = r#"{"type":"a","data":1,"id":"good"}"#;
    let bad = format!("{good}\n{{\"type\":\"a\"}}\n\nnonsense\n{good}\n");
    assert_eq!(publish_lines(&desk, &key, bad).await.fields(), ["line 2: data", "line 4"]);
    for (count, told, follows) in [(100, "has 100 fields", false), (500, "has more than 100 fields", true)] {
        let answer = publish_lines(&desk, &key, "nonsense\n".repeat(count)).await;
        assert_eq!(answer.fields().len(), 100);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(told) && detail.contains("more follow") == follows, "{detail}");
    }

    assert_eq!(publish_lines(&desk, &key, good).await.status, 202);
    let contradicting = format!(
        "{}\n{}\n{}\n{}",
        r#"{"type":"a","data":1,"id":"new"}"#,
        r#"{"type":"a","data":2,"id":"good"}"#,
        good,
        r#"{"type":"a","data":2,"id":"new"}"#,
    );
    let answer = publish_lines(&desk, &key, contradicting).await;
    assert_eq!(refused(&answer), (409, "DuplicateEntity", vec!["line 2: id", "line 4: id"]));
    assert_eq!(event_count(&desk).await, 1);
    let answer = publish(&desk, &key, json!({ "type": "a", "data": 3, "id": "new" })).await;
    assert_eq!(answer.status, 202, "an id of a refused batch is free");
}

#[tokio::test]
async fn rule_11_publishing_needs_the_scope_and_for_others_the_operators() {
    let desk = Desk::open().await;
    let (partner, owner) = desk.partner("partner,producer").await;
    let (_, producer) = desk.partner("producer").await;
    let (_, operator) = desk.partner("producer,operator").await;
    let (_, unscoped) = desk.partner("partner,operator").await;
    let own = json!({ "type": "a", "data": 1 });
    assert_eq!(publish(&desk, "", own.clone()).await.problem(), (401, "Unauthorized"));
    assert_eq!(publish(&desk, &unscoped, own.clone()).await.problem(), (403, "Forbidden"));

    let theirs = json!({ "type": "a", "data": 1, "partnerId": partner.0 });
    assert_eq!(publish(&desk, &owner, theirs.clone()).await.status, 202, "naming oneself is fine");
    let answer = publish(&desk, &producer, theirs.clone()).await;
    assert_eq!(refused(&answer), (403, "Forbidden", vec!["partnerId"]));
    let batch = format!("{own}\n{theirs}\n");
    let answer = publish_lines(&desk, &producer, format!("{batch}{own}\n{theirs}")).await;
    assert_eq!(refused(&answer), (403, "Forbidden", vec!["line 2: partnerId", "line 4: partnerId"]));
    let answer = publish_lines(&desk, &producer, format!("{theirs}\n").repeat(101)).await;
    assert_eq!(refused(&answer).2.len(), 100);
    assert!(answer.body["detail"].as_str().unwrap().ends_with("more follow."), "{}", answer.text);
    assert_eq!(event_count(&desk).await, 1);

    let published = publish_lines(&desk, &operator, batch).await;
    let id = results(&published)[1]["id"].as_str().unwrap().to_owned();
    assert_eq!(desk.get(&owner, &format!("/herald/v1/events/{id}")).await.status, 200, "it is the partner's");
    let nobodys = json!({ "type": "a", "data": 1, "partnerId": uuid::Uuid::from_u128(1) });
    assert_eq!(publish(&desk, &operator, nobodys.clone()).await.fields(), ["partnerId"]);
    let batch = format!("{own}\n{nobodys}\n");
    assert_eq!(publish_lines(&desk, &operator, batch).await.fields(), ["line 2: partnerId"]);
}

/// A batch that begins, and of which nothing more comes once that is read.
fn dawdling(read: &Arc<AtomicUsize>) -> reqwest::Body {
    // More than there is room for on the way: once it is gone, somebody reads.
    let begin = Bytes::from(vec![b'\n'; 12 * 1024 * 1024]);
    let read = Arc::clone(read);
    let rest = async move {
        read.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    };
    let frames = stream::iter([Ok::<_, Infallible>(Frame::data(begin))]).chain(stream::once(rest));
    reqwest::Body::wrap(StreamBody::new(Box::pin(frames)))
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_who_sends_batches_slowly_holds_up_nobody_else() {
    let desk = Desk::open().await;
    let ((_, slow), (_, key)) = (desk.partner("producer").await, desk.partner("producer").await);
    let read = Arc::new(AtomicUsize::new(0));
    let slowly = join_all((0..10).map(|_| publish_lines(&desk, &slow, dawdling(&read))));
    let meanwhile = async {
        while read.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for number in 0..100 {
            let event = json!({ "type": "a", "data": number }).to_string();
            // A large one of somebody else, and a small one of their own.
            let large = format!("{event}{}", "\n".repeat(300_000));
            for (key, lines) in [(&key, large), (&slow, event)] {
                let publishing = publish_lines(&desk, key, lines);
                let answer = tokio::time::timeout(Duration::from_secs(5), publishing).await;
                assert_eq!(answer.expect("there is a place, or none is needed").status, 202);
            }
        }
    };
    tokio::select! {
        _ = slowly => panic!("nobody ended their batch"),
        () = meanwhile => assert_eq!(read.load(Ordering::Relaxed), 2, "the others wait, unread"),
    }
}

#[tokio::test]
async fn without_a_database_publishing_says_when_to_come_again() {
    let desk = Desk::open().await;
    let (_, key) = desk.partner("producer").await;
    desk.take_database_away();
    let answer = publish(&desk, &key, json!({ "type": "a", "data": 1 })).await;
    assert_eq!(answer.problem(), (503, "ServiceUnavailable"));
    assert!(answer.headers.contains_key("retry-after"));
}
