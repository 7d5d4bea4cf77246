//! The members of requests and answers, by their published names and complaints: what was bound into commands, results into values.

pub mod public_key;
pub mod status;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use uuid::Uuid;

use super::extract::input::Input;
use super::format::{Contract, Node, Value};
use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::callback_url::CallbackUrl;
use crate::domain::egress::EgressPolicy;
use crate::domain::recipient_key::RecipientKey;
use crate::domain::secret::Secret;
use crate::domain::subscription::SubscriptionState;
use crate::domain::webhook::{self, AccountId, CONTENT_TYPE, EventName, Tried, WebhookSecret};
use crate::hub::webhooks::{Change, Create, Delete, LISTED_MAX, Shown, fits, unfit};

/// Subscriptions that one request may make or delete.
const TOGETHER_MAX: usize = 100;

pub const SERVICE_STACK_TYPES: &str = "http://schemas.servicestack.net/types";
const RESPONSES: &str =
    "http://schemas.datacontract.org/2004/07/PwC.Elmaas.Core.Services.Contracts.Webhooks.Responses";
const TYPES: &str = "http://schemas.datacontract.org/2004/07/ServiceStack.Webhooks.ServiceModel.Types";

const fn contract(name: &'static str, namespace: &'static str) -> Contract {
    Contract { name, namespace, is_alphabetical: true }
}

const SUBSCRIPTION_RESPONSE: Contract = contract("SubscriptionResponse", RESPONSES);
const WEBHOOK_SUBSCRIPTION: Contract = contract("WebhookSubscription", TYPES);
const SUBSCRIPTION_CONFIG: Contract = contract("SubscriptionConfig", TYPES);
const DELIVERY_RESULT: Contract = contract("SubscriptionDeliveryResult", TYPES);

const BAD_ID: &str = "The subscription Id is invalid";
const BAD_NAME: &str = "The subscription Name is invalid";
const BAD_SECRET: &str = "The subscription Secret is invalid";
const BAD_URL: &str = "The subscription URL is invalid";
const BAD_EVENT: &str = "The subscription Event contains an invalid name";
const BAD_EVENT_NAME: &str = "The EventName is invalid";
const BAD_ACCOUNT: &str = "The AccountId is invalid";
const BAD_CONTENT_TYPE: &str = "The subscription ContentType is not supported";

/// A command, if all of it was read and nothing was wrong. What is missing has left a complaint.
fn complete<T>(input: Input, command: Option<T>) -> Result<T, Error> {
    match command {
        Some(command) if input.violations.is_empty() => Ok(command),
        _ => Err(input.violations.into()),
    }
}

pub fn create(mut input: Input, egress: &EgressPolicy) -> Result<Create, Error> {
    let name = input.parsed("name", webhook::name, BAD_NAME);
    let events = events(&mut input);
    let callback_url = callback_url(&mut input, egress);
    if callback_url.is_none() {
        input.refuse("url", BAD_URL);
    }
    content_type(&mut input);
    let secret = input.required("secret", WebhookSecret::parse, BAD_SECRET);
    let recipient = recipient(&mut input);
    let account = input.parsed("accountId", AccountId::parse, BAD_ACCOUNT);
    if let (Some(secret), Some(recipient)) = (&secret, &recipient)
        && !fits(recipient, secret)
    {
        input.refuse("secret", unfit(recipient));
    }
    let all = events.zip(callback_url).zip(secret);
    let command = all.map(|((events, callback_url), secret)| Create {
        name,
        events,
        callback_url,
        secret,
        recipient,
        account,
    });
    complete(input, command)
}

pub fn update(mut input: Input, egress: &EgressPolicy) -> Result<Change, Error> {
    let id = input.required("id", webhook::guid, BAD_ID);
    let name = input.parsed("name", webhook::name, BAD_NAME);
    let event = input.parsed("event", EventName::parse, BAD_EVENT);
    let callback_url = callback_url(&mut input, egress);
    content_type(&mut input);
    let current_secret = presented(&mut input, "currentSecret");
    let new_secret = input.parsed("newSecret", WebhookSecret::parse, BAD_SECRET);
    let is_active = input.flag("isActive");
    let recipient = recipient(&mut input);
    let command = id.zip(current_secret).map(|(id, current_secret)| Change {
        id,
        current_secret,
        name,
        event,
        callback_url,
        new_secret,
        is_active,
        recipient,
    });
    complete(input, command)
}

