//! Subscribing, from the first PUT to the reuse of a deleted id.

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn a_partner_subscribes_changes_its_mind_and_unsubscribes_at_either_mount() {
    let world = world().await;
    for mount in MOUNTS {
        let (ann, id) = (world.ann.at(mount), Uuid::new_v4());
        let url = format!("https://partner.example{mount}/first");
        let shown =
            |url: &str| json!({ "id": id, "callbackUrl": url, "eventTypes": ["RedirectSessionCancelled"] });

        let made = ann.put(&subscription(id), &wish(&url)).await;
        assert_eq!((made.status, made.header("etag"), made.json()), (201, "\"1\"", shown(&url)));
        let read = ann.get(&subscription(id)).await;
        assert_eq!((read.status, read.header("etag"), read.json()), (200, "\"1\"", shown(&url)));

        let url = format!("{url}/second");
        let again = ann.put(&subscription(id), &wish(&url)).await;
        assert_eq!((again.status, again.header("etag"), again.json()), (200, "\"2\"", shown(&url)));
        let rekeyed = ann.patch(&subscription(id), &[], &json!({ "apiKey": "canary-2" })).await;
        assert_eq!((rekeyed.status, rekeyed.header("etag"), rekeyed.json()), (200, "\"3\"", shown(&url)));
        let url = format!("{url}/third");
        let moved = ann.patch(&subscription(id), &[], &json!({ "callbackUrl": url })).await;
        assert_eq!((moved.status, moved.header("etag"), moved.json()), (200, "\"4\"", shown(&url)));

        let gone = ann.delete(&subscription(id)).await;
        assert_eq!((gone.status, gone.text.as_str()), (200, ""));
        for (method, body) in [("GET", None), ("DELETE", None), ("PATCH", Some(json!({ "apiKey": "k" })))] {
            let reply = ann.send(method, &subscription(id), &[], body.as_ref()).await;
            assert_eq!(reply.failure(), failed(404, "SubscriptionNotFound"), "{method}");
        }
    }
}

#[tokio::test]
async fn a_post_makes_an_id_and_says_where_it_is_on_the_mount_that_was_asked() {
    let world = world().await;
    for mount in MOUNTS {
        let ann = world.ann.at(mount);
        let made = ann
            .send("POST", SUBSCRIPTIONS, &[], Some(&wish(&format!("https://partner.example{mount}/x"))))
            .await;
        assert_eq!((made.status, made.header("etag")), (201, "\"1\""));
        let location = format!("{mount}{SUBSCRIPTIONS}/{}", made.json()["id"].as_str().unwrap());
        assert_eq!(made.header("location"), location);
        let read = world.ann.get(&location).await;
        assert_eq!((read.status, read.json()), (200, made.json()));
    }
}

#[tokio::test]
async fn another_partners_subscription_can_neither_be_read_nor_touched() {
    let world = world().await;
    let id = world.ann.subscribed().await;
    for mount in MOUNTS {
        let ben = world.ben.at(mount);
        let body = wish("https://ben.example/");
        for (method, body) in [("GET", None), ("PUT", Some(&body)), ("PATCH", Some(&body)), ("DELETE", None)]
        {
            let refused = ben.send(method, &subscription(id), &[], body).await;
            assert_eq!(refused.failure(), failed(403, "InvalidTriggeredBy"), "{method}");
        }
    }
    assert_eq!(world.ann.get(&subscription(id)).await.header("etag"), "\"1\"");
    assert_eq!(world.ben.get(SUBSCRIPTIONS).await.json()["items"], json!([]));
}

#[tokio::test]
async fn the_id_of_a_deleted_subscription_stays_its_partners() {
    let world = world().await;
    let id = world.ann.subscribed().await;
    assert_eq!(world.ann.delete(&subscription(id)).await.status, 200);
    let taken = world.ben.put(&subscription(id), &wish("https://ben.example/")).await;
    assert_eq!(taken.failure(), failed(403, "InvalidTriggeredBy"));
    let again = world.ann.put(&subscription(id), &wish("https://partner.example/again")).await;
    assert_eq!(again.status, 201, "a new subscription inside");
    assert_eq!(again.header("etag"), "\"3\"", "which goes on after the first one's deletion");
}

#[tokio::test]
async fn two_subscriptions_to_one_url_are_a_duplicate_until_one_of_them_goes() {
    let world = world().await;
    let (first, second) = (Uuid::new_v4(), world.ann.subscribed().await);
    let taken = wish("https://partner.example/taken");
    assert_eq!(world.ann.put(&subscription(first), &taken).await.status, 201);
    for (method, path) in [
        ("PUT", subscription(second)),
        ("PUT", subscription(Uuid::new_v4())),
        ("PATCH", subscription(second)),
        ("POST", SUBSCRIPTIONS.to_owned()),
    ] {
        let refused = world.ann.send(method, &path, &[], Some(&taken)).await;
        assert_eq!(refused.failure(), failed(409, "DuplicateEntity"), "{method} {path}");
    }
    assert_eq!(world.ben.put(&subscription(Uuid::new_v4()), &taken).await.status, 201, "ben has his own");
    assert_eq!(world.ann.put(&subscription(first), &taken).await.status, 200, "it is no duplicate of itself");
    assert_eq!(world.ann.delete(&subscription(first)).await.status, 200);
    assert_eq!(world.ann.put(&subscription(second), &taken).await.status, 200);
}

