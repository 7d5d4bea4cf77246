//! What happens around the handlers: no database needed.

use std::time::Duration;

use axum::http::HeaderMap;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::*;
use crate::domain::Error;
use crate::domain::error::Limit;
use crate::domain::notification::Refused;
use crate::surfaces::kit::tests::{self, api, misbehaving};

async fn ask(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, HeaderMap, Value) {
    let table = routes().into_iter().chain(misbehaving("/rest/panic", "/rest/stall")).collect();
    let (status, headers, body) =
        tests::ask(guarded(table, api()), (method, path), headers, body.to_owned()).await;
    (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn rule_17_whatever_goes_wrong_around_a_handler_answers_in_the_published_shape() {
    let (form, large) = ("application/x-www-form-urlencoded", "x".repeat(1_001));
    let token = format!("ht_{}", "A".repeat(43));
    for (method, path, headers, body, status, code) in [
        ("GET", "/rest", &[][..], "", 404, "RESOURCE_NOT_FOUND"),
        ("GET", "/rest/api/v1.2/auth/token", &[], "", 404, "RESOURCE_NOT_FOUND"),
        ("PATCH", SUBSCRIPTIONS, &[], "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", TOKEN, &[], "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", SUBSCRIPTIONS, &[], "", 401, "UNAUTHORIZED"),
        ("GET", EVENT_LIST, &[("authorization", "no-key")], "", 401, "UNAUTHORIZED"),
        ("POST", CALLBACKS, &[("content-type", "text/plain")], "x", 401, "UNAUTHORIZED"),
        ("POST", TOKEN, &[("content-type", "text/plain")], "x", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", TOKEN, &[("content-type", form)], large.as_str(), 413, "PAYLOAD_TOO_LARGE"),
        ("POST", TOKEN, &[("content-type", form)], "auth_type=server", 400, "INVALID_PARAMETER"),
        ("POST", TOKEN, &[], "", 400, "INVALID_PARAMETER"),
        (
            "POST",
            TOKEN,
            &[("content-type", form)],
            "auth_type=password&user_name=a",
            400,
            "INVALID_PARAMETER",
        ),
        ("POST", EARLIER_TOKEN, &[("content-type", form)], "auth_type=token", 401, "UNAUTHORIZED"),
        (
            "POST",
            "/rest/api/v1.1/auth/token?auth_type=token",
            &[("authorization", "no-token")],
            "",
            401,
            "TOKEN_EXPIRED",
        ),
        (
            "POST",
            "/rest/api/v1.3/auth/token?auth_type=password&user_name=a&password=short",
            &[],
            "",
            400,
            "INVALID_USER_NAME_PASSWORD",
        ),
        (
            "POST",
            "/rest/api/v1.3/auth/token?auth_type=password&user_name=a&password=b&password=c",
            &[],
            "",
            400,
            "INVALID_PARAMETER",
        ),
        (
            "POST",
            "/rest/api/v1.3/auth/token?auth_type=password&user_name=a",
            &[("content-type", form)],
            &format!("password={token}"),
            400,
            "INVALID_USER_NAME_PASSWORD",
        ),
        ("GET", "/rest/panic", &[], "", 500, "GENERAL_ERROR_OCCURRED"),
        ("GET", "/rest/stall", &[], "", 503, "SERVICE_UNAVAILABLE"),
        ("POST", "/rest/stall", &[], "", 408, "REQUEST_TIMEOUT"),
    ] {
        let (found, headers, told) = ask(method, path, headers, body).await;
        let (title, detail) = (told["title"].clone(), told["detail"].clone());
        assert!(!detail.as_str().unwrap().is_empty() && !title.as_str().unwrap().is_empty());
        assert!(!told.to_string().contains("canary"));
        assert_eq!(
            (found, &told),
            (
                status,
                &json!({ "type": "", "title": title, "errorCode": code, "detail": detail, "errorDetails": [] })
            ),
            "{method} {path}"
        );
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
        assert_eq!(headers.contains_key("allow"), status == 405, "{headers:?}");
        assert_eq!(headers.contains_key("retry-after"), status == 503);
        assert!(headers.contains_key("x-request-id") && headers.contains_key("x-correlation-id"));
    }
}

#[tokio::test]
async fn a_failure_of_ours_tells_nothing_of_its_cause() {
    for (error, status, code) in [
        (Error::internal("select canary from t"), 500, "GENERAL_ERROR_OCCURRED"),
        (Error::unavailable("canary:5432"), 503, "SERVICE_UNAVAILABLE"),
        (
            Error::LimitExceeded { limit: Limit::Requests, after: Duration::from_millis(1) },
            429,
            "LIMIT_THRESHOLD_EXCEEDED",
        ),
    ] {
        let mut response = Failure::from(Refused::from(error)).into_response();
        error::log(&mut response, &guard::conversation(&Request::default()));
        assert_eq!(response.headers().contains_key("retry-after"), status != 500);
        assert_eq!(response.status().as_u16(), status);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains(code) && !text.contains("canary"), "{text}");
    }
}
