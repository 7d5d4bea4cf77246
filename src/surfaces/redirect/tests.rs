//! What happens around the handlers, and how bodies are read: no database needed.

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::surfaces::kit::tests::{self, api, misbehaving};

/// Asks the surface with two routes that misbehave, at the root or under its mount.
async fn ask(mount: &str, method: &str, path: &str) -> (u16, HeaderMap, Value) {
    let table = routes().into_iter().chain(misbehaving("/panic", "/stall")).collect();
    let site = Arc::new(Site::of(table, api()));
    let router = Router::new().fallback(async move |request: Request| site.answer(request).await);
    let path = format!("{mount}{path}");
    let (status, headers, body) =
        tests::ask(router, (method, &path), &[("x-correlation-id", "c-1")], "").await;
    (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn rule_17_whatever_goes_wrong_around_a_handler_answers_in_the_published_envelope_at_both_mounts() {
    let id = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";
    let subscription = format!("/redirect-session-events/subscriptions/{id}");
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "ResourceNotFound"),
        ("GET", "/", 404, "ResourceNotFound"),
        ("GET", "/redirect-sessions", 404, "ResourceNotFound"),
        ("POST", subscription.as_str(), 405, "MethodNotAllowed"),
        ("OPTIONS", subscription.as_str(), 405, "MethodNotAllowed"),
        ("GET", subscription.as_str(), 401, "Unauthorized"),
        ("GET", "/panic", 500, "GeneralErrorOccurred"),
        ("GET", "/stall", 503, "ServiceUnavailable"),
        ("POST", "/stall", 408, "RequestTimeout"),
    ] {
        for mount in ["", MOUNT] {
            let (found, headers, body) = ask(mount, method, path).await;
            assert_eq!(found, status, "{method} {mount}{path}");
            let message = body["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && !message.contains("canary"), "{method} {mount}{path}: {body}");
            let expected = json!({
                "code": code, "message": message, "correlationId": "c-1", "details": {},
                "moreInfo": format!("https://herald.example/base/errors#{code}"),
            });
            assert_eq!(body, expected);
            assert_eq!(headers["content-type"], "application/json");
            assert_eq!(headers["x-correlation-id"], "c-1");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401);
            assert_eq!(headers.contains_key("allow"), status == 405, "{headers:?}");
            assert_eq!(headers.contains_key("retry-after"), status == 503);
        }
    }
}

#[tokio::test]
async fn a_405_lists_the_methods_of_the_path() {
    let (_, headers, _) = ask(MOUNT, "PUT", SUBSCRIPTIONS).await;
    let mut allowed: Vec<_> = headers["allow"].to_str().unwrap().split(',').collect();
    allowed.sort();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}
