//! Subscriptions on the wire. The callback's key comes in and never goes out.

use axum::http::header::LOCATION;
use serde::Serialize;
use uuid::Uuid;

use super::{BODY, in_body, json, versioned};
use crate::domain::callback_url::CallbackUrl;
use crate::domain::credentials::CallbackKey;
use crate::domain::egress::EgressPolicy;
use crate::domain::id::{PartnerId, SubscriptionId};
use crate::domain::key_ring::KeyRing;
use crate::domain::subscription::{Subscription, redirect_event_types};
use crate::domain::version::IfMatch;
use crate::domain::{Error, Violations};
use crate::hub::Answer;
use crate::hub::subscriptions::{Change, Replace, Replaced};
use crate::surfaces::kit::cursor;
use crate::surfaces::redirect::extract::Asked;

const ID: &str = "eventSubscriptionId";
/// The name that binds cursors to this list.
const LIST: &str = "redirect subscriptions";

/// The id in the path. Errors: `Invalid`.
pub fn id(asked: &Asked) -> Result<Uuid, Error> {
    let mut violations = asked.violations();
    asked.id(ID, &mut violations).filter(|_| violations.is_empty()).ok_or(violations.into())
}

/// A PUT: all three fields, under the id in the path.
pub fn replace(asked: &Asked, egress: &EgressPolicy) -> Result<Replace, Error> {
    let mut violations = asked.violations();
    let id = asked.id(ID, &mut violations);
    whole(asked, egress, id, asked.condition.clone(), violations)
}

/// A POST: all three fields, under an id of our making. There is nothing yet that a condition could be about.
pub fn create(asked: &Asked, egress: &EgressPolicy) -> Result<Replace, Error> {
    whole(asked, egress, Some(Uuid::new_v4()), IfMatch::Absent, asked.violations())
}

fn whole(
    asked: &Asked,
    egress: &EgressPolicy,
    id: Option<Uuid>,
    condition: IfMatch,
    mut violations: Violations,
) -> Result<Replace, Error> {
    let fields = in_body(&asked.body, &mut violations, |fields| {
        let url = fields.required("callbackUrl", |text: String| CallbackUrl::parse(&text, egress));
        let key = fields.required("apiKey", |text: String| CallbackKey::parse(&text));
        let event_types = fields.required("eventTypes", redirect_event_types);
        Some((url?.as_str().to_owned(), key?, event_types?))
    });
    match (id, fields.flatten()) {
        (Some(id), Some((callback_url, key, event_types))) if violations.is_empty() => {
            Ok(Replace { id, callback_url, key, event_types, condition })
        }
        _ => Err(violations.into()),
    }
}

/// A PATCH: at least one of the three.
pub fn change(asked: &Asked, egress: &EgressPolicy) -> Result<Change, Error> {
    let mut violations = asked.violations();
    let id = asked.id(ID, &mut violations);
    let change = in_body(&asked.body, &mut violations, |fields| {
        let names = ["callbackUrl", "apiKey", "eventTypes"];
        if !names.iter().any(|name| fields.has(name)) && fields.violations.is_empty() {
            fields.refuse(BODY, "must have at least one of callbackUrl, apiKey and eventTypes");
        }
        let url = fields.optional("callbackUrl", |text: String| CallbackUrl::parse(&text, egress));
        let key = fields.optional("apiKey", |text: String| CallbackKey::parse(&text));
        let event_types = fields.optional("eventTypes", redirect_event_types);
        (url.map(|url| url.as_str().to_owned()), key, event_types)
    });
    match (id, change) {
        (Some(id), Some((callback_url, key, event_types))) if violations.is_empty() => {
            Ok(Change { id, callback_url, key, event_types, condition: asked.condition.clone() })
        }
        _ => Err(violations.into()),
    }
}

/// Which page of the list is wanted.
pub struct PageWanted {
    pub after: Option<SubscriptionId>,
    pub limit: i64,
}

/// The query of the list. Errors: `Invalid` on each parameter that is wrong.
pub fn page(asked: &Asked, keys: &KeyRing) -> Result<PageWanted, Error> {
    let mut violations = asked.violations();
    let text = parameter(&asked.query, "limit", &mut violations);
    let limit = cursor::limit(text.as_deref(), &mut violations);
    let text = parameter(&asked.query, "cursor", &mut violations);
    let after = match text.map(|text| cursor::read(keys, asked.caller.partner, LIST, &text)).transpose() {
        Ok(after) => after.map(SubscriptionId),
        Err(Error::Invalid(complaints)) => {
            violations.extend(complaints);
            None
        }
        Err(error) => return Err(error),
    };
    if violations.is_empty() { Ok(PageWanted { after, limit }) } else { Err(violations.into()) }
}

/// A parameter of the query, which may be there once. Other parameters are nobody's.
fn parameter(query: &str, name: &str, violations: &mut Violations) -> Option<String> {
    let mut given = url::form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name);
    let first = given.next()?.1.into_owned();
    if given.next().is_some() {
        violations.add(name, "must be given once");
    }
    Some(first)
}

/// A page of what was found, of which the last is only there to show that there is more.
pub fn listed(
    mut found: Vec<Subscription>,
    wanted: &PageWanted,
    partner: PartnerId,
    keys: &KeyRing,
) -> Answer {
    let room = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let more = found.len() > room;
    found.truncate(room);
    let last = found.last().filter(|_| more);
    let next_cursor = last.map(|last| cursor::write(keys, partner, LIST, last.id.0));
    json(200, &PageBody { items: found.iter().map(SubscriptionBody::from).collect(), next_cursor })
}

