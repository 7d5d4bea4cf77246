//! Taking leases on what is due.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{NodeId, SubscriptionId};
use crate::domain::row_hint::RowHint;

/// What claimed deliveries take of a room in memory, so that both their number and the bytes that they keep there are bounded: each takes one,
/// and one more for every so many bytes of its event.
pub const BYTES_PER_ROOM: i32 = 8 * 1024;

/// Bytes of an event's data at most, as its table has it.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// The room that a delivery takes whose event is the largest there can be.
pub const ROOM_OF_LARGEST: usize = 1 + EVENT_BYTES_MAX / BYTES_PER_ROOM as usize;

/// The room that a delivery of an event with a payload of this many bytes takes.
pub fn room_for(payload_bytes: usize) -> usize {
    1 + payload_bytes / BYTES_PER_ROOM as usize
}

/// A row claimed from the queue. Its event is missing when its day has left the retention window.
#[derive(sqlx::FromRow)]
pub struct Claimed {
    pub partner_id: Uuid,
    pub delivery_id: Uuid,
    pub event_id: Uuid,
    pub subscription_id: Uuid,
    pub attempts: i32,
    pub lease_epoch: i32,
    pub crashes: i16,
    pub probe: bool,
    pub draining: bool,
    /// Before it was claimed.
    pub was_due_at: DateTime<Utc>,
    pub row_at: RowHint,
    /// Whether it has an ordering key.
    pub in_line: bool,
    pub r#type: Option<String>,
    pub source: Option<String>,
    pub payload: Option<Vec<u8>>,
    pub occurred_at: Option<DateTime<Utc>>,
    /// Whether more was there that did not fit into the room.
    pub more: bool,
}

impl Claimed {
    /// What it takes of the room.
    pub fn room(&self) -> usize {
        room_for(self.payload.as_ref().map_or(0, Vec::len))
    }
}

/// Where a claim looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reach<'a> {
    /// What was due before this was claimed already; `None`: everywhere.
    pub due_from: Option<DateTime<Utc>>,
    /// These are not to be claimed for, but for their test pings and for leases that ran out.
    pub set_aside: &'a [SubscriptionId],
    /// No more than fits into so much room is claimed, but one in any case; `None`: any number.
    pub room: Option<i64>,
}

/// Leases up to `limit` due rows to this node for `lease_ms`, wherever they are, but for those that are claimed by themselves.
pub async fn claim(
    db: &mut PgConnection,
    owner: NodeId,
    limit: i64,
    lease_ms: i64,
) -> Result<Vec<Claimed>, Error> {
    claim_within(db, owner, limit, lease_ms, Reach::default()).await
}

/// Leases up to `limit` due rows to this node for `lease_ms`, oldest first.
pub async fn claim_within(
    db: &mut PgConnection,
    owner: NodeId,
    limit: i64,
    lease_ms: i64,
    reach: Reach<'_>,
) -> Result<Vec<Claimed>, Error> {
    let rows = sqlx::query_as(include_str!("../queries/queue/claim.sql"))
        .bind(owner.0)
        .bind(limit)
        .bind(lease_ms as f64)
        .bind(reach.due_from)
        .bind(uuids(reach.set_aside))
        .bind(reach.room)
        .bind(BYTES_PER_ROOM)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Leases the oldest due row that two of its senders in a row have not survived, as far as anybody knows.
pub async fn claim_suspect(
    db: &mut PgConnection,
    owner: NodeId,
    lease_ms: i64,
) -> Result<Option<Claimed>, Error> {
    let row = sqlx::query_as(include_str!("../queries/queue/claim_suspect.sql"))
        .bind(owner.0)
        .bind(lease_ms as f64)
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// How much to claim for one subscription.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub subscription: SubscriptionId,
    pub up_to: i64,
    /// What was due before this was claimed already; `None`: everywhere.
    pub due_from: Option<DateTime<Utc>>,
}

/// Leases due rows of these subscriptions to this node for `lease_ms`, oldest first: as many as fit into `room`, if that is given.
pub async fn draw(
    db: &mut PgConnection,
    owner: NodeId,
    lease_ms: i64,
    shares: &[Share],
    room: Option<i64>,
) -> Result<Vec<Claimed>, Error> {
    let rows = sqlx::query_as(include_str!("../queries/queue/draw.sql"))
        .bind(owner.0)
        .bind(lease_ms as f64)
        .bind(shares.iter().map(|share| share.subscription.0).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.up_to).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.due_from).collect::<Vec<_>>())
        .bind(room)
        .bind(BYTES_PER_ROOM)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Milliseconds until the next row falls due, if that is within `within_ms`; 0 or less when it is due now. Only what is due after `after`, and
/// not what is set aside.
pub async fn next_due_ms(
    db: &mut PgConnection,
    after: DateTime<Utc>,
    within_ms: i64,
    set_aside: &[SubscriptionId],
) -> Result<Option<i64>, Error> {
    let ms: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from due_at - herald_now())::float8 * 1000 from queue
         where not batched and due_at > $1 and due_at <= herald_now() + make_interval(secs => $2 / 1000.0)
           and (subscription_id not in (select unnest($3::uuid[])) or lease_owner is not null or probe)
         order by due_at limit 1",
    )
    .bind(after)
    .bind(within_ms as f64)
    .bind(uuids(set_aside))
    .fetch_optional(db)
    .await?;
    Ok(ms.map(|ms| ms.ceil() as i64))
}

fn uuids(ids: &[SubscriptionId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}
