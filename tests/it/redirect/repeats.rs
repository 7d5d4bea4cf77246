//! `x-request-id`: a repeat is answered again, not executed again.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_fifty_times_at_once_is_executed_once_and_answered_fifty_times() {
    let world = world().await;
    let request_id = Uuid::new_v4().to_string();
    let (headers, body) = ([("x-request-id", request_id.as_str())], wish("https://partner.example/fifty"));
    let ways = [world.ann.at(MOUNTS[0]), world.ann.at(MOUNTS[1])];
    let replies = join_all((0..50).map(|_| ways[0].send("POST", SUBSCRIPTIONS, &headers, Some(&body)))).await;
    for reply in &replies {
        assert_eq!((reply.status, &reply.text), (201, &replies[0].text));
        assert_eq!(reply.header("location"), replies[0].header("location"));
        assert_eq!((reply.header("etag"), reply.header("x-request-id")), ("\"1\"", request_id.as_str()));
    }
    let other_way = ways[1].send("POST", SUBSCRIPTIONS, &headers, Some(&body)).await;
    assert_eq!(
        (other_way.status, &other_way.text),
        (201, &replies[0].text),
        "the mount is no part of the request"
    );
    assert_eq!(world.count("subscriptions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_cancel_fifty_times_at_once_happens_once() {
    let world = world().await;
    let (id, request_id) = (world.ann.opened().await, Uuid::new_v4().to_string());
    let headers = [("x-request-id", request_id.as_str())];
    let replies = join_all((0..50).map(|_| world.ann.cancel(id, &headers))).await;
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.text == replies[0].text));
    assert_eq!(world.count("events").await, 1);
}

#[tokio::test]
async fn a_repeat_after_a_restart_gets_the_first_answer_until_a_day_has_passed() {
    let world = world().await;
    let (id, request_id) = (Uuid::new_v4(), Uuid::new_v4().to_string());
    let headers = [("x-request-id", request_id.as_str())];
    let first = world.ann.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    let restarted = serve(&world.database.pool, &world.keys, REQUEST_TIMEOUT).await;
    let ann = world.ann.of(&restarted);
    assert_eq!(ann.cancel(id, &[]).await.status, 200);
    let repeat = ann.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    assert_eq!((repeat.status, &repeat.text), (200, &first.text), "as it was, token and all");
    world.database.advance(TimeDelta::hours(25)).await;
    let forgotten = ann.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    assert_eq!(forgotten.json()["state"], "Cancelled");
}

#[tokio::test]
async fn rule_12_an_answer_that_is_kept_for_a_repeat_is_told_to_nobody_else() {
    let world = world().await;
    let (id, request_id) = (Uuid::new_v4(), Uuid::new_v4().to_string());
    let headers = [("x-request-id", request_id.as_str())];
    let anns = world.ann.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    let token = anns.json()["token"].as_str().unwrap().to_owned();
    // Everything is the same but who asks, even the id, which is not Ben's to use.
    let bens = world.ben.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    assert_eq!((bens.status, bens.text.contains(&token)), (400, false), "{bens:?}");
    let again = world.ben.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    assert_eq!((again.status, &again.text), (400, &bens.text), "his own answer, when he repeats it");
    let own = Uuid::new_v4();
    let opened = world.ben.send("PUT", &session(own), &[], Some(&new_customer())).await;
    assert_eq!(opened.status, 200, "and it is no reason to refuse him what is");
    let repeat = world.ann.send("PUT", &session(id), &headers, Some(&new_customer())).await;
    assert_eq!((repeat.status, &repeat.text), (200, &anns.text), "nor has it replaced hers");
}

#[tokio::test]
async fn an_id_that_was_used_for_another_request_is_refused() {
    let world = world().await;
    let (id, request_id) = (world.ann.subscribed().await, Uuid::new_v4().to_string());
    let headers = [("x-request-id", request_id.as_str())];
    let (path, body) = (subscription(id), json!({ "apiKey": "canary" }));
    assert_eq!(world.ann.patch(&path, &headers, &body).await.status, 200);
    let with_condition = [headers[0], ("if-match", "*")];
    let session_path = session(Uuid::new_v4());
    for (method, path, headers, body) in [
        ("PATCH", &path, &headers[..], json!({ "apiKey": "canary2" })),
        ("PATCH", &path, &with_condition[..], body.clone()),
        ("PUT", &path, &headers[..], wish("https://partner.example/other")),
        ("PUT", &session_path, &headers[..], new_customer()),
    ] {
        let refused = world.ann.send(method, path, headers, Some(&body)).await;
        assert_eq!(refused.wrong_fields(), ["x-request-id"], "{method} {path}");
    }
    let open = world.ann.opened().await;
    assert_eq!(world.ann.cancel(open, &headers).await.wrong_fields(), ["x-request-id"]);
    assert_eq!(world.ann.get(&path).await.header("etag"), "\"2\"", "nothing more happened");
    let bens = world
        .ben
        .send("PUT", &subscription(Uuid::new_v4()), &headers, Some(&wish("https://ben.example/")))
        .await;
    assert_eq!(bens.status, 201, "ben's ids are his own");
}

