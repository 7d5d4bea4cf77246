//! What the published contract says and the document must therefore say too: which codes under which status, what the
//! callback's key may look like, what a session must have.

use serde_json::{Value, json};

use herald::domain::callback_url::CallbackUrl;
use herald::domain::egress::EgressPolicy;
use herald::surfaces::redirect;

use crate::openapi::document::{Document, Operation};

/// Every code that an operation of the redirect surface answers for a reason of its own, under its status.
const CODES: [(&str, u16, &[&str]); 31] = [
    ("listSubscriptions", 400, &["Validation"]),
    ("createSubscription", 400, &["Validation"]),
    ("createSubscription", 409, &["DuplicateEntity"]),
    ("createSubscription", 500, &["GeneralErrorOccurred"]),
    ("getSubscription", 400, &["Validation"]),
    ("getSubscription", 403, &["InvalidTriggeredBy"]),
    ("getSubscription", 404, &["SubscriptionNotFound"]),
    ("putSubscription", 400, &["Validation"]),
    ("putSubscription", 403, &["InvalidTriggeredBy"]),
    ("putSubscription", 409, &["DuplicateEntity", "EntityVersionMismatch"]),
    ("putSubscription", 500, &["GeneralErrorOccurred"]),
    ("updateSubscription", 400, &["Validation"]),
    ("updateSubscription", 403, &["InvalidTriggeredBy"]),
    ("updateSubscription", 404, &["SubscriptionNotFound"]),
    ("updateSubscription", 409, &["EntityVersionMismatch", "DuplicateEntity"]),
    ("updateSubscription", 500, &["GeneralErrorOccurred"]),
    ("deleteSubscription", 400, &["Validation"]),
    ("deleteSubscription", 403, &["InvalidTriggeredBy"]),
    ("deleteSubscription", 404, &["SubscriptionNotFound"]),
    ("deleteSubscription", 409, &["EntityVersionMismatch"]),
    ("putRedirectSession", 400, &["Validation", "InvalidTriggeredBy"]),
    ("putRedirectSession", 404, &["CustomerNotFound"]),
    ("putRedirectSession", 409, &["DuplicateEntity"]),
    ("putRedirectSession", 500, &["GeneralErrorOccurred"]),
    ("getRedirectSession", 400, &["Validation"]),
    ("getRedirectSession", 404, &["RedirectSessionNotFound"]),
    ("getRedirectSession", 500, &["GeneralErrorOccurred"]),
    (
        "cancelRedirectSession",
        400,
        &["Validation", "InvalidTriggeredBy", "InvalidRedirectSessionStateTransition"],
    ),
    ("cancelRedirectSession", 404, &["RedirectSessionNotFound", "CustomerNotFound"]),
    ("cancelRedirectSession", 409, &["EntityVersionMismatch"]),
    ("cancelRedirectSession", 500, &["GeneralErrorOccurred"]),
];

/// The codes that come from the surface as a whole and not from any one operation, with their statuses.
const CODES_OF_EVERY_OPERATION: [(u16, &str); 6] = [
    (401, "Unauthorized"),
    (404, "ResourceNotFound"),
    (405, "MethodNotAllowed"),
    (408, "RequestTimeout"),
    (429, "LimitThresholdExceeded"),
    (503, "ServiceUnavailable"),
];

const CODES_OF_EVERY_BODY: [(u16, &str); 2] = [(413, "PayloadTooLarge"), (415, "UnsupportedMediaType")];

#[test]
fn every_published_code_is_a_named_example_under_its_status() {
    let document = Document::load();
    for (operation_id, status, codes) in CODES {
        for code in codes {
            assert_example(document, operation_id, status, code);
        }
    }
}

