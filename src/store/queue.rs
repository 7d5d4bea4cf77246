//! The queue: unfinished deliveries, and nothing else.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::{DeliveryState, Lease};
use crate::domain::id::{AttemptId, DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};

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
    pub r#type: Option<String>,
    pub source: Option<String>,
    pub payload: Option<Vec<u8>>,
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Leases up to `limit` due rows to this node for `lease_ms`.
pub async fn claim(
    db: &mut PgConnection,
    owner: NodeId,
    limit: i64,
    lease_ms: i64,
) -> Result<Vec<Claimed>, Error> {
    let rows = sqlx::query_as(include_str!("queries/queue/claim.sql"))
        .bind(owner.0)
        .bind(limit)
        .bind(lease_ms as f64)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Milliseconds until the next row that is not held falls due: 0 or less when one is due now, `None` when there is none.
pub async fn next_due_ms(db: &mut PgConnection) -> Result<Option<i64>, Error> {
    let ms: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from due_at - herald_now())::float8 * 1000 from queue where due_at < 'infinity' order by due_at limit 1",
    )
    .fetch_optional(db)
    .await?;
    Ok(ms.map(|ms| ms.ceil() as i64))
}

/// What becomes of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The delivery is over, in this state.
    Final(DeliveryState),
    /// Due again later; the attempt counts.
    Retry { delay_ms: i64 },
    /// Held, while its subscription is paused or disabled.
    Hold,
    /// Given back unsent, due again later; nothing counts.
    Release { delay_ms: i64 },
}

/// What an attempt leaves in the history.
#[derive(Debug, Clone)]
pub struct Record {
    pub attempt: AttemptId,
    pub outcome: Outcome,
    pub status: Option<u16>,
    /// How long before the moment of writing the attempt began.
    pub started_ago_ms: i64,
    pub latency_ms: i32,
    pub response: Option<Vec<u8>>,
    pub detail: Option<String>,
}

pub struct Finish<'a> {
    pub lease: &'a Lease,
    pub ending: Ending,
    pub record: Option<Record>,
}

/// Finishes a batch of leases; returns how many this node still held. The rest change nothing and are recorded as late.
pub async fn finish(db: &mut PgConnection, owner: NodeId, batch: &[Finish<'_>]) -> Result<i64, sqlx::Error> {
    let each = |take: &dyn Fn(&Finish<'_>) -> Uuid| batch.iter().map(take).collect::<Vec<_>>();
    let record = |finish: &Finish<'_>| finish.record.clone();
    let partners = each(&|finish| finish.lease.partner.0);
    let deliveries = each(&|finish| finish.lease.delivery.0);
    let events = each(&|finish| finish.lease.event.id.0);
    let subscriptions = each(&|finish| finish.lease.subscription.0);
    let records: Vec<Option<Record>> = batch.iter().map(record).collect();
    fn column<T>(records: &[Option<Record>], take: impl Fn(&Record) -> Option<T>) -> Vec<Option<T>> {
        records.iter().map(|record| record.as_ref().and_then(&take)).collect()
    }
    sqlx::query_scalar(include_str!("queries/queue/finish.sql"))
        .bind(owner.0)
        .bind(partners)
        .bind(deliveries)
        .bind(batch.iter().map(|finish| finish.lease.epoch).collect::<Vec<_>>())
        .bind(batch.iter().map(|finish| verdict(finish.ending)).collect::<Vec<_>>())
        .bind(batch.iter().map(|finish| delay_ms(finish.ending)).collect::<Vec<_>>())
        .bind(batch.iter().map(|finish| final_state(finish.ending)).collect::<Vec<_>>())
        .bind(column(&records, |record| Some(record.attempt.0)))
        .bind(events)
        .bind(subscriptions)
        .bind(batch.iter().map(|finish| finish.lease.event.kind.as_str()).collect::<Vec<_>>())
        .bind(column(&records, |record| Some(record.outcome.as_str())))
        .bind(column(&records, |record| record.status.map(i32::from)))
        .bind(column(&records, |record| Some(record.started_ago_ms)))
        .bind(column(&records, |record| Some(record.latency_ms)))
        .bind(column(&records, |record| record.response.clone()))
        .bind(column(&records, |record| record.detail.clone()))
        .fetch_one(db)
        .await
}

fn verdict(ending: Ending) -> &'static str {
    match ending {
        Ending::Final(_) => "final",
        Ending::Retry { .. } => "retry",
        Ending::Hold => "hold",
        Ending::Release { .. } => "release",
    }
}

fn delay_ms(ending: Ending) -> Option<i64> {
    match ending {
        Ending::Retry { delay_ms } | Ending::Release { delay_ms } => Some(delay_ms),
        Ending::Final(_) | Ending::Hold => None,
    }
}

fn final_state(ending: Ending) -> Option<&'static str> {
    match ending {
        Ending::Final(state) => Some(state.as_str()),
        _ => None,
    }
}

