//! Deliveries that are sent together. A batch is nothing but the id that its rows in the queue share: it comes into being when they are
//! gathered, and is gone with the last of them.

use std::collections::HashMap;
use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::queue::{BYTES_PER_ROOM, ROOM_OF_LARGEST, room_for};
use super::sections;
use crate::domain::Error;
use crate::domain::id::{CallbackId, NodeId, SubscriptionId};

/// The largest batch that a callback may ask for [published].
pub const SIZE_MAX: usize = 200;
/// Bytes of data in a batch; its last event may be beyond.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a batch takes of the room in memory at most, see [`room_for`].
pub const ROOM_MAX: usize = SIZE_MAX + BYTES_MAX / BYTES_PER_ROOM as usize + ROOM_OF_LARGEST;

/// A delivery of a batch. Its event is missing when its day has left the retention window.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Claimed {
    pub batch_id: Uuid,
    /// None where the subscription is gone.
    pub callback_id: Option<Uuid>,
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

impl Claimed {
    /// What it takes of the room.
    pub fn room(&self) -> usize {
        room_for(self.payload.as_ref().map_or(0, Vec::len))
    }
}

/// What a node asks for.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    pub owner: NodeId,
    pub lease_ms: i64,
    /// What all of it may take of the room. Less than [`ROOM_MAX`] may be too little for any.
    pub room: i64,
    /// Batches of one callback.
    pub each_max: i32,
    /// Whose batches are left alone.
    pub except: &'a [SubscriptionId],
    pub except_of: &'a [CallbackId],
    /// Whose new batches are as large as they take, and as many.
    pub prompt: &'a [CallbackId],
    /// How large new batches of others are at most. 0 if nothing of theirs is taken.
    pub others_size: i32,
    /// New batches of one callback of theirs.
    pub others_each_max: i32,
}

impl Terms<'_> {
    /// Without any bound but that of the room.
    pub fn of(owner: NodeId, lease_ms: i64, room: i64) -> Self {
        Self {
            owner,
            lease_ms,
            room,
            each_max: i32::MAX,
            except: &[],
            except_of: &[],
            prompt: &[],
            others_size: i32::MAX,
            others_each_max: i32::MAX,
        }
    }
}

static CLAIM: LazyLock<[String; 2]> = LazyLock::new(|| {
    let claim = include_str!("queries/batches/claim.sql");
    ["any", "suspect"].map(|section| sections::with(claim, &[section]))
});

/// Leases batches that are due again to this node, each of them whole and in its order, but for those that are claimed by themselves.
pub async fn claim(db: &mut PgConnection, terms: &Terms<'_>) -> Result<Vec<Vec<Claimed>>, Error> {
    let [any, _] = &*CLAIM;
    claim_by(db, any, terms).await
}

/// Leases the oldest due batch that two of its senders in a row have not survived, as far as anybody knows, whosever it is.
pub async fn claim_suspect(
    db: &mut PgConnection,
    owner: NodeId,
    lease_ms: i64,
) -> Result<Option<Vec<Claimed>>, Error> {
    let [_, suspect] = &*CLAIM;
    let room = i64::try_from(ROOM_MAX).map_err(Error::internal)?;
    let terms = Terms { each_max: 1, ..Terms::of(owner, lease_ms, room) };
    Ok(claim_by(db, suspect, &terms).await?.pop())
}

async fn claim_by(
    db: &mut PgConnection,
    statement: &'static str,
    terms: &Terms<'_>,
) -> Result<Vec<Vec<Claimed>>, Error> {
    let rows = sqlx::query_as(statement)
        .bind(terms.owner.0)
        .bind(terms.lease_ms as f64)
        .bind(subscriptions(terms.except))
        .bind(terms.room)
        .bind(callbacks(terms.except_of))
        .bind(terms.each_max)
        .bind(BYTES_PER_ROOM)
        .bind(callbacks(terms.prompt))
        .bind(terms.others_size)
        .fetch_all(db)
        .await?;
    Ok(batches(rows))
}

/// Gathers what has none into new batches and leases them to this node. One that is not full goes once its oldest delivery has been due for
/// `linger_ms`.
pub async fn form(
    db: &mut PgConnection,
    terms: &Terms<'_>,
    linger_ms: i64,
) -> Result<Vec<Vec<Claimed>>, Error> {
    let rows = sqlx::query_as(include_str!("queries/batches/form.sql"))
        .bind(terms.owner.0)
        .bind(terms.lease_ms as f64)
        .bind(linger_ms as f64)
        .bind(terms.room)
        .bind(subscriptions(terms.except))
        .bind(terms.each_max)
        .bind(BYTES_MAX as i64)
        .bind(callbacks(terms.except_of))
        .bind(BYTES_PER_ROOM)
        .bind(callbacks(terms.prompt))
        .bind(terms.others_size)
        .bind(terms.others_each_max)
        .fetch_all(db)
        .await?;
    Ok(batches(rows))
}

/// Milliseconds until there is something to do for either of them: 0 or less when there is now, `None` when there is nothing.
pub async fn next_due_ms(
    db: &mut PgConnection,
    linger_ms: i64,
    except: &[SubscriptionId],
    except_of: &[CallbackId],
) -> Result<Option<i64>, Error> {
    let ms: Option<f64> = sqlx::query_scalar(include_str!("queries/batches/next_due_ms.sql"))
        .bind(linger_ms as f64)
        .bind(subscriptions(except))
        .bind(callbacks(except_of))
        .fetch_one(db)
        .await?;
    Ok(ms.map(|ms| ms.ceil() as i64))
}

fn subscriptions(ids: &[SubscriptionId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

fn callbacks(ids: &[CallbackId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
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