pub fn delete(mut input: Input) -> Result<Delete, Error> {
    let id = input.required("id", webhook::guid, BAD_ID);
    let secret = presented(&mut input, "secret");
    complete(input, id.zip(secret).map(|(id, secret)| Delete { id, secret }))
}

pub fn batch_delete(mut input: Input) -> Result<Vec<Delete>, Error> {
    const SUBSCRIPTIONS: &str = "subscriptions";
    let entries = input.items(SUBSCRIPTIONS).unwrap_or_default();
    if !(1..=TOGETHER_MAX).contains(&entries.len()) {
        input.refuse(SUBSCRIPTIONS, format!("must have 1 to {TOGETHER_MAX} entries"));
        return Err(input.violations.into());
    }
    let mut all: Vec<Delete> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let path = format!("{SUBSCRIPTIONS}[{index}]");
        let read = input.within(&path, entry, |entry| {
            let id = entry.required("id", webhook::guid, BAD_ID);
            let secret = entry.object("config", |config| presented(config, "secret")).unwrap_or_else(|| {
                entry.refuse("config.secret", BAD_SECRET);
                None
            });
            id.zip(secret)
        });
        match read.flatten() {
            Some((id, _)) if all.iter().any(|known| known.id == id) => {
                input.refuse(&format!("{path}.id"), "is given twice");
            }
            Some((id, secret)) => all.push(Delete { id, secret }),
            None => {}
        }
    }
    complete(input, Some(all))
}

/// The id of one subscription.
pub fn id(mut input: Input) -> Result<Uuid, Error> {
    let id = input.required("id", webhook::guid, BAD_ID);
    complete(input, id)
}

pub fn ids(mut input: Input) -> Result<Vec<Uuid>, Error> {
    let entries = input.items("ids").unwrap_or_default();
    if !(1..=LISTED_MAX).contains(&entries.len()) {
        input.refuse("ids", format!("must have 1 to {LISTED_MAX} entries"));
    }
    let parse = |entry: Node| entry.text().ok().as_deref().and_then(webhook::guid);
    let ids: Option<Vec<Uuid>> = entries.into_iter().map(parse).collect();
    if ids.is_none() {
        input.refuse("ids", BAD_ID);
    }
    complete(input, ids)
}

/// The account whose subscriptions are wanted; without one, all are.
pub fn account(mut input: Input) -> Result<Option<AccountId>, Error> {
    let account = input.parsed("accountId", AccountId::parse, BAD_ACCOUNT);
    complete(input, Some(account))
}

pub fn find(mut input: Input) -> Result<(EventName, Option<AccountId>), Error> {
    let event = input.required("eventName", EventName::parse, BAD_EVENT_NAME);
    let account = input.parsed("accountId", AccountId::parse, BAD_ACCOUNT);
    complete(input, event.map(|event| (event, account)))
}

fn events(input: &mut Input) -> Option<Vec<EventName>> {
    let entries = input.items("events").unwrap_or_default();
    if entries.is_empty() {
        input.refuse("events", "The subscription Event contains no names");
    }
    if entries.len() > TOGETHER_MAX {
        input.refuse("events", format!("must have at most {TOGETHER_MAX} entries"));
    }
    let parse = |entry: Node| entry.text().ok().as_deref().and_then(EventName::parse);
    let events: Option<Vec<EventName>> = entries.into_iter().map(parse).collect();
    if events.is_none() {
        input.refuse("events", BAD_EVENT);
    }
    events
}