#[tokio::test]
async fn every_wrong_field_is_named_at_once_before_anything_else_is_looked_at() {
    let world = world().await;
    let anns = world.ann.subscribed().await;
    let nothing = json!({ "callbackUrl": "ftp://x", "apiKey": "canary.", "eventTypes": ["Other"] });
    let fields = ["callbackUrl", "apiKey", "eventTypes"];
    for mount in MOUNTS {
        let ben = world.ben.at(mount);
        for (method, path) in [
            ("POST", SUBSCRIPTIONS.to_owned()),
            ("PUT", subscription(anns)),
            ("PATCH", subscription(anns)),
            ("PATCH", subscription(Uuid::new_v4())),
        ] {
            assert_eq!(
                ben.send(method, &path, &[], Some(&nothing)).await.wrong_fields(),
                fields,
                "{method} {path}"
            );
        }
    }
    let headers = [("x-request-id", "42"), ("if-match", "\"7\"")];
    let all = world.ben.send("PUT", &format!("{SUBSCRIPTIONS}/42"), &headers, Some(&nothing)).await;
    assert_eq!(
        all.wrong_fields(),
        ["x-request-id", "eventSubscriptionId", "callbackUrl", "apiKey", "eventTypes"]
    );
}

#[tokio::test]
async fn a_body_that_is_no_object_with_sound_values_is_a_400_with_the_fields_name() {
    let world = world().await;
    let id = world.ann.subscribed().await;
    let deep = format!(r#"{{"apiKey":{}{}}}"#, "[".repeat(7_000), "]".repeat(7_000));
    for (body, field) in [
        ("{}", "body"),
        ("null", "body"),
        ("[]", "body"),
        ("{", "body"),
        ("", "body"),
        (r#"{"apiKey":"k""#, "body"),
        (r#"{"apiKey":null}"#, "apiKey"),
        (r#"{"apiKey":"\u0000"}"#, "apiKey"),
        (r#"{"apiKey":"\ud800"}"#, "apiKey"),
        (r#"{"apiKey":1e400}"#, "apiKey"),
        (r#"{"apiKey":"a","apiKey":"a"}"#, "apiKey"),
        (r#"{"apiKey":"a\r\nb"}"#, "apiKey"),
        (r#"{"callbackUrl":"https://10.0.0.1/"}"#, "callbackUrl"),
        (r#"{"callbackUrl":"https://u@partner.example/"}"#, "callbackUrl"),
        (r#"{"eventTypes":["RedirectSessionCancelled","RedirectSessionCancelled"]}"#, "eventTypes"),
        (deep.as_str(), "apiKey"),
    ] {
        let headers = [("x-api-key", world.ann.key.as_str()), ("content-type", "application/json")];
        let refused = world.ann.send_raw("PATCH", &subscription(id), &headers, Some(body.to_owned())).await;
        assert_eq!(refused.wrong_fields(), [field], "{}", &body[..body.len().min(80)]);
    }
    assert_eq!(world.ann.get(&subscription(id)).await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn rule_16_the_list_comes_in_pages_with_cursors_that_are_good_for_nobody_else() {
    let world = world().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.ann.subscribed().await.to_string());
    }
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    for mount in MOUNTS {
        let ann = world.ann.at(mount);
        let (mut seen, mut query) = (Vec::new(), "?limit=2".to_owned());
        let cursors = loop {
            let page = ann.get(&format!("{SUBSCRIPTIONS}{query}")).await.json();
            seen.extend(ids(&page));
            match page["nextCursor"].as_str() {
                Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
                None => break query,
            }
        };
        assert_eq!(seen, made, "oldest first, each once");
        assert_eq!(ids(&ann.get(SUBSCRIPTIONS).await.json()), made, "all on one page by default");
        let foreign = world.ben.get(&format!("{SUBSCRIPTIONS}{cursors}")).await;
        assert_eq!(foreign.wrong_fields(), ["cursor"]);
        for (query, fields) in [
            ("?limit=-1", &["limit"][..]),
            ("?limit=0", &["limit"]),
            ("?limit=101", &["limit"]),
            ("?limit=1e1", &["limit"]),
            ("?cursor=AAAA", &["cursor"]),
            ("?limit=&cursor=%00", &["limit", "cursor"]),
        ] {
            assert_eq!(ann.get(&format!("{SUBSCRIPTIONS}{query}")).await.wrong_fields(), fields, "{query}");
        }
    }
}
