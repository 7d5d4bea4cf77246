//! What happens around the handlers, in each format: no database needed.

use super::*;
use crate::surfaces::kit::tests::{api, ask, misbehaving};

/// The surface with two routes that misbehave.
fn surface() -> Router {
    let misbehaving = routes::router(misbehaving("/api/panic", "/sync/stall").into());
    let mounted =
        MOUNTS.into_iter().fold(misbehaving, |router, mount| router.nest(mount, routes::router(routes())));
    guarded(mounted, api())
}

#[tokio::test]
async fn rule_17_whatever_goes_wrong_around_a_handler_is_told_in_the_format_of_the_exchange() {
    let subscription = "/async/webhooks/subscriptions/6d245f63-fdfc-4a6b-a351-bc0b03260dcd";
    let (delete, update) = (format!("{subscription}/delete"), format!("{subscription}/update"));
    for (method, path, status, code) in [
        ("GET", "/sync", 404, "NotFound"),
        ("GET", "/sync/webhooks", 404, "NotFound"),
        ("GET", "/json", 404, "NotFound"),
        ("PATCH", subscription, 405, "MethodNotAllowed"),
        ("GET", delete.as_str(), 405, "MethodNotAllowed"),
        ("OPTIONS", update.as_str(), 405, "MethodNotAllowed"),
        ("GET", subscription, 401, "Unauthorized"),
        ("POST", delete.as_str(), 401, "Unauthorized"),
        ("GET", "/api/panic", 500, "InternalServerError"),
        ("GET", "/sync/stall", 503, "ServiceUnavailable"),
        ("POST", "/sync/stall", 408, "RequestTimeout"),
    ] {
        for (accept, content_type, start) in [
            (
                "*/*",
                "application/json; charset=utf-8",
                format!("{{\"responseStatus\":{{\"errorCode\":\"{code}\""),
            ),
            ("text/jsv", "text/jsv", format!("{{responseStatus:{{errorCode:{code},")),
            (
                "application/xml",
                "application/xml",
                format!(
                    "<?xml version=\"1.0\" encoding=\"utf-8\"?><ErrorResponse \
                     xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns=\"http://schemas.servicestack.net/types\">\
                     <ResponseStatus><ErrorCode>{code}</ErrorCode>"
                ),
            ),
            ("text/csv", "text/csv", format!("responseStatus\r\n\"{{errorCode:{code},")),
        ] {
            let (found, headers, body) = ask(surface(), (method, path), &[("accept", accept)], "").await;
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert_eq!(found, status, "{method} {path}: {body}");
            assert_eq!(headers["content-type"], content_type, "{method} {path}");
            assert!(body.starts_with(&start), "{method} {path}: {body}");
            assert!(!body.contains("canary") && !body.to_lowercase().contains("stacktrace"), "{body}");
            assert!(headers.contains_key("x-correlation-id"));
            assert_eq!(headers.contains_key("allow"), status == 405);
            assert_eq!(headers.contains_key("www-authenticate"), status == 401);
        }
    }
}