#[test]
fn every_operation_of_the_redirect_surface_shows_the_codes_of_the_surface() {
    let document = Document::load();
    let mut seen = 0;
    let is_redirects = |operation: &Operation| operation.mounts.iter().any(|mount| mount == redirect::MOUNT);
    for operation in document.operations().into_iter().filter(is_redirects) {
        let object = document.at(&operation.pointer).expect("the pointer is its own");
        let operation_id = object["operationId"].as_str().expect("every operation has its id");
        for (status, code) in CODES_OF_EVERY_OPERATION {
            assert_example(document, operation_id, status, code);
        }
        for (status, code) in CODES_OF_EVERY_BODY {
            if object.get("requestBody").is_some() {
                assert_example(document, operation_id, status, code);
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 9, "the redirect surface has nine operations");
}

/// That the example is there, carries its own name as its code, and that the same example under another of the
/// response's codes would be refused: the status allows only the codes that belong to it.
fn assert_example(document: &Document, operation_id: &str, status: u16, code: &str) {
    let operation = document
        .operations()
        .into_iter()
        .find(|operation| document.at(&operation.pointer).is_some_and(|it| it["operationId"] == operation_id))
        .unwrap_or_else(|| panic!("there is no operation {operation_id}"));
    let pointer =
        document.response(&operation.method, &operation.path, status).expect("the status is documented");
    let content = &document.at(&pointer).expect("the pointer is its own")["content"]["application/json"];
    let examples = document.examples(content);
    let (_, example) = examples
        .iter()
        .find(|(name, _)| name == code)
        .unwrap_or_else(|| panic!("{operation_id} {status} has no example {code}"));
    assert_eq!(example["code"], code, "{operation_id} {status}");
    let mut foreign = (*example).clone();
    foreign["code"] = json!("SomethingElse");
    assert!(document.validate(&format!("{pointer}/content/application~1json/schema"), &foreign).is_err());
}

#[test]
fn the_callbacks_key_is_judged_by_the_published_expression() {
    let longest = "k".repeat(128);
    let too_long = "k".repeat(129);
    let cases: [(&str, bool); 19] = [
        ("a", true),
        ("Z9=+/-:_", true),
        ("[\\]^_`", true),
        (&longest, true),
        ("", false),
        (&too_long, false),
        (".", false),
        ("~", false),
        (",", false),
        (" ", false),
        ("key ", false),
        ("key\n", false),
        ("key\r\n", false),
        ("ke\u{0}y", false),
        ("kéy", false),
        ("@", false),
        ("{", false),
        ("\"", false),
        (";", false),
    ];
    let document = Document::load();
    for (key, accepted) in cases {
        let verdict = document.validate("/components/schemas/ApiKey", &json!(key));
        assert_eq!(verdict.is_ok(), accepted, "{key:?}");
    }
}

#[test]
fn a_subscription_request_is_judged_member_by_member() {
    let good = json!({
        "callbackUrl": "https://partner.example/in", "apiKey": "key", "eventTypes": ["RedirectSessionCancelled"],
        "somethingNew": true,
    });
    let whole = "/components/schemas/SubscriptionRequest";
    let part = "/components/schemas/SubscriptionPatch";
    let document = Document::load();
    document.validate(whole, &good).expect("a good request, its unknown member ignored");
    for (member, value) in [
        ("callbackUrl", json!("partner.example/in")),
        ("callbackUrl", json!("ftp://partner.example/in")),
        ("callbackUrl", json!("https://user@partner.example/in")),
        ("callbackUrl", json!("https://partner.example/in#here")),
        ("callbackUrl", json!("https://partner.example/in out")),
        ("callbackUrl", json!("https://partner.example/in\\out")),
        ("callbackUrl", json!("https://partner.example\t/in")),
        ("callbackUrl", json!("")),
        ("callbackUrl", json!(format!("https://partner.example/{}", "x".repeat(2048)))),
        ("callbackUrl", Value::Null),
        ("apiKey", json!("a key")),
        ("apiKey", json!(1)),
        ("eventTypes", json!([])),
        ("eventTypes", json!("RedirectSessionCancelled")),
        ("eventTypes", json!(["RedirectSessionCompleted"])),
        ("eventTypes", json!(["RedirectSessionCancelled", "RedirectSessionCancelled"])),
        ("eventTypes", Value::Null),
    ] {
        let mut bad = good.clone();
        bad[member] = value.clone();
        assert!(document.validate(whole, &bad).is_err(), "{member}: {value}");
        assert!(document.validate(part, &json!({ member: value })).is_err(), "{member}: {value}");
        assert!(document.validate(part, &json!({ member: good[member] })).is_ok(), "{member}");
    }
    for url in
        ["http://127.0.0.1:9000", "https://[2001:db8::1]:8443/in", "HTTPS://partner.example/@us?to=%2Fin&a=b"]
    {
        assert_eq!(document.validate(part, &json!({ "callbackUrl": url })), Ok(()), "{url}");
    }
    for url in [
        "https://b\u{fc}cher.example/\u{e9}?q=\u{fc}",
        "https://partner.example/{order}/[1]|\"a\"^`<b>",
        "https://partner.example/50%?x[]=%zz",
        "https://partner%2Eexample:8443?a@b",
    ] {
        assert!(CallbackUrl::parse(url, &EgressPolicy::production()).is_ok(), "{url}");
        assert_eq!(document.validate(part, &json!({ "callbackUrl": url })), Ok(()), "{url}");
    }
    assert!(document.validate(part, &json!({})).is_err());
    assert!(document.validate(part, &json!({ "somethingNew": true })).is_err());
}

#[test]
fn a_session_request_is_judged_by_its_type() {
    let urls = json!({
        "successUrl": "https://partner.example/s", "failureUrl": "https://partner.example/f",
        "abortUrl": "https://partner.example/a", "qrCodeSuccessUrl": "https://partner.example/q",
    });
    let pay = |extra: Value| {
        let mut data = json!({ "currency": "EUR", "amount": 50 });
        data.as_object_mut()
            .expect("it is an object")
            .extend(extra.as_object().expect("it is an object").clone());
        json!({ "type": "NewTransactionIntent", "transactionData": data, "redirectData": urls })
    };
    let id = "08a29f86-0dbc-4ceb-a4eb-f202561cb53e";
    let accepted = [
        json!({ "type": "NewCustomer", "redirectData": urls }),
        json!({ "type": "NewCustomer", "redirectData": urls, "locale": "en", "customerId": id }),
        json!({ "type": "ExistingTransactionIntent", "transactionIntentId": id, "redirectData": urls }),
        pay(json!({ "direction": "CustomerToMerchant" })),
        pay(json!({ "type": "PassthroughDeposit", "amount": 10000, "externalReference": "order-1" })),
    ];
    let refused = [
        json!({ "redirectData": urls }),
        json!({ "type": "Other", "redirectData": urls }),
        json!({ "type": "NewCustomer" }),
        json!({ "type": "NewCustomer", "redirectData": { "successUrl": "https://partner.example/s" } }),
        json!({ "type": "NewCustomer", "redirectData": urls, "locale": "deutsch" }),
        json!({ "type": "NewCustomer", "redirectData": urls, "customerId": "37257cd4" }),
        json!({ "type": "ExistingTransactionIntent", "redirectData": urls }),
        pay(json!({})),
        pay(json!({ "direction": "CustomerToMerchant", "type": "PassthroughDeposit" })),
        pay(json!({ "direction": "Sideways" })),
        pay(json!({ "direction": "CustomerToMerchant", "amount": 0 })),
        pay(json!({ "direction": "CustomerToMerchant", "amount": 10000.01 })),
        pay(json!({ "direction": "CustomerToMerchant", "amount": "50" })),
        pay(json!({ "direction": "CustomerToMerchant", "currency": "euro" })),
    ];
    let document = Document::load();
    let schema = "/components/schemas/RedirectSessionRequest";
    for session in accepted {
        assert_eq!(document.validate(schema, &session), Ok(()), "{session}");
    }
    for session in refused {
        assert!(document.validate(schema, &session).is_err(), "{session}");
    }
}

#[test]
fn the_published_callback_is_valid_and_others_are_not() {
    let document = Document::load();
    let is_it = |pointer: &str| {
        document.at(pointer).is_some_and(|it| it["operationId"] == "receiveRedirectSessionEvent")
    };
    let callback = document.callbacks().into_iter().find(|callback| is_it(&callback.pointer));
    let callback = callback.expect("there is that callback");
    let good = json!({
        "specversion": "1.0", "id": "92fb87e5-4b0c-4070-8c20-a258d82125e4",
        "source": "/customer-authentication-service", "time": "2019-01-31T11:59:59Z",
        "datacontenttype": "application/json", "type": "RedirectSessionCancelled",
        "data": {
            "id": "1516f8a1-f877-46e2-9784-8a1d7673fcb0", "state": "Cancelled", "type": "NewTransactionIntent",
            "createdOn": "2019-01-31T11:09:24Z", "lastModifiedOn": "2019-01-31T11:59:59Z",
        },
    });
    assert_eq!(document.validate_callback(&callback, &good), Ok(()));
    for (pointer, value) in [
        ("/specversion", json!(1)),
        ("/time", json!("2019-01-31T11:59:59.000Z")),
        ("/time", json!("2019-01-31T12:59:59+01:00")),
        ("/type", json!("RedirectSessionCompleted")),
        ("/data/state", json!("Active")),
        ("/data/id", json!("1516f8a1")),
        ("/data", json!({})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("it is there") = value.clone();
        assert!(document.validate_callback(&callback, &bad).is_err(), "{pointer}: {value}");
    }
}

#[test]
fn the_document_prints_the_currencies_that_the_server_takes() {
    let document = Document::load();
    let printed =
        &document.root()["components"]["schemas"]["TransactionData"]["properties"]["currency"]["enum"];
    assert_eq!(printed, &json!(herald::domain::currency::CODES.as_slice()));
}
