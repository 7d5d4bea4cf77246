//! That the document would notice. A schema that lets everything through makes every test that leans on it green, so
//! here its examples are bent and must be refused.

use serde_json::{Value, json};

use crate::openapi::document::{Document, members};

/// Where anything goes because the partner's producer says what stands there.
const OPEN: [&str; 2] = ["/data", "/attributes"];

#[test]
fn a_response_with_a_member_too_many_is_refused_wherever_the_member_is() {
    let document = Document::load();
    let mut bent_count = 0;
    for (pointer, name, example) in response_examples(document) {
        for place in objects(example).iter().filter(|place| !OPEN.iter().any(|open| place.starts_with(open)))
        {
            let mut bent = example.clone();
            bent.pointer_mut(place).expect("it is there")["surprise"] = json!(1);
            assert!(
                document.validate(&pointer, &bent).is_err(),
                "{name} at {pointer} takes a surprise at {place:?}"
            );
            bent_count += 1;
        }
    }
    assert!(bent_count > 100, "only {bent_count} places were tried, so this test has lost its way");
}

#[test]
fn a_response_without_any_of_its_members_is_refused_unless_the_member_is_optional() {
    let optional =
        ["customerId", "nextAttemptAt", "finishedAt", "reason", "expiresAt", "backupUrl", "statusReason"];
    let document = Document::load();
    for (pointer, name, example) in response_examples(document) {
        for (member, _) in members(example) {
            let mut bent = example.clone();
            bent.as_object_mut().expect("it has members").remove(member);
            let refused = document.validate(&pointer, &bent).is_err();
            assert!(
                refused || optional.contains(&member.as_str()),
                "{name} at {pointer} is not missed anything without {member}"
            );
        }
    }
}

#[test]
fn an_error_has_only_the_details_that_its_code_calls_for() {
    let document = Document::load();
    let error = |code: &str, details: Value| {
        json!({
            "code": code, "message": "No.", "moreInfo": "https://docs.herald.example/errors",
            "correlationId": "c", "details": details,
        })
    };
    let reasons =
        json!({ "validationErrorReasons": [{ "fieldName": "apiKey", "errorMessage": "Value is wrong" }] });
    let limit = json!({ "limitThresholdExceededReason": "Too many." });
    let cases = [
        ("Validation", reasons.clone(), true),
        ("Validation", json!({}), false),
        ("Validation", json!({ "validationErrorReasons": [] }), false),
        ("Validation", limit.clone(), false),
        ("LimitThresholdExceeded", limit.clone(), true),
        ("LimitThresholdExceeded", json!({}), false),
        ("SubscriptionNotFound", json!({}), true),
        ("SubscriptionNotFound", reasons, false),
        ("SubscriptionNotFound", limit, false),
        ("CustomerPermissionDenied", json!({}), false),
    ];
    for (code, details, accepted) in cases {
        let error = error(code, details);
        assert_eq!(
            document.validate("/components/schemas/RedirectError", &error).is_ok(),
            accepted,
            "{error}"
        );
    }
    for member in ["message", "moreInfo", "correlationId"] {
        let mut error = error("SubscriptionNotFound", json!({}));
        error[member] = json!("");
        assert!(document.validate("/components/schemas/RedirectError", &error).is_err(), "an empty {member}");
    }
}

