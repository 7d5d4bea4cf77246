//! Keys, paths, methods, sizes, types, time, and a database in trouble: what every operation has in common.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use herald::domain::partner_key::Scope;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::*;
use crate::openapi::document::Document;
use crate::support::server::BODY_MAX;

#[tokio::test]
async fn a_key_is_taken_in_each_of_its_forms_and_nothing_else_is() {
    let world = world().await;
    let key = world.ann.key.as_str();
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    for (name, value) in [
        ("x-api-key", key.to_owned()),
        ("authorization", format!("Bearer {key}")),
        ("authorization", key.to_owned()),
        ("authorization", basic(format!("{key}:"))),
    ] {
        let reply = world.ann.send_raw("GET", SUBSCRIPTIONS, &[(name, &value)], None).await;
        assert_eq!(reply.status, 200, "{name}: {value}");
    }
    let another = if key.ends_with('x') { 'y' } else { 'x' };
    let unknown = format!("{}{another}", &key[..key.len() - 1]);
    let producer = world.server.key(world.ann.id, Scope::Producer).await;
    let operator = world.server.key(world.ann.id, Scope::Operator).await;
    let body = json!({ "apiKey": 1 });
    for headers in [
        vec![],
        vec![("x-api-key", "")],
        vec![("x-api-key", unknown.as_str())],
        vec![("x-api-key", producer.as_str())],
        vec![("authorization", operator.as_str())],
        vec![("authorization", "Bearer")],
    ] {
        for mount in MOUNTS {
            let way = world.ann.at(mount);
            for (method, path) in
                [("GET", SUBSCRIPTIONS.to_owned()), ("PATCH", format!("{SUBSCRIPTIONS}/42"))]
            {
                let refused = way.send_raw(method, &path, &headers, Some(body.to_string())).await;
                assert_eq!(refused.failure(), failed(401, "Unauthorized"), "{headers:?}");
                assert!(refused.header("www-authenticate").starts_with("Bearer"));
            }
        }
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_in_the_envelope() {
    let world = world().await;
    for mount in MOUNTS {
        let ann = world.ann.at(mount);
        for path in [
            "/",
            "/nowhere",
            "/redirect-sessions",
            "/redirect-session-events/subscriptions/",
            "/redirect-sessions/a/b",
        ] {
            assert_eq!(ann.get(path).await.failure(), failed(404, "ResourceNotFound"), "{mount}{path}");
        }
        for (method, path) in [
            ("DELETE", SUBSCRIPTIONS.to_owned()),
            ("OPTIONS", SUBSCRIPTIONS.to_owned()),
            ("POST", subscription(Uuid::new_v4())),
            ("PATCH", session(Uuid::new_v4())),
            ("GET", format!("{}/cancel", session(Uuid::new_v4()))),
        ] {
            let refused = ann.send(method, &path, &[], None).await;
            assert_eq!(refused.failure(), failed(405, "MethodNotAllowed"), "{method} {path}");
            assert!(!refused.header("allow").is_empty());
        }
        let head = ann.send("HEAD", SUBSCRIPTIONS, &[], None).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
    }
}

#[tokio::test]
async fn rule_14_a_body_of_the_wrong_type_or_size_is_refused_before_it_is_read_as_json() {
    let world = world().await;
    let large = format!("{{\"apiKey\":\"{}\"}}", "k".repeat(BODY_MAX));
    for mount in MOUNTS {
        let ann = world.ann.at(mount);
        let key = ("x-api-key", ann.key.as_str());
        for (method, path) in [
            ("POST", SUBSCRIPTIONS.to_owned()),
            ("PUT", subscription(Uuid::new_v4())),
            ("PATCH", subscription(Uuid::new_v4())),
            ("PUT", session(Uuid::new_v4())),
            ("POST", format!("{}/cancel", session(Uuid::new_v4()))),
        ] {
            for content_type in
                [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("json")]
            {
                let headers: Vec<_> =
                    [Some(key), content_type.map(|it| ("content-type", it))].into_iter().flatten().collect();
                let refused = ann.send_raw(method, &path, &headers, Some("{}".to_owned())).await;
                assert_eq!(
                    refused.failure(),
                    failed(415, "UnsupportedMediaType"),
                    "{method} {path} {content_type:?}"
                );
            }
            let headers = [key, ("content-type", "application/json")];
            let refused = ann.send_raw(method, &path, &headers, Some(large.clone())).await;
            assert_eq!(refused.failure(), failed(413, "PayloadTooLarge"), "{method} {path}");
        }
        let headers = [key, ("content-type", "Application/JSON; charset=utf-8")];
        let body = wish(&format!("https://partner.example{mount}/typed")).to_string();
        assert_eq!(ann.send_raw("POST", SUBSCRIPTIONS, &headers, Some(body)).await.status, 201);
    }
}

#[tokio::test]
async fn rule_14_a_body_that_never_comes_is_a_timeout_and_one_that_breaks_off_is_named() {
    let world = world().await;
    let server = serve(&world.database.pool, &world.keys, Duration::from_millis(300)).await;
    let path = subscription(Uuid::new_v4());
    for (hang_up, expected) in [(false, failed(408, "RequestTimeout")), (true, failed(400, "Validation"))] {
        let mut stream =
            tokio::net::TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: herald\r\nx-api-key: {}\r\ncontent-type: application/json\r\n\
             content-length: 100\r\nconnection: close\r\n\r\n{{",
            world.ann.key
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        if hang_up {
            stream.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((status, body["code"].as_str().unwrap().to_owned()), expected);
        Document::load().validate("/components/schemas/RedirectError", &body).unwrap();
    }
}

#[tokio::test]
async fn a_broken_schema_is_our_failure_and_a_database_that_is_away_is_a_passing_one() {
    let world = world().await;
    let id = world.ann.opened().await;
    sqlx::query("alter table redirect_sessions rename to elsewhere")
        .execute(&world.database.pool)
        .await
        .unwrap();
    sqlx::query("alter table subscriptions rename to elsewhere_too")
        .execute(&world.database.pool)
        .await
        .unwrap();
    for mount in MOUNTS {
        let ann = world.ann.at(mount);
        let path = subscription(Uuid::new_v4());
        let body = wish("https://partner.example/");
        for reply in [
            ann.get(SUBSCRIPTIONS).await,
            ann.put(&path, &body).await,
            ann.send("POST", SUBSCRIPTIONS, &[], Some(&body)).await,
            ann.get(&session(id)).await,
            ann.put(&session(id), &new_customer()).await,
            ann.cancel(id, &[]).await,
        ] {
            assert_eq!(reply.failure(), failed(500, "GeneralErrorOccurred"));
            assert!(
                !reply.text.contains("elsewhere") && !reply.text.contains("redirect_sessions"),
                "{reply:?}"
            );
        }
    }
    // Closed from the call on; it would end only with the ingest writer, which keeps a connection.
    drop(world.database.pool.close());
    for mount in MOUNTS {
        for away in [
            world.ann.at(mount).get(&session(id)).await,
            world.ann.at(mount).put(&session(id), &new_customer()).await,
        ] {
            assert_eq!(away.failure(), failed(503, "ServiceUnavailable"));
            assert!(away.header("retry-after").parse::<u32>().unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn every_operation_of_the_document_is_in_the_table_and_the_other_way_round() {
    let table = herald::surfaces::kit::routes::listing(&redirect::routes());
    let mut routed: Vec<_> = table.into_iter().collect();
    let operations = Document::load().operations().into_iter();
    let mut documented: Vec<_> = operations
        .filter(|it| it.mounts.iter().any(|mount| mount == redirect::MOUNT))
        .map(|it| (it.method, it.path))
        .collect();
    routed.sort();
    documented.sort();
    assert_eq!(routed, documented);
}
