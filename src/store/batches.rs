//! Deliveries that are sent together. A batch is nothing but the id that its rows in the queue share: it comes into being when they are
//! gathered, and is gone with the last of them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{NodeId, SubscriptionId};

/// Bytes of data in a batch; of its last event so many may be beyond.
const BYTES_MAX: i64 = 4 * 1024 * 1024;

/// A delivery of a batch. Its event is missing when its day has left the retention window.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Claimed {
    pub batch_id: Uuid,
    pub partner_id: Uuid,
    pub delivery_id: Uuid,
    pub event_id: Uuid,
    pub subscription_id: Uuid,
    pub attempts: i32,
    pub lease_epoch: i32,
    pub crashes: i16,
    pub draining: bool,
    pub line: Option<i64>,
    pub place: Option<i64>,
    pub r#type: Option<String>,
    pub source: Option<String>,
    pub payload: Option<Vec<u8>>,
    pub occurred_at: Option<DateTime<Utc>>,
}

/// What a node asks for.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    pub owner: NodeId,
    pub lease_ms: i64,
    /// Deliveries in all.
    pub deliveries_max: i64,
    /// Whose batches are left alone.
    pub except: &'a [SubscriptionId],
}

/// Leases batches that are due again to this node, each of them whole and in its order.
pub async fn claim(db: &mut PgConnection, terms: &Terms<'_>) -> Result<Vec<Vec<Claimed>>, Error> {
    let rows = sqlx::query_as(include_str!("queries/batches/claim.sql"))
        .bind(terms.owner.0)
        .bind(terms.lease_ms as f64)
        .bind(ids(terms.except))
        .bind(terms.deliveries_max)
        .fetch_all(db)
        .await?;
    Ok(batches(rows))
}

/// Gathers what has none into new batches, up to `each_max` of a subscription, and leases them to this node. One that is not full goes once
/// its oldest delivery has been due for `linger_ms`.
pub async fn form(
    db: &mut PgConnection,
    terms: &Terms<'_>,
    linger_ms: i64,
    each_max: i32,
) -> Result<Vec<Vec<Claimed>>, Error> {
    let rows = sqlx::query_as(include_str!("queries/batches/form.sql"))
        .bind(terms.owner.0)
        .bind(terms.lease_ms as f64)
        .bind(linger_ms as f64)
        .bind(terms.deliveries_max)
        .bind(ids(terms.except))
        .bind(each_max)
        .bind(BYTES_MAX)
        .fetch_all(db)
        .await?;
    Ok(batches(rows))
}

/// Milliseconds until there is something to do for either of them: 0 or less when there is now, `None` when there is nothing.
pub async fn next_due_ms(
    db: &mut PgConnection,
    linger_ms: i64,
    except: &[SubscriptionId],
) -> Result<Option<i64>, Error> {
    let ms: Option<f64> = sqlx::query_scalar(include_str!("queries/batches/next_due_ms.sql"))
        .bind(linger_ms as f64)
        .bind(ids(except))
        .fetch_one(db)
        .await?;
    Ok(ms.map(|ms| ms.ceil() as i64))
}

fn ids(subscriptions: &[SubscriptionId]) -> Vec<Uuid> {
    subscriptions.iter().map(|id| id.0).collect()
}

/// Batch by batch, those that were gathered first at the front, and each in its order.
fn batches(rows: Vec<Claimed>) -> Vec<Vec<Claimed>> {
    let mut batches: HashMap<Uuid, Vec<Claimed>> = HashMap::new();
    for row in rows {
        batches.entry(row.batch_id).or_default().push(row);
    }
    let mut batches: Vec<_> = batches.into_values().collect();
    batches.iter_mut().for_each(|batch| put_in_order(batch));
    batches.sort_by_key(|batch| batch.first().map(|row| (row.event_id, row.batch_id)));
    batches
}

/// Oldest first, and each line in its own order, which clocks that differ cannot turn round: the same on every attempt.
fn put_in_order(batch: &mut [Claimed]) {
    batch.sort_by_key(|row| (row.place, row.event_id));
    let mut newest: HashMap<i64, Uuid> = HashMap::new();
    batch.sort_by_cached_key(|row| {
        let turn = match row.line {
            None => row.event_id,
            Some(line) => {
                let newest = newest.entry(line).or_insert(row.event_id);
                *newest = row.event_id.max(*newest);
                *newest
            }
        };
        (turn, row.place, row.delivery_id)
    });
}