#[test]
fn a_real_answer_is_judged_by_status_content_type_and_body() {
    let document = Document::load();
    let path = "/redirect-session-events/subscriptions/{eventSubscriptionId}";
    let body = json!({
        "id": "6d245f63-fdfc-4a6b-a351-bc0b03260dcd", "callbackUrl": "https://partner.example/in",
        "eventTypes": ["RedirectSessionCancelled"],
    });
    let judge = |status, content_type: Option<&str>, body: Option<&Value>| {
        document.validate_response("PATCH", path, status, content_type, body)
    };
    assert_eq!(judge(200, Some("application/json"), Some(&body)), Ok(()));
    assert_eq!(judge(200, Some("Application/JSON; charset=utf-8"), Some(&body)), Ok(()));
    assert!(judge(201, Some("application/json"), Some(&body)).is_err(), "a status that is not documented");
    assert!(judge(200, Some("text/plain"), Some(&body)).is_err(), "a content type that is not documented");
    assert!(judge(200, None, Some(&body)).is_err(), "no content type");
    assert!(judge(200, None, None).is_err(), "no body where there is one");
    assert!(
        judge(404, Some("application/json"), Some(&body)).is_err(),
        "a success's body under an error's status"
    );
    let mut leaking = body.clone();
    leaking["apiKey"] = json!("key");
    assert!(judge(200, Some("application/json"), Some(&leaking)).is_err(), "the key is write-only");

    let delete = |body| document.validate_response("DELETE", path, 200, Some("application/json"), body);
    assert_eq!(delete(None), Ok(()));
    assert!(delete(Some(&json!({}))).is_err(), "a body where there is none");
    assert!(document.validate_response("GET", "/nowhere", 200, None, None).is_err());
}

#[test]
fn a_real_answers_headers_are_judged_too() {
    let document = Document::load();
    let path = "/redirect-session-events/subscriptions/{eventSubscriptionId}";
    let judge = |status, headers: &[(&str, &str)]| {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        document.validate_response_headers("GET", path, status, &headers)
    };
    let ids = [("X-Request-Id", "r"), ("X-Correlation-Id", "c")];
    let with = |name, value| [ids[0], ids[1], (name, value)];
    assert_eq!(judge(200, &with("etag", "\"3\"")), Ok(()));
    assert!(judge(200, &ids).is_err(), "without its version");
    assert!(judge(200, &with("etag", "W/\"3\"")).is_err(), "with a weak version");
    assert!(judge(200, &[ids[0], ("etag", "\"3\"")]).is_err(), "without a correlation id");
    assert_eq!(judge(429, &with("retry-after", "5")), Ok(()));
    assert!(judge(429, &with("retry-after", "soon")).is_err());
    assert!(judge(429, &ids).is_err(), "without saying when to come back");
    assert!(judge(401, &ids).is_err(), "without saying how to authenticate");
}

#[test]
fn a_path_finds_its_template_at_either_mount() {
    let document = Document::load();
    let id = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";
    let mount = "/customer-authentication-service/v1";
    let cases = [
        (format!("/redirect-sessions/{id}/cancel"), Some("/redirect-sessions/{redirectSessionId}/cancel")),
        (format!("{mount}/redirect-sessions/{id}"), Some("/redirect-sessions/{redirectSessionId}")),
        ("/herald/v1/deliveries".to_owned(), Some("/herald/v1/deliveries")),
        (format!("{mount}/herald/v1/deliveries"), None),
        ("/redirect-sessions/".to_owned(), None),
        ("/".to_owned(), None),
    ];
    for (path, template) in cases {
        assert_eq!(document.path_template(&path).as_deref(), template, "{path}");
    }
}

/// Every JSON example of a response: the pointer to its schema, its name, itself.
fn response_examples(document: &Document) -> Vec<(String, String, &Value)> {
    let contents = document.walk().into_iter().filter(|(pointer, value)| {
        (pointer.contains("/responses/") && pointer.contains("json")) && value.get("schema").is_some()
    });
    contents
        .flat_map(|(pointer, content)| {
            let examples = document.examples(content).into_iter();
            examples.map(move |(name, example)| (format!("{pointer}/schema"), name, example))
        })
        .collect()
}

/// The pointers of all objects in a value, its own included.
fn objects(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((pointer, value)) = open.pop() {
        if value.is_object() {
            found.push(pointer.clone());
        }
        open.extend(members(value).map(|(key, child)| (format!("{pointer}/{key}"), child)));
        let elements = value.as_array().into_iter().flatten().enumerate();
        open.extend(elements.map(|(at, child)| (format!("{pointer}/{at}"), child)));
    }
    found
}