#[tokio::test]
async fn a_refusal_that_asking_again_cannot_mend_is_remembered() {
    let world = world().await;
    let (id, bens) = (Uuid::new_v4(), world.ben.subscribed().await);
    let [missing, invalid, foreign] = [(); 3].map(|()| Uuid::new_v4().to_string());
    let change = json!({ "apiKey": "canary" });
    let ask = async |path: String, request_id: &str, body: &serde_json::Value| {
        world.ann.patch(&path, &[("x-request-id", request_id)], body).await
    };
    let firsts = [
        ask(subscription(id), &missing, &change).await,
        ask(subscription(id), &invalid, &json!({})).await,
        ask(subscription(bens), &foreign, &change).await,
    ];
    assert_eq!(firsts.each_ref().map(|reply| reply.status), [404, 400, 403]);
    assert_eq!(world.ann.put(&subscription(id), &wish("https://partner.example/late")).await.status, 201);
    let again = [
        ask(subscription(id), &missing, &change).await,
        ask(subscription(id), &invalid, &json!({})).await,
        ask(subscription(bens), &foreign, &change).await,
    ];
    assert_eq!(again.map(|reply| reply.text), firsts.map(|reply| reply.text));
    let other = ask(subscription(id), &invalid, &change).await;
    assert_eq!(other.wrong_fields(), ["x-request-id"], "a mended request is another request");
}

#[tokio::test]
async fn a_conflict_leaves_the_id_free_for_another_try() {
    let world = world().await;
    let (id, blocker) = (Uuid::new_v4(), Uuid::new_v4());
    let request_id = Uuid::new_v4().to_string();
    let (headers, body) = ([("x-request-id", request_id.as_str())], wish("https://partner.example/one"));
    assert_eq!(world.ann.put(&subscription(blocker), &body).await.status, 201);
    let refused = world.ann.send("PUT", &subscription(id), &headers, Some(&body)).await;
    assert_eq!(refused.failure(), failed(409, "DuplicateEntity"));
    assert_eq!(world.ann.delete(&subscription(blocker)).await.status, 200);
    assert_eq!(world.ann.send("PUT", &subscription(id), &headers, Some(&body)).await.status, 201);

    let (open, request_id) = (world.ann.opened().await, Uuid::new_v4().to_string());
    let stale = [("x-request-id", request_id.as_str()), ("if-match", "\"9\"")];
    assert_eq!(world.ann.cancel(open, &stale).await.failure(), failed(409, "EntityVersionMismatch"));
    assert_eq!(world.ann.cancel(open, &stale[..1]).await.status, 200, "not even as another request");
}

#[tokio::test]
async fn a_request_id_is_one_uuid_where_it_counts_and_any_text_where_it_does_not() {
    let world = world().await;
    let id = world.ann.subscribed().await;
    let uuid = Uuid::new_v4().to_string();
    for given in [&["42"][..], &[""], &[uuid.as_str(), uuid.as_str()]] {
        let headers: Vec<_> = given.iter().map(|value| ("x-request-id", *value)).collect();
        let refused = world.ann.patch(&subscription(id), &headers, &json!({ "apiKey": "k" })).await;
        assert_eq!(refused.wrong_fields(), ["x-request-id"], "{given:?}");
    }
    let headers = [("x-request-id", "call-42"), ("x-correlation-id", "talk-7")];
    let read = world.ann.send("GET", &subscription(id), &headers, None).await;
    assert_eq!(
        (read.status, read.header("x-request-id"), read.header("x-correlation-id")),
        (200, "call-42", "talk-7")
    );
    let gone = world.ann.send("DELETE", &subscription(id), &headers[..1], None).await;
    assert_eq!((gone.status, gone.header("x-correlation-id")), (200, "call-42"));
}
