//! What is read into commands, and the published answer to the letter in every format.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use chrono::{NaiveDate, NaiveTime};

use super::*;
use crate::domain::id::{AttemptId, CallbackId, EventId, PartnerId, SubscriptionId};
use crate::domain::subscription::Subscription;
use crate::domain::surface::Surface;
use crate::domain::version::Version;
use crate::domain::webhook::Webhook;
use crate::surfaces::webhooks::format::Format;

const ANY: Contract = contract("Any", "");
const SOME_ID: &str = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";

fn bound(content_type: &str, body: &str) -> Input {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE_HEADER, content_type.parse().unwrap());
    let mut input = Input::default();
    input.bind_body(&headers, body.as_bytes()).unwrap();
    input
}

fn json(body: &str) -> Input {
    bound("application/json", body)
}

fn complaints<T>(result: Result<T, Error>) -> Vec<(String, String)> {
    match result {
        Ok(_) => Vec::new(),
        Err(Error::Invalid(violations)) => {
            violations.iter().map(|one| (one.field.clone(), one.message.clone())).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

fn wrong_fields<T>(result: Result<T, Error>) -> Vec<String> {
    complaints(result).into_iter().map(|(field, _)| field).collect()
}

#[test]
fn the_published_sample_request_parses() {
    let mut input = bound("text/jsv", "{\nid: String,\nsecret: String\n}");
    assert_eq!(input.text("Id").as_deref(), Some("String"));
    assert_eq!(input.text("Secret").as_deref(), Some("String"));
    assert!(input.violations.is_empty());
    let real = format!("{{\nid: {SOME_ID},\nsecret: c2VjcmV0\n}}");
    let command = delete(bound("text/jsv", &real)).unwrap();
    assert_eq!(command.id.to_string(), SOME_ID);
    assert_eq!(command.secret, Secret::new("c2VjcmV0"));
}

/// The published sample answer, every member of it, without the white space of its printing.
#[test]
fn the_published_sample_answer_is_written_to_the_letter() {
    let text = || Value::text("String");
    let day = NaiveDate::from_ymd_opt(1, 1, 1).unwrap().and_time(NaiveTime::MIN);
    let date = || Value::Date(day.and_utc());
    let meta = || Value::object(&ANY, [("String", text())]);
    let config = Value::object(&ANY, [("url", text()), ("contentType", text()), ("secret", text())]);
    let subscription = Value::object(
        &ANY,
        [
            ("id", text()),
            ("name", text()),
            ("event", text()),
            ("isActive", Value::Bool(false)),
            ("createdDateUtc", date()),
            ("createdById", text()),
            ("lastModifiedDateUtc", date()),
            ("config", config),
        ],
    );
    let result = Value::object(
        &ANY,
        [
            ("attemptedDateUtc", date()),
            ("statusDescription", text()),
            ("statusCode", Value::text(status::name(100).unwrap())),
            ("subscriptionId", text()),
            ("id", text()),
            ("eventId", text()),
        ],
    );
    let error = Value::object(
        &ANY,
        [("errorCode", text()), ("fieldName", text()), ("message", text()), ("meta", meta())],
    );
    let status = Value::object(
        &ANY,
        [
            ("errorCode", text()),
            ("message", text()),
            ("stackTrace", text()),
            ("errors", Value::List(&ANY, vec![error])),
            ("meta", meta()),
        ],
    );
    let answer = Value::object(
        &ANY,
        [
            ("subscription", subscription),
            ("history", Value::List(&ANY, vec![result])),
            ("responseStatus", status),
        ],
    );
    let published = "{ subscription: { id: String, name: String, event: String, isActive: False, createdDateUtc: 0001-01-01, \
         createdById: String, lastModifiedDateUtc: 0001-01-01, config: { url: String, contentType: String, secret: String } }, \
         history: [ { attemptedDateUtc: 0001-01-01, statusDescription: String, statusCode: Continue, subscriptionId: String, \
         id: String, eventId: String } ], responseStatus: { errorCode: String, message: String, stackTrace: String, errors: \
         [ { errorCode: String, fieldName: String, message: String, meta: { String: String } } ], meta: { String: String } } }";
    assert_eq!(Format::Jsv.write(&answer), published.replace(' ', ""));
}

fn shown(history: Vec<Tried>) -> Shown {
    let at = DateTime::from_timestamp(1_548_935_999, 987_654_321).unwrap();
    let subscription = Subscription {
        id: SubscriptionId(Uuid::from_u128(1)),
        partner: PartnerId(Uuid::from_u128(2)),
        surface: Surface::Webhooks,
        external_key: SOME_ID.to_owned(),
        callback: CallbackId(Uuid::from_u128(3)),
        callback_url: "https://partner.example/in".to_owned(),
        event_types: vec!["order_paid".to_owned()],
        state: SubscriptionState::Active,
        state_reason: None,
        version: Version(1),
        created_at: at,
        updated_at: DateTime::from_timestamp(1_548_892_800, 5).unwrap(),
    };
    let webhook = Webhook { subscription, name: Some("Orders, paid".to_owned()), recipient: None };
    Shown { webhook, secret: Some(b"ciphertext".to_vec()), history }
}

fn tried(outcome: Outcome, status: Option<u16>) -> Tried {
    Tried {
        id: AttemptId(Uuid::from_u128(4)),
        event: EventId(Uuid::from_u128(5)),
        attempted_at: DateTime::from_timestamp(1_548_935_999, 123_999_999).unwrap(),
        outcome,
        status,
    }
}

#[test]
fn a_subscription_in_every_format() {
    let shown = shown(vec![tried(Outcome::Delivered, Some(204))]);
    let (two, four) = (Uuid::from_u128(2), Uuid::from_u128(4));
    let five = Uuid::from_u128(5);
    assert_eq!(
        Format::Jsv.write(&one(&shown)),
        format!(
            "{{subscription:{{id:{SOME_ID},name:\"Orders, paid\",event:order_paid,isActive:True,\
             createdDateUtc:2019-01-31T11:59:59Z,createdById:{two},lastModifiedDateUtc:2019-01-31,\
             config:{{url:\"https://partner.example/in\",contentType:application/json,secret:Y2lwaGVydGV4dA==}}}},\
             history:[{{attemptedDateUtc:2019-01-31T11:59:59.1230000Z,statusDescription:No Content,statusCode:NoContent,\
             subscriptionId:{SOME_ID},id:{four},eventId:{five}}}]}}"
        )
    );
    assert_eq!(
        Format::Json.write(&one(&shown)),
        format!(
            "{{\"subscription\":{{\"id\":\"{SOME_ID}\",\"name\":\"Orders, paid\",\"event\":\"order_paid\",\"isActive\":true,\
             \"createdDateUtc\":\"\\/Date(1548935999000)\\/\",\"createdById\":\"{two}\",\
             \"lastModifiedDateUtc\":\"\\/Date(1548892800000)\\/\",\"config\":{{\"url\":\"https://partner.example/in\",\
             \"contentType\":\"application/json\",\"secret\":\"Y2lwaGVydGV4dA==\"}}}},\"history\":[{{\
             \"attemptedDateUtc\":\"\\/Date(1548935999123)\\/\",\"statusDescription\":\"No Content\",\
             \"statusCode\":\"NoContent\",\"subscriptionId\":\"{SOME_ID}\",\"id\":\"{four}\",\"eventId\":\"{five}\"}}]}}"
        )
    );
    assert_eq!(
        Format::Xml.write(&all(&[shown])),
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><ArrayOfSubscriptionResponse \
             xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns=\"{RESPONSES}\"><SubscriptionResponse>\
             <History xmlns:d3p1=\"{TYPES}\"><d3p1:SubscriptionDeliveryResult>\
             <d3p1:AttemptedDateUtc>2019-01-31T11:59:59.123Z</d3p1:AttemptedDateUtc><d3p1:EventId>{five}</d3p1:EventId>\
             <d3p1:Id>{four}</d3p1:Id><d3p1:StatusCode>NoContent</d3p1:StatusCode>\
             <d3p1:StatusDescription>No Content</d3p1:StatusDescription>\
             <d3p1:SubscriptionId>{SOME_ID}</d3p1:SubscriptionId></d3p1:SubscriptionDeliveryResult></History>\
             <Subscription xmlns:d3p1=\"{TYPES}\"><d3p1:Config><d3p1:ContentType>application/json</d3p1:ContentType>\
             <d3p1:Secret>Y2lwaGVydGV4dA==</d3p1:Secret><d3p1:Url>https://partner.example/in</d3p1:Url></d3p1:Config>\
             <d3p1:CreatedById>{two}</d3p1:CreatedById><d3p1:CreatedDateUtc>2019-01-31T11:59:59Z</d3p1:CreatedDateUtc>\
             <d3p1:Event>order_paid</d3p1:Event><d3p1:Id>{SOME_ID}</d3p1:Id><d3p1:IsActive>true</d3p1:IsActive>\
             <d3p1:LastModifiedDateUtc>2019-01-31T00:00:00Z</d3p1:LastModifiedDateUtc><d3p1:Name>Orders, paid</d3p1:Name>\
             </Subscription></SubscriptionResponse></ArrayOfSubscriptionResponse>"
        )
    );
}

#[test]
fn history_has_dotnets_names_and_service_unavailable_where_nobody_answered() {
    for (outcome, status, expected) in [
        (Outcome::Delivered, Some(200), "statusDescription:OK,statusCode:OK,"),
        (Outcome::Refused, Some(404), "statusDescription:Not Found,statusCode:NotFound,"),
        (Outcome::Refused, Some(302), "statusDescription:Found,statusCode:Found,"),
        (Outcome::Refused, Some(418), "statusDescription:I'm a teapot,statusCode:418,"),
        (Outcome::Refused, Some(999), "statusDescription:\"\",statusCode:999,"),
        (
            Outcome::TimedOut,
            None,
            "statusDescription:The callback did not answer in time,statusCode:ServiceUnavailable,",
        ),
        (
            Outcome::Unreachable,
            Some(200),
            "statusDescription:The callback could not be reached,statusCode:ServiceUnavailable,",
        ),
        (
            Outcome::Blocked,
            None,
            "statusDescription:The callback could not be reached,statusCode:ServiceUnavailable,",
        ),
    ] {
        let written = Format::Jsv.write(&result(SOME_ID, &tried(outcome, status)));
        assert!(written.contains(expected), "{written}");
    }
}

#[test]
fn what_is_not_there_is_left_out_and_a_pause_shows() {
    let mut shown = shown(vec![]);
    shown.secret = None;
    shown.webhook.name = None;
    shown.webhook.subscription.state = SubscriptionState::Disabled;
    let written = Format::Jsv.write(&one(&shown));
    assert!(written.ends_with("contentType:application/json}},history:[]}"), "{written}");
    assert!(!written.contains("name:") && written.contains("isActive:False"), "{written}");
}

/// A modulus as far as its size can be told.
fn public_key_xml(bytes: usize) -> String {
    let modulus = STANDARD.encode([&[0x81][..], &vec![0xa5; bytes - 1]].concat());
    format!("<RSAKeyValue><Modulus>{modulus}</Modulus><Exponent>AQAB</Exponent></RSAKeyValue>")
}

#[test]
fn a_create_names_every_wrong_field_at_once() {
    let policy = EgressPolicy::production();
    let good = [
        ("events", r#"["order_paid","order_sent"]"#.to_owned()),
        ("url", r#""https://partner.example/in""#.to_owned()),
        ("secret", r#""c2VjcmV0""#.to_owned()),
    ];
    let with = |changes: &[(&str, &str)]| {
        let mut members: Vec<(String, String)> =
            good.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        for (name, value) in changes {
            members.retain(|(known, _)| known != name);
            if !value.is_empty() {
                members.push(((*name).to_owned(), (*value).to_owned()));
            }
        }
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        json(&format!("{{{}}}", members.join(",")))
    };
    let key = format!("\"{}\"", public_key_xml(256));
    let small = format!("\"{}\"", public_key_xml(128));
    let long = format!("\"{}\"", "QUJD".repeat(48));
    let fitting = format!("\"{}\"", "QUJD".repeat(47));
    for (changes, wrong) in [
        (&[][..], &[][..]),
        (
            &[
                ("name", "\"Orders\""),
                ("contentType", "\"Application/JSON\""),
                ("accountId", "\"0123456789\""),
            ],
            &[],
        ),
        (&[("authSteuernummer", "\"AB123456789\""), ("more", "{}")], &[]),
        (&[("name", "\"\""), ("contentType", "null")], &[]),
        (&[("publicKeyXml", &key), ("secret", &fitting)], &[]),
        (&[("publicKeyXml", &key), ("secret", &long)], &["secret"]),
        (&[("publicKeyXml", &small)], &["publicKeyXml"]),
        (&[("publicKeyXml", "\"<!DOCTYPE a><a/>\"")], &["publicKeyXml"]),
        (&[("publicKeyXml", "{}")], &["publicKeyXml"]),
        (&[("events", ""), ("url", ""), ("secret", "")], &["events", "url", "secret"]),
        (&[("events", "[]")], &["events"]),
        (&[("events", "[\"order_paid\",\"abc\"]")], &["events"]),
        (&[("events", "[\"order.paid\"]")], &["events"]),
        (&[("events", "[7]")], &["events"]),
        (&[("events", "\"order_paid\"")], &["events"]),
        (&[("url", "\"http://partner.example/\"")], &["url"]),
        (&[("url", "\"https://10.0.0.1/\"")], &["url"]),
        (&[("url", "7")], &["url"]),
        (&[("secret", "\"short\"")], &["secret"]),
        (&[("secret", "\"not-base64!!\"")], &["secret"]),
        (
            &[("name", "\"a\\nb\""), ("contentType", "\"text/plain\""), ("accountId", "[]")],
            &["name", "contentType", "accountId"],
        ),
    ] {
        assert_eq!(wrong_fields(create(with(changes), &policy)), wrong, "{changes:?}");
    }
    let made = create(with(&[]), &policy).unwrap();
    assert_eq!(made.events.iter().map(EventName::as_str).collect::<Vec<_>>(), ["order_paid", "order_sent"]);
    let none = complaints(create(json("{}"), &policy));
    assert_eq!(none[1], ("url".to_owned(), BAD_URL.to_owned()));
    assert_eq!(none[2], ("secret".to_owned(), BAD_SECRET.to_owned()));
}

#[test]
fn an_update_needs_the_current_secret_and_nothing_else() {
    let policy = EgressPolicy::production();
    let wrong = |body: &str| wrong_fields(update(json(body), &policy));
    let start = format!(r#"{{"id":"{SOME_ID}","currentSecret":"whatever it is""#);
    assert_eq!(wrong(&format!("{start}}}")), [""; 0]);
    assert_eq!(wrong("{}"), ["id", "currentSecret"]);
    assert_eq!(
        wrong(&format!(
            r#"{start},"event":"x","url":"x","newSecret":"x","isActive":"maybe","publicKeyXml":"x"}}"#
        )),
        ["event", "url", "newSecret", "isActive", "publicKeyXml"]
    );
    let change = update(json(&format!(r#"{start},"isActive":false,"url":""}}"#)), &policy).unwrap();
    assert_eq!((change.is_active, change.callback_url, change.event), (Some(false), None, None));
}

#[test]
fn ids_and_secrets_have_the_published_complaints() {
    assert_eq!(
        complaints(delete(json(r#"{"id":"7"}"#))),
        [("id".to_owned(), BAD_ID.to_owned()), ("secret".to_owned(), BAD_SECRET.to_owned())]
    );
    assert_eq!(wrong_fields(id(json("{}"))), ["id"]);
    assert_eq!(wrong_fields(ids(json("{}"))), ["ids"]);
    assert_eq!(wrong_fields(ids(json(r#"{"ids":["7"]}"#))), ["ids"]);
    assert_eq!(ids(json(&format!(r#"{{"ids":["{SOME_ID}"]}}"#))).unwrap().len(), 1);
    assert_eq!(wrong_fields(find(json(r#"{"eventName":"x"}"#))), ["eventName"]);
    assert_eq!(wrong_fields(account(json(r#"{"accountId":7}"#))), ["accountId"]);
    assert_eq!(account(json("{}")).unwrap(), None);
}

#[test]
fn a_batch_of_deletes_names_the_wrong_entries() {
    let entry = |id: &str| format!(r#"{{"id":"{id}","config":{{"secret":"c2VjcmV0"}}}}"#);
    let other = SOME_ID.replace('6', "7");
    let of = |entries: &[String]| json(&format!(r#"{{"subscriptions":[{}]}}"#, entries.join(",")));
    assert_eq!(batch_delete(of(&[entry(SOME_ID), entry(&other)])).unwrap().len(), 2);
    let jsv = format!("{{subscriptions:[{{id:{SOME_ID},isActive:False,config:{{secret:c2VjcmV0}}}}]}}");
    assert_eq!(batch_delete(bound("text/jsv", &jsv)).unwrap().len(), 1);
    for (input, wrong) in [
        (json("{}"), &["subscriptions"][..]),
        (of(&[]), &["subscriptions"]),
        (of(&vec![entry(SOME_ID); 101]), &["subscriptions"]),
        (of(&[entry(SOME_ID), entry("7")]), &["subscriptions[1].id"]),
        (of(&[entry(SOME_ID), entry(&SOME_ID.to_uppercase())]), &["subscriptions[1].id"]),
        (
            of(&["{}".to_owned(), "7".to_owned()]),
            &["subscriptions[0].id", "subscriptions[0].config.secret", "subscriptions[1]"],
        ),
        (of(&[entry(SOME_ID).replace("\"c2VjcmV0\"", "[]")]), &["subscriptions[0].config.secret"]),
    ] {
        assert_eq!(wrong_fields(batch_delete(input)), wrong);
    }
}
