//! Subscriptions whose callbacks take batches, and what such callbacks are told.

use herald::domain::id::{CallbackId, SubscriptionId};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::receiver::Call;

/// A subscription to one event type, which is its own.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub id: SubscriptionId,
    pub callback: CallbackId,
    pub event_type: String,
}

/// Makes a subscription of the development partner.
pub async fn subscribe(pool: &PgPool, event_type: &str, url: &str, batch_size: i32) -> Subscriber {
    let subscriber = Subscriber {
        id: SubscriptionId::new(),
        callback: CallbackId::new(),
        event_type: event_type.to_owned(),
    };
    sqlx::query(
        "with p as (select id from partners order by created_at limit 1),
         c as (insert into callbacks (id, partner_id, surface, name, url, batch_size)
               select $1, p.id, 'notifications', $3, $4, $5 from p),
         s as (insert into subscriptions (id, partner_id, surface, external_key, callback_id)
               select $2, p.id, 'notifications', $3, $1 from p)
         insert into subscription_event_types (partner_id, subscription_id, surface, event_type)
         select p.id, $2, 'notifications', $3 from p",
    )
    .bind(subscriber.callback.0)
    .bind(subscriber.id.0)
    .bind(event_type)
    .bind(url)
    .bind(batch_size)
    .execute(pool)
    .await
    .unwrap();
    subscriber
}

impl Subscriber {
    /// An event of its type, with a key of an order or none.
    pub fn event(&self, key: Option<&str>, number: usize) -> Value {
        event(&self.event_type, key, number)
    }

    pub fn events(&self, key: Option<&str>, numbers: std::ops::Range<usize>) -> Vec<Value> {
        numbers.map(|number| self.event(key, number)).collect()
    }
}

/// An event of this type, with a key of an order or none.
pub fn event(event_type: &str, key: Option<&str>, number: usize) -> Value {
    let mut event = json!({ "type": event_type,
        "data": { "of": event_type, "key": key.unwrap_or_default(), "number": number } });
    if let Some(key) = key {
        event["orderingKey"] = json!(key);
    }
    event
}

/// An event as it arrived: of whom, with which key, which one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Told {
    pub of: String,
    pub key: String,
    pub number: u64,
}

impl Told {
    /// From an event's data.
    pub fn of(data: &Value) -> Told {
        let text = |name: &str| data[name].as_str().unwrap().to_owned();
        Told { of: text("of"), key: text("key"), number: data["number"].as_u64().unwrap() }
    }
}

pub fn told(call: &Call) -> Vec<Told> {
    let body = call.json();
    let events = body.as_array().unwrap_or_else(|| panic!("{body} is no batch"));
    events.iter().map(Told::of).collect()
}

/// Only their numbers, call by call.
pub fn numbers(calls: &[Call]) -> Vec<Vec<u64>> {
    calls.iter().map(|call| told(call).iter().map(|event| event.number).collect()).collect()
}
