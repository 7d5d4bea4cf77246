//! What a session may be asked for with, and that the same wish is always stored as the same bytes.

use serde_json::{Value, json};

use super::*;

const SOME_ID: &str = "d80d9e26-ffa0-43f2-8c2b-c96513cc9351";

fn redirect_data() -> Value {
    json!({
        "successUrl": "https://shop.example/success", "failureUrl": "https://shop.example/failure",
        "abortUrl": "shop-app://abort", "qrCodeSuccessUrl": "https://shop.example/qr",
    })
}

fn wrong_fields(body: &Value) -> Vec<String> {
    match open(&Asked::example(SOME_ID, &body.to_string())) {
        Ok(_) => Vec::new(),
        Err(Error::Invalid(violations)) => violations.iter().map(|one| one.field.clone()).collect(),
        Err(error) => panic!("{error}"),
    }
}

fn stored(body: &str) -> String {
    String::from_utf8(open(&Asked::example(SOME_ID, body)).unwrap().content).unwrap()
}

#[tokio::test]
async fn every_type_of_session_says_what_it_misses() {
    let intent = |data: Value| json!({ "type": "NewTransactionIntent", "transactionData": data, "redirectData": redirect_data() });
    let money = |currency: Value, amount: Value| json!({ "currency": currency, "amount": amount, "direction": "CustomerToMerchant" });
    for (body, wrong) in [
        (json!({ "type": "NewCustomer", "redirectData": redirect_data() }), &[][..]),
        (
            json!({ "type": "NewCustomer", "redirectData": redirect_data(), "locale": "en", "customerId": SOME_ID }),
            &[],
        ),
        (
            json!({ "type": "ExistingTransactionIntent", "transactionIntentId": SOME_ID, "redirectData": redirect_data() }),
            &[],
        ),
        (intent(money(json!("EUR"), json!(10000))), &[]),
        (
            intent(
                json!({ "currency": "EUR", "amount": 0.01, "type": "PassthroughDeposit", "externalReference": "o-1" }),
            ),
            &[],
        ),
        (json!({}), &["type", "redirectData"]),
        (
            json!({ "type": "newCustomer", "locale": "english", "customerId": "1" }),
            &["type", "customerId", "redirectData", "locale"],
        ),
        (json!({ "type": "NewTransactionIntent", "redirectData": redirect_data() }), &["transactionData"]),
        (
            json!({ "type": "ExistingTransactionIntent", "redirectData": {} }),
            &[
                "transactionIntentId",
                "redirectData.successUrl",
                "redirectData.failureUrl",
                "redirectData.abortUrl",
                "redirectData.qrCodeSuccessUrl",
            ],
        ),
        (json!({ "type": "NewCustomer", "redirectData": [] }), &["redirectData"]),
        (intent(json!(null)), &["transactionData"]),
        (
            intent(json!({})),
            &["transactionData.currency", "transactionData.amount", "transactionData.direction"],
        ),
        (intent(money(json!("eur"), json!(0))), &["transactionData.currency", "transactionData.amount"]),
        (
            intent(money(json!("XXX"), json!(10000.01))),
            &["transactionData.currency", "transactionData.amount"],
        ),
        (intent(money(json!(978), json!("50"))), &["transactionData.currency", "transactionData.amount"]),
        (
            intent(
                json!({ "currency": "EUR", "amount": 1, "direction": "CustomerToMerchant", "type": "PassthroughDeposit" }),
            ),
            &["transactionData.direction"],
        ),
        (
            intent(
                json!({ "currency": "EUR", "amount": 1, "direction": "Sideways", "externalReference": "\n" }),
            ),
            &["transactionData.direction", "transactionData.externalReference"],
        ),
    ] {
        assert_eq!(wrong_fields(&body), wrong, "{body}");
    }
}

#[tokio::test]
async fn the_same_wish_is_stored_as_the_same_bytes() {
    let redirect = redirect_data().to_string();
    let plain = stored(&format!(
        r#"{{"type":"NewTransactionIntent","transactionData":{{"currency":"EUR","amount":50,"direction":"CustomerToMerchant"}},"redirectData":{redirect}}}"#
    ));
    let otherwise = stored(&format!(
        r#" {{ "locale":"de-DE", "unknown":[1], "redirectData":{redirect},
             "transactionData":{{"direction":"CustomerToMerchant","amount":5.0e1,"currency":"\u0045UR"}},"type":"NewTransactionIntent"}}"#
    ));
    assert_eq!(plain, otherwise);
    assert!(
        plain.starts_with(
            r#"{"type":"NewTransactionIntent","transactionData":{"currency":"EUR","amount":50,"#
        ),
        "{plain}"
    );
    let dearer = plain.replace("\"amount\":50", "\"amount\":50.5");
    assert_eq!(stored(&dearer), dearer, "what is stored is itself a request for it");
}

#[tokio::test]
async fn a_cancel_needs_no_body_and_takes_any_object() {
    for body in ["", "{}", " {\"reason\":1} "] {
        assert!(cancel(&Asked::example(SOME_ID, body)).is_ok(), "{body}");
    }
    for body in ["[]", "null", "{", " ", "x"] {
        assert!(cancel(&Asked::example(SOME_ID, body)).is_err(), "{body}");
    }
    assert!(cancel(&Asked::example("42", "")).is_err());
}
