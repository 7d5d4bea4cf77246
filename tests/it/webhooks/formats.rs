//! Every answer in every format: by suffix, by `format`, by `Accept`, by the prefix of generic clients.

use super::*;
use crate::openapi::document::escape;

/// Each format with the start of a success, of a list and of an error.
const FORMATS: [(&str, &str, &str, &str, &str, &str); 4] = [
    (
        "json",
        "application/json",
        "application/json; charset=utf-8",
        "{\"subscription\":{\"id\":\"",
        "[{\"subscription\":{\"id\":\"",
        "{\"responseStatus\":{\"errorCode\":\"",
    ),
    (
        "jsv",
        "text/jsv",
        "text/jsv",
        "{subscription:{id:",
        "[{subscription:{id:",
        "{responseStatus:{errorCode:",
    ),
    (
        "xml",
        "application/xml",
        "application/xml",
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><SubscriptionResponse xmlns:i=",
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><ArrayOfSubscriptionResponse xmlns:i=",
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><ErrorResponse xmlns:i=",
    ),
    (
        "csv",
        "text/csv",
        "text/csv",
        "subscription,history\r\n\"{id:",
        "subscription,history\r\n\"{id:",
        "responseStatus\r\n\"{errorCode:",
    ),
];

#[tokio::test]
async fn success_list_and_error_in_every_format_by_every_way_to_ask() {
    let world = world().await;
    let partner = &*world.app;
    let stranger = Partner::new(&world.app.base, "wrong");
    let id = subscribe_one(partner, ANY_URL, "order_paid").await;
    for (name, accept, content_type, one, list, error) in FORMATS {
        let other = if name == "json" { "text/jsv" } else { "application/json" };
        let one_path = at("/sync", &format!("/{id}"));
        let nothing = at("/async", &format!("/{NO_ID}"));
        let is = |reply: Reply, status: u16, start: &str| {
            assert_eq!((reply.status, reply.header("content-type")), (status, content_type), "{reply:?}");
            assert_eq!(reply.header("vary"), "Accept");
            assert!(reply.text.starts_with(start), "{start}: {reply:?}");
            reply.text
        };
        for (path, status, start) in [
            (one_path.as_str(), 200, one),
            (&at("/async", ""), 200, list),
            (nothing.as_str(), 404, error),
            (&at("/sync", "/no-guid"), 400, error),
            ("/sync/nowhere", 404, error),
            ("/api/Nothing", 404, error),
        ] {
            let by_suffix = format!("{path}.{name}?format=other");
            let by_query = format!("{path}?format={name}");
            let first = is(send(partner, "GET", &by_suffix, &[("accept", other)], "").await, status, start);
            let second = is(send(partner, "GET", &by_query, &[("accept", other)], "").await, status, start);
            let third = is(send(partner, "GET", path, &[("accept", accept)], "").await, status, start);
            assert_eq!((&first, &second), (&second, &third));
            // Paths that lead nowhere are told before the key is looked at.
            let leads_nowhere = path.ends_with("nowhere") || path.ends_with("Nothing");
            let refused = if leads_nowhere { 404 } else { 401 };
            let media_type = escape(content_type.split(';').next().unwrap());
            let example =
                format!("/components/responses/WebhooksNotFound/content/{media_type}/examples/answer/value");
            if let Some(example) = Document::load().at(&example).filter(|_| leads_nowhere) {
                assert_eq!(json!(first), *example, "as it is documented");
            }
            is(send(&stranger, "GET", path, &[("accept", accept)], "").await, refused, error);
        }
        let by_prefix = format!("/{name}/reply/GetWebhookSubscription?id={id}&format=other");
        is(send(partner, "GET", &by_prefix, &[("accept", other)], "").await, 200, one);
        is(
            send(partner, "GET", &format!("/{name}/reply/Nothing"), &[("accept", other)], "").await,
            404,
            error,
        );
        let by_name = format!("/api/GetWebhookSubscription.{name}?id={id}");
        is(send(partner, "GET", &by_name, &[("accept", other)], "").await, 200, one);
        let wrong_method = send(partner, "PUT", &one_path, &[("accept", accept)], "").await;
        assert!(!wrong_method.header("allow").is_empty());
        is(wrong_method, 405, error);
        let headers = [("accept", accept), ("content-type", "text/plain")];
        let delete_path = format!("{one_path}/delete");
        is(send(partner, "POST", &delete_path, &headers, "x").await, 415, error);
        let headers = [("accept", accept), ("content-type", "text/jsv")];
        is(send(partner, "POST", &delete_path, &headers, "{secret:wrong}").await, 403, error);
        is(send(partner, "POST", &delete_path, &headers, "x".repeat(1_100_000)).await, 413, error);
        let taken = format!("{{events:[order_paid],url:{ANY_URL},secret:{SECRET}}}");
        is(send(partner, "POST", &at("/sync", "/create"), &headers, taken).await, 409, error);
    }
    for accept in ["text/html", "*/*", ""] {
        let reply = send(partner, "GET", &at("/sync", ""), &[("accept", accept)], "").await;
        assert_eq!(reply.header("content-type"), "application/json; charset=utf-8", "{accept}");
    }
}

/// The request of the published sample with real values, and its answer byte for byte.
#[tokio::test]
async fn the_published_delete_in_jsv_byte_for_byte() {
    let world = world().await;
    let partner = &*world.app;
    let body = format!("{{name:\"Orders, all\",events:[order_paid],url:{ANY_URL},secret:{SECRET}}}");
    let headers = [("accept", "text/jsv"), ("content-type", "text/jsv")];
    let made = send(partner, "POST", &at("/async", "/create"), &headers, body).await;
    let member = |name: &str| {
        let (_, rest) = made.text.split_once(&format!("{name}:")).unwrap();
        rest.split([',', '}']).next().unwrap().to_owned()
    };
    let (id, at_created, creator) = (member("id"), member("createdDateUtc"), member("createdById"));
    let request = format!("{{\nid: {id},\nsecret: {SECRET}\n}}");
    let deleted = send(partner, "POST", &at("/async", &format!("/{id}/delete")), &headers, request).await;
    assert_eq!((deleted.status, deleted.header("content-type")), (200, "text/jsv"));
    assert_eq!(
        deleted.text,
        format!(
            "{{subscription:{{id:{id},name:\"Orders, all\",event:order_paid,isActive:True,createdDateUtc:{at_created},\
             createdById:{creator},lastModifiedDateUtc:{at_created},config:{{url:\"{ANY_URL}\",contentType:application/json}}}},\
             history:[]}}"
        )
    );
    let again = send(
        partner,
        "POST",
        &at("/async", &format!("/{id}/delete")),
        &headers,
        format!("{{secret:{SECRET}}}"),
    )
    .await;
    assert_eq!(again.text, "{responseStatus:{errorCode:NotFound,message:NotFound,errors:[]}}");
}