fn callback_url(input: &mut Input, egress: &EgressPolicy) -> Option<String> {
    let text = input.text("url")?;
    match CallbackUrl::parse(&text, egress) {
        Ok(url) => Some(url.as_str().to_owned()),
        Err(refused) => {
            input.refuse("url", format!("{BAD_URL}: it {refused}"));
            None
        }
    }
}

/// There is one, so that it need not be kept.
fn content_type(input: &mut Input) {
    let known = |text: &str| text.eq_ignore_ascii_case(CONTENT_TYPE).then_some(());
    input.parsed("contentType", known, BAD_CONTENT_TYPE);
}

/// A secret that is only compared: what it looks like is no matter, as long as there is one.
fn presented(input: &mut Input, name: &str) -> Option<Secret> {
    input.required(name, |text| Some(Secret::new(text)), BAD_SECRET)
}

fn recipient(input: &mut Input) -> Option<RecipientKey> {
    let text = input.text("publicKeyXml")?;
    match public_key::parse(&text) {
        Ok(key) => Some(key),
        Err(complaint) => {
            input.refuse("publicKeyXml", format!("The PublicKeyXml is invalid: it {complaint}"));
            None
        }
    }
}

/// Several subscriptions.
pub fn all(shown: &[Shown]) -> Value {
    Value::List(&SUBSCRIPTION_RESPONSE, shown.iter().map(one).collect())
}

/// One subscription with its history. The status of a success is left out.
pub fn one(shown: &Shown) -> Value {
    let (webhook, subscription) = (&shown.webhook, &shown.webhook.subscription);
    let config = Value::object(
        &SUBSCRIPTION_CONFIG,
        [
            ("url", Value::text(&subscription.callback_url)),
            ("contentType", Value::text(CONTENT_TYPE)),
            ("secret", Value::optional(shown.secret.as_ref().map(|ciphertext| STANDARD.encode(ciphertext)))),
        ],
    );
    let id = &subscription.external_key;
    let subscription = Value::object(
        &WEBHOOK_SUBSCRIPTION,
        [
            ("id", Value::text(id)),
            ("name", Value::optional(webhook.name.as_ref())),
            ("event", Value::text(webhook.event())),
            ("isActive", Value::Bool(subscription.state == SubscriptionState::Active)),
            ("createdDateUtc", Value::Date(whole(subscription.created_at, TimeDelta::seconds(1)))),
            ("createdById", Value::text(subscription.partner.to_string())),
            ("lastModifiedDateUtc", Value::Date(whole(subscription.updated_at, TimeDelta::seconds(1)))),
            ("config", config),
        ],
    );
    let history = shown.history.iter().map(|tried| result(id, tried)).collect();
    Value::object(
        &SUBSCRIPTION_RESPONSE,
        [("subscription", subscription), ("history", Value::List(&DELIVERY_RESULT, history))],
    )
}

fn result(subscription: &str, tried: &Tried) -> Value {
    // Without a whole answer there is no status, and the published library notes this one.
    let answered = matches!(tried.outcome, Outcome::Delivered | Outcome::Refused);
    let code = tried.status.filter(|_| answered).unwrap_or(503);
    let description = match tried.outcome {
        Outcome::Delivered | Outcome::Refused => status::description(code),
        Outcome::TimedOut => "The callback did not answer in time".to_owned(),
        _ => "The callback could not be reached".to_owned(),
    };
    Value::object(
        &DELIVERY_RESULT,
        [
            ("attemptedDateUtc", Value::Date(whole(tried.attempted_at, TimeDelta::milliseconds(1)))),
            ("statusDescription", Value::Text(description)),
            ("statusCode", status::name(code).map_or_else(|| Value::Number(code.into()), Value::text)),
            ("subscriptionId", Value::text(subscription)),
            ("id", Value::text(tried.id.to_string())),
            ("eventId", Value::text(tried.event.to_string())),
        ],
    )
}

/// Cut off to whole units, so that no answer shows a moment that has not come yet.
fn whole(moment: DateTime<Utc>, unit: TimeDelta) -> DateTime<Utc> {
    moment.duration_trunc(unit).unwrap_or(moment)
}

#[cfg(test)]
mod tests;