pub fn shown(subscription: &Subscription) -> Answer {
    versioned(200, subscription.version, &SubscriptionBody::from(subscription))
}

pub fn replaced(replaced: Replaced) -> Answer {
    let status = if replaced.created { 201 } else { 200 };
    versioned(status, replaced.subscription.version, &SubscriptionBody::from(&replaced.subscription))
}

/// `collection` is the path that was posted to, whichever mount it has.
pub fn created(made: Replaced, collection: &str) -> Answer {
    let location = format!("{}/{}", collection.trim_end_matches('/'), made.subscription.external_key);
    let mut answer = replaced(made);
    answer.headers.push((LOCATION.as_str().to_owned(), location));
    answer
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubscriptionBody<'a> {
    id: &'a str,
    callback_url: &'a str,
    event_types: &'a [String],
}

impl<'a> From<&'a Subscription> for SubscriptionBody<'a> {
    fn from(subscription: &'a Subscription) -> Self {
        Self {
            id: &subscription.external_key,
            callback_url: &subscription.callback_url,
            event_types: &subscription.event_types,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageBody<'a> {
    items: Vec<SubscriptionBody<'a>>,
    next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME_ID: &str = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";

    fn wrong_fields<T>(result: Result<T, Error>) -> Vec<String> {
        match result {
            Ok(_) => Vec::new(),
            Err(Error::Invalid(violations)) => violations.iter().map(|one| one.field.clone()).collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn rule_15_a_put_names_every_wrong_field_at_once() {
        let url = r#""callbackUrl":"https://partner.example/x""#;
        let (key, types) = (r#""apiKey":"k""#, r#""eventTypes":["RedirectSessionCancelled"]"#);
        for (path_id, body, wrong) in [
            (SOME_ID, format!("{{{url},{key},{types}}}"), &[][..]),
            (SOME_ID, format!("{{{url},{key},{types},\"more\":null}}"), &[]),
            ("42", format!("{{{url},{key},{types}}}"), &["eventSubscriptionId"]),
            ("42", "{}".to_owned(), &["eventSubscriptionId", "callbackUrl", "apiKey", "eventTypes"]),
            ("42", String::new(), &["eventSubscriptionId", "body"]),
            (SOME_ID, "[]".to_owned(), &["body"]),
            (SOME_ID, format!("{{{url},{url},{key},{types}}}"), &["callbackUrl"]),
            (SOME_ID, format!("{{\"callbackUrl\":\"http://10.0.0.1/\",{key},{types}}}"), &["callbackUrl"]),
            (SOME_ID, format!("{{{url},\"apiKey\":\"a.b\",{types}}}"), &["apiKey"]),
            (SOME_ID, format!("{{{url},{key},\"eventTypes\":[]}}"), &["eventTypes"]),
            (
                SOME_ID,
                format!("{{{url},{key},\"eventTypes\":\"RedirectSessionCancelled\"}}"),
                &["eventTypes"],
            ),
            (SOME_ID, format!("{{{url},{key},\"eventTypes\":[null]}}"), &["eventTypes"]),
            (
                SOME_ID,
                r#"{"callbackUrl":null,"apiKey":1,"eventTypes":{}}"#.to_owned(),
                &["callbackUrl", "apiKey", "eventTypes"],
            ),
        ] {
            let replace = replace(&Asked::example(path_id, &body), &EgressPolicy::production());
            assert_eq!(wrong_fields(replace), wrong, "{body}");
        }
    }

    #[tokio::test]
    async fn a_patch_needs_one_of_the_three_and_takes_no_null() {
        for (body, wrong) in [
            (r#"{"callbackUrl":"https://partner.example/x"}"#, &[][..]),
            (r#"{"apiKey":"k"}"#, &[]),
            (r#"{"eventTypes":["RedirectSessionCancelled"]}"#, &[]),
            ("{}", &["body"]),
            (r#"{"more":1}"#, &["body"]),
            (r#"{"apiKey":null}"#, &["apiKey"]),
            (r#"{"apiKey":"","eventTypes":null}"#, &["apiKey", "eventTypes"]),
            ("null", &["body"]),
        ] {
            let change = change(&Asked::example(SOME_ID, body), &EgressPolicy::production());
            assert_eq!(wrong_fields(change), wrong, "{body}");
        }
        let asked = Asked::example(SOME_ID, r#"{"apiKey":"k"}"#);
        let change = change(&asked, &EgressPolicy::production()).unwrap();
        assert!(change.callback_url.is_none() && change.event_types.is_none() && change.key.is_some());
    }

    #[tokio::test]
    async fn a_query_may_say_each_thing_once() {
        let (keys, _) = KeyRing::generate();
        for (query, wrong) in [
            ("", &[][..]),
            ("limit=1", &[]),
            ("limit=100&other=x", &[]),
            ("limit=0", &["limit"]),
            ("limit=-1", &["limit"]),
            ("limit=101", &["limit"]),
            ("limit=", &["limit"]),
            ("limit=1&limit=1", &["limit"]),
            ("limit=x&cursor=x", &["limit", "cursor"]),
            ("cursor=", &["cursor"]),
        ] {
            let mut asked = Asked::example("", "");
            asked.query = query.to_owned();
            assert_eq!(wrong_fields(page(&asked, &keys)), wrong, "{query}");
        }
    }
}
