//! Where members may come from, and how keys may be presented.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

#[tokio::test]
async fn the_query_wins_over_the_path_and_the_path_over_the_body() {
    let world = world().await;
    let partner = &*world.app;
    let ids = subscribe(partner, ANY_URL, &["order_a", "order_b", "order_c"]).await;
    let event = |reply: Reply| text(&reply.json()["subscription"]["event"]);
    let change = |id: &str| json!({ "id": id, "currentSecret": SECRET });
    let path = at("/sync", &format!("/{}/update", ids[1]));
    assert_eq!(event(post(partner, &path, change(&ids[0])).await), "order_b", "path over body");
    let with_query = format!("{path}?ID={}", ids[2]);
    assert_eq!(event(post(partner, &with_query, change(&ids[0])).await), "order_c", "query over both");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("id={}&currentSecret={SECRET}", ids[0]);
    assert_eq!(event(send(partner, "POST", &path, &form, body.clone()).await), "order_b", "path over form");
    let by_name = "/api/UpdateWebhookSubscription";
    assert_eq!(event(send(partner, "POST", by_name, &form, body).await), "order_a", "the form alone");
    let all_in_query = format!("{by_name}?id={}&currentSecret={SECRET}&isActive=f", ids[0]);
    let changed = send(partner, "POST", &all_in_query, &[], "").await;
    assert_eq!(changed.json()["subscription"]["isActive"], false, "no body at all");
    let wrong = format!("{by_name}?currentSecret=wrong");
    assert_eq!(post(partner, &wrong, change(&ids[0])).await.code(), failed(403, "Forbidden"));
}

#[tokio::test]
async fn every_type_of_body_creates_the_same() {
    let world = world().await;
    let partner = &*world.app;
    let xml = format!(
        "<CreateWebhookSubscriptions xmlns=\"http://schemas.datacontract.org/2004/07/PwC.Elmaas.Core.Services.Contracts.Webhooks.Requests\">\
         <Events xmlns:d2p1=\"http://schemas.microsoft.com/2003/10/Serialization/Arrays\"><d2p1:string>NAME</d2p1:string></Events>\
         <Secret>{SECRET}</Secret><Url>{ANY_URL}</Url></CreateWebhookSubscriptions>"
    );
    for (content_type, body) in [
        ("application/json", format!(r#"{{"EVENTS":["NAME"],"Url":"{ANY_URL}","secret":"{SECRET}"}}"#)),
        (
            "application/json; charset=utf-8",
            format!(r#"{{"events":["NAME"],"url":"{ANY_URL}","secret":"{SECRET}"}}"#),
        ),
        ("text/jsv", format!("{{events:[NAME],url:{ANY_URL},secret:{SECRET}}}")),
        (
            "application/jsv",
            format!("{{\n  events: [\n    NAME\n  ],\n  url: \"{ANY_URL}\",\n  secret: {SECRET}\n}}\n"),
        ),
        ("application/x-www-form-urlencoded", format!("events=NAME&url={ANY_URL}&secret={SECRET}")),
        ("application/x-www-form-urlencoded", format!("events=%5BNAME%5D&Url={ANY_URL}&Secret={SECRET}")),
        (
            "multipart/form-data; boundary=b",
            [("Events", "[NAME]"), ("Url", ANY_URL), ("Secret", SECRET)]
                .map(|(name, text)| {
                    format!("--b\r\nContent-Disposition: form-data; name={name}\r\n\r\n{text}\r\n")
                })
                .concat()
                + "--b--\r\n",
        ),
        ("application/xml", xml.clone()),
        ("text/xml; charset=utf-8", format!("<?xml version=\"1.0\"?>{xml}")),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (content_type, body))| (content_type, body.replace("NAME", &format!("event_{index}"))))
    {
        let path = at("/async", "/create");
        let made = send(partner, "POST", &path, &[("content-type", content_type)], body.clone()).await;
        assert_eq!(made.status, 200, "{body}: {made:?}");
        assert_eq!(made.json()[0]["subscription"]["config"]["url"], ANY_URL);
    }
    assert_eq!(get(partner, &at("/sync", "")).await.json().as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn rule_15_a_body_that_cannot_be_read_is_a_400_that_says_where() {
    let world = world().await;
    let partner = &*world.app;
    let deep = format!("{{\"secret\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let deep_jsv = format!("{{secret:{}", "[".repeat(50_000));
    for (content_type, body, field) in [
        ("application/json", "{", "body"),
        ("application/json", "[]", "body"),
        ("application/json", r#"{"secret":"a","secret":"a"}"#, "secret"),
        ("application/json", r#"{"secret":"a","Secret":"a"}"#, "Secret"),
        ("application/json", r#"{"secret":"\ud800"}"#, "secret"),
        ("application/json", r#"{"secret":"\u0000"}"#, "secret"),
        ("application/json", r#"{"secret":1e400}"#, "secret"),
        ("application/json", deep.as_str(), "secret"),
        ("text/jsv", "{secret:", "body"),
        ("text/jsv", "{secret:{a:b}}", "secret"),
        ("text/jsv", deep_jsv.as_str(), "body"),
        ("application/xml", "<!DOCTYPE a [<!ENTITY b \"c\">]><a><secret>&b;</secret></a>", "body"),
        ("application/xml", "<a><secret>b</a>", "body"),
        ("application/x-www-form-urlencoded", "secret=a&secret=b", "secret"),
    ] {
        let path = at("/sync", &format!("/{NO_ID}/delete"));
        let refused = send(partner, "POST", &path, &[("content-type", content_type)], body.to_owned()).await;
        let fields: Vec<String> = refused.wrong_fields().into_iter().filter(|name| name == field).collect();
        assert_eq!(fields, [field], "{}: {refused:?}", &body[..body.len().min(60)]);
    }
}

#[tokio::test]
async fn every_published_way_to_present_the_key_works_and_no_other() {
    let world = world().await;
    let key = world.app.key.clone();
    let nameless = Partner::new(&world.app.base, "");
    let ask = async |name: &str, value: &str| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{}{}", nameless.base, at("/sync", ""))).header(name, value);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("www-authenticate"))
    };
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    assert_eq!(ask("authorization", &format!("Bearer {key}")).await, (200, false));
    assert_eq!(ask("authorization", &basic(&format!("{key}:"))).await, (200, false));
    assert_eq!(ask("x-api-key", &key).await, (200, false));
    for (name, value) in [
        ("accept", "application/json".to_owned()),
        ("authorization", "Bearer wrong".to_owned()),
        ("authorization", basic(&format!("{key}:password"))),
        ("x-api-key", "wrong".to_owned()),
    ] {
        assert_eq!(ask(name, &value).await, (401, true), "{name}");
    }
}
