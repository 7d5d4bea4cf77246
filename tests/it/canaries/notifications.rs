//! The surface whose callbacks have user names and passwords, and whose keys are traded for tokens: a story of it for the search.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Haystack, QUERY_PASSWORD, WRONG_KEY, asked};
use crate::support::partner::{Partner, text};
use crate::support::receiver::{Receiver, Reply};

const PASSWORD: &str = "canary-basic-password-0010";
const PASSWORD_LATER: &str = "canary-basic-password-0011";
const REFUSED_PASSWORD: &str = "canary-basic-password-0012";
const CALLBACKS: &str = "/rest/api/v1.3/notifications/callbacks";
const SUBSCRIPTIONS: &str = "/rest/api/v1.3/notifications/subscriptions";
const TOKEN: &str = "/rest/api/v1.3/auth/token";

fn authentication(password: &str) -> Value {
    json!({ "type": "B", "data": { "userName": "someone", "password": password } })
}

/// A token from an answer that may hold it.
async fn token(request: RequestBuilder) -> String {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    text(&answer.json::<Value>().await.unwrap()["authToken"])
}

/// Tells the story, and returns its secrets.
pub async fn story(
    haystack: &mut Haystack,
    partner: &Partner,
    operator: &Partner,
    partner_id: &str,
) -> Vec<String> {
    let mut secrets: Vec<String> = [PASSWORD, PASSWORD_LATER, REFUSED_PASSWORD].map(str::to_owned).into();
    // As they go over the wire, and as they are sealed.
    secrets.extend([PASSWORD, PASSWORD_LATER].map(|password| format!("someone:{password}")));
    secrets.extend([PASSWORD, PASSWORD_LATER].map(|password| STANDARD.encode(format!("someone:{password}"))));
    let receiver = Receiver::start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let form = |password: &str| {
        let form = format!("user_name={partner_id}&password={password}&auth_type=password");
        let request = client.post(format!("{}{TOKEN}", partner.base)).body(form);
        request.header("content-type", "application/x-www-form-urlencoded")
    };

    // Tokens: by form and by query, refreshed, used, and refused.
    let first = token(form(&partner.key)).await;
    let query = format!("{TOKEN}?user_name={partner_id}&password={}&auth_type=password", partner.key);
    let second = token(client.post(format!("{}{query}", partner.base))).await;
    let refresh = client.post(format!("{}{TOKEN}?auth_type=token", partner.base));
    let third = token(refresh.header("authorization", &second)).await;
    assert_eq!(asked(haystack, "a wrong login", form(WRONG_KEY)).await.0, 400);
    let query = format!("{TOKEN}?user_name={partner_id}&password={QUERY_PASSWORD}&auth_type=password");
    let wrong = client.post(format!("{}{query}", partner.base));
    assert_eq!(asked(haystack, "a wrong login by query", wrong).await.0, 400);
    for token in [&first, &third] {
        let listing = client.get(format!("{}{CALLBACKS}", partner.base)).header("authorization", token);
        assert_eq!(asked(haystack, "a token in use", listing).await.0, 200);
    }
    secrets.extend([first, second, third]);

    // Callbacks that are refused, with the password wherever one may stand.
    let callback = |authentication: Value| json!({ "name": "canary", "url": receiver.url, "batchSize": 1, "authentication": authentication });
    let whole = callback(authentication(REFUSED_PASSWORD)).to_string();
    for body in [
        callback(json!(REFUSED_PASSWORD)).to_string(),
        callback(json!([REFUSED_PASSWORD])).to_string(),
        callback(json!({ "type": REFUSED_PASSWORD, "data": {} })).to_string(),
        callback(json!({ "type": "B", "data": REFUSED_PASSWORD })).to_string(),
        callback(json!({ "type": "B", "data": { "userName": 1, "password": [REFUSED_PASSWORD] } }))
            .to_string(),
        callback(authentication(&format!("{REFUSED_PASSWORD}\n"))).to_string(),
        whole.replace("\"batchSize\":1", "\"batchSize\":0"),
        whole.replace(&format!("\"{REFUSED_PASSWORD}\""), &format!("\"{REFUSED_PASSWORD}\\ud800\"")),
        whole[..whole.len() - 3].to_owned(),
    ] {
        let request = partner.request(Method::POST, CALLBACKS).header("content-type", "application/json");
        let (status, answer) = asked(haystack, &body, request.body(body.clone())).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }

    // One that is made, changed, read and tried out.
    let made = partner.request(Method::POST, CALLBACKS).json(&callback(authentication(PASSWORD)));
    assert_eq!(asked(haystack, "making a callback", made).await.0, 200);
    let place = format!("{CALLBACKS}/canary");
    let change = json!({ "batchSize": 1, "authentication": authentication(PASSWORD_LATER) });
    let changed = partner.request(Method::PUT, &place).json(&change);
    assert_eq!(asked(haystack, "changing a callback", changed).await.0, 200);
    let named = json!({ "name": "canary", "callBackName": "canary", "eventTypes": ["EMAIL_BOUNCED"] });
    let made = partner.request(Method::POST, SUBSCRIPTIONS).json(&named);
    assert_eq!(asked(haystack, "making a subscription", made).await.0, 200);
    for path in [&place, CALLBACKS, SUBSCRIPTIONS, &format!("{place}/subscriptions")] {
        assert_eq!(asked(haystack, path, partner.request(Method::GET, path)).await.0, 200, "{path}");
    }

    // A receiver that says back what it was sent: to a verification, and to a delivery.
    let basic = STANDARD.encode(format!("someone:{PASSWORD_LATER}"));
    let echo = format!("you sent Basic {basic}, which is someone:{PASSWORD_LATER}").into_bytes();
    receiver.reply([Reply::Body(500, echo.clone()), Reply::Body(500, echo)]);
    let verify = partner.request(Method::GET, &format!("{place}/actions/verify"));
    assert_eq!(asked(haystack, "verifying", verify).await.0, 400);
    let event = json!({ "type": "EMAIL_BOUNCED", "data": {}, "partnerId": partner_id });
    let published = operator.request(Method::POST, "/events").json(&event);
    let (status, event) = asked(haystack, "publishing", published).await;
    assert_eq!(status, 202, "{event}");
    let calls = receiver.wait_for(2).await;
    assert_eq!(calls[1].header("authorization"), format!("Basic {basic}"), "the receiver had it to say back");
    let delivery = partner.delivery_of(&text(&event["id"])).await;
    let told = partner.wait_for_attempts(&delivery, 1).await;
    assert!(told["attempts"][0]["responseBody"].as_str().unwrap().contains("[masked]"), "{told}");
    haystack.add("a delivery that was said back", told.to_string());
    secrets
}