/// Gives back every lease of this node at once: the last act of a graceful stop.
pub async fn release_all(db: &mut PgConnection, owner: NodeId) -> Result<u64, Error> {
    let done = sqlx::query(
        "update queue set lease_owner = null, lease_epoch = lease_epoch + 1, due_at = herald_now() where lease_owner = $1",
    )
    .bind(owner.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Ends up to `limit` leases of a node that is gone now instead of at their end; returns how many. Owner and epoch stay, as with a lease that
/// ran out: the claim that follows raises the epoch and counts the crash, and should the node live after all, it may still finish until then.
pub async fn end_leases(db: &mut PgConnection, of: NodeId, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "update queue q set due_at = herald_now() from (
             select partner_id, delivery_id from queue
             where lease_owner = $1 and due_at > herald_now() and due_at < 'infinity' limit $2 for update skip locked) as left_behind
         where q.partner_id = left_behind.partner_id and q.delivery_id = left_behind.delivery_id",
    )
    .bind(of.0)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Makes the oldest of what is held for a subscription due, up to `limit`; returns how many. Each is due a microsecond after the one before,
/// so that they are claimed in their order.
pub async fn resume(db: &mut PgConnection, subscription: SubscriptionId, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "update queue q set due_at = herald_now() + held.place * interval '1 microsecond' from (
             select partner_id, delivery_id, row_number() over (order by delivery_id) as place from (
                 select partner_id, delivery_id from queue where subscription_id = $1 and due_at = 'infinity'
                 order by delivery_id limit $2 for update skip locked) as locked) as held
         where q.partner_id = held.partner_id and q.delivery_id = held.delivery_id",
    )
    .bind(subscription.0)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Makes rows due that are held although their subscription is active: what a race between a hold and a resume left behind.
pub async fn resume_stranded(db: &mut PgConnection, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "update queue q set due_at = herald_now() + held.place * interval '1 microsecond' from (
             select partner_id, delivery_id, row_number() over (order by subscription_id, delivery_id) as place from (
                 select h.partner_id, h.subscription_id, h.delivery_id
                 from queue h join subscriptions s on s.id = h.subscription_id
                 where h.due_at = 'infinity' and s.state = 'active'
                 order by h.subscription_id, h.delivery_id limit $1 for update of h skip locked) as locked) as held
         where q.partner_id = held.partner_id and q.delivery_id = held.delivery_id",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Ends unfinished deliveries of deleted subscriptions (of one, or of any) as cancelled, up to `limit`; returns how many.
pub async fn cancel_deleted(
    db: &mut PgConnection,
    of: Option<SubscriptionId>,
    limit: i64,
) -> Result<u64, Error> {
    let done = sqlx::query(include_str!("queries/queue/cancel_deleted.sql"))
        .bind(limit)
        .bind(of.map(|id| id.0))
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

/// Where a walk over the queue stands; it begins at the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    partner_id: Uuid,
    delivery_id: Uuid,
}

/// Ends the next `limit` unfinished deliveries of events older than the retention as expired; returns how many, and how far that was. None
/// means that the walk is over.
pub async fn expire(
    db: &mut PgConnection,
    retention_days: i32,
    after: Walked,
    limit: i64,
) -> Result<Option<(i64, Walked)>, Error> {
    let row: Option<(i64, Uuid, Uuid)> = sqlx::query_as(include_str!("queries/queue/expire.sql"))
        .bind(retention_days)
        .bind(after.partner_id)
        .bind(after.delivery_id)
        .bind(limit)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|(expired, partner_id, delivery_id)| (expired, Walked { partner_id, delivery_id })))
}

/// Whether any unfinished delivery still needs an event older than the retention.
pub async fn needs_expired(db: &mut PgConnection, retention_days: i32) -> Result<bool, Error> {
    let needed = sqlx::query_scalar(
        "select exists (select from queue where event_id <
             herald_uuid7_floor(((herald_now() at time zone 'UTC')::date - $1)::timestamp at time zone 'UTC'))",
    )
    .bind(retention_days)
    .fetch_one(db)
    .await?;
    Ok(needed)
}

/// How many deliveries are held for a subscription.
pub async fn count_held(db: &mut PgConnection, subscription: SubscriptionId) -> Result<i64, Error> {
    let count =
        sqlx::query_scalar("select count(*) from queue where subscription_id = $1 and due_at = 'infinity'")
            .bind(subscription.0)
            .fetch_one(db)
            .await?;
    Ok(count)
}

/// Makes a pending delivery due now. False when it has no queue row, or one that is being sent or held at this moment.
pub async fn hasten(db: &mut PgConnection, partner: PartnerId, delivery: DeliveryId) -> Result<bool, Error> {
    let done = sqlx::query(
        "update queue set due_at = least(due_at, herald_now())
         where partner_id = $1 and delivery_id = $2 and lease_owner is null and due_at < 'infinity'",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Queues a finished delivery again under its own id, with a fresh budget; held if its subscription is. False when it is queued already.
///
/// Its epochs begin at the seconds since 2020, so that nobody who leased it in an earlier life still fits: a row's epoch rises
/// more slowly than that.
pub async fn insert_again(
    db: &mut PgConnection,
    partner: PartnerId,
    delivery: DeliveryId,
    event: EventId,
    subscription: SubscriptionId,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into queue (partner_id, delivery_id, event_id, subscription_id, lease_epoch, due_at)
         select $1, $2, $3, s.id, extract(epoch from herald_now() - timestamptz '2020-01-01Z')::int,
                case when s.state = 'active' then herald_now() else 'infinity' end
         from subscriptions s where s.id = $4 and s.state <> 'deleted'
         on conflict (partner_id, delivery_id) do nothing",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .bind(event.0)
    .bind(subscription.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Rows and the age of the oldest that is due, for the metrics.
pub async fn depth(db: &mut PgConnection) -> Result<(i64, i64, f64), Error> {
    let row: (i64, i64, Option<f64>) = sqlx::query_as(
        "select count(*) filter (where due_at < 'infinity'), count(*) filter (where due_at = 'infinity'),
                extract(epoch from herald_now() - min(due_at) filter (where due_at <= herald_now() and lease_owner is null))::float8
         from queue",
    )
    .fetch_one(db)
    .await?;
    Ok((row.0, row.1, row.2.unwrap_or(0.0)))
}
