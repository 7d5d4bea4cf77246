//! The queue: unfinished deliveries, and nothing else.

mod books;
mod claim;
mod finish;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::delivery::Lease;
use crate::domain::id::{DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};

pub use books::Books;
pub use claim::{
    BYTES_PER_ROOM, Claimed, ROOM_OF_LARGEST, Reach, Share, claim, claim_suspect, claim_within, draw,
    next_due_ms, room_for,
};
pub use finish::{Done, Ending, Finish, Record, finish, plan_finish};

/// Gives back every lease of this node at once: the last act of a graceful stop. Rows are locked in the order of their keys.
pub async fn release_all(db: &mut PgConnection, owner: NodeId) -> Result<u64, Error> {
    sqlx::query("select herald_take_apart(array(select id from bundles where owner = $1), true)")
        .bind(owner.0)
        .execute(&mut *db)
        .await?;
    let done = sqlx::query(
        "with own as materialized (
             select partner_id, delivery_id from queue where lease_owner = $1 order by partner_id, delivery_id for update)
         update queue q set lease_owner = null, lease_epoch = q.lease_epoch + 1, due_at = herald_now() from own
         where q.partner_id = own.partner_id and q.delivery_id = own.delivery_id",
    )
    .bind(owner.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Ends up to `limit` leases of a node that is gone now instead of at their end; returns how many. Owner and epoch stay, as with a lease that
/// ran out: the claim that follows raises the epoch and counts the crash, and should the node live after all, it may still finish until then.
/// Not those in bundles, which are taken apart first ([`super::bundles::take_apart_of`]).
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

/// Of what was held for a subscription, so many deliveries are on their way at once: fewer than fit into a lane, so that they start in their order.
const DRAINING_MAX: i64 = 200;

/// What a resume did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Resumed {
    /// Rows that are due now.
    pub moved: i64,
    /// Whether there may be more: something was held, whether or not it could be moved now.
    pub unfinished: bool,
}

/// Counts a crash of deliveries whose results will not be written, under the leases that this node still has of them: these end without a word,
/// as if their sender had gone.
pub async fn count_crashes(
    db: &mut PgConnection,
    node: NodeId,
    leases: &[&Lease],
) -> Result<(), sqlx::Error> {
    let all = |lease: &&Lease| {
        let others = lease.others().iter().map(|other| (other.delivery, other.epoch));
        let rows = std::iter::once((lease.delivery, lease.epoch)).chain(others);
        rows.map(|(delivery, epoch)| (lease.partner.0, delivery.0, epoch)).collect::<Vec<_>>()
    };
    let rows: Vec<(Uuid, Uuid, i32)> = leases.iter().flat_map(all).collect();
    sqlx::query(
        "update queue q set crashes = q.crashes + 1
         from unnest($2::uuid[], $3::uuid[], $4::int[]) as l (partner_id, delivery_id, epoch)
         where q.partner_id = any (array[l.partner_id]) and q.delivery_id between l.delivery_id and l.delivery_id
           and q.lease_owner = $1 and q.lease_epoch = l.epoch",
    )
    .bind(node.0)
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Makes up to `limit` rows, and as many of batches, due that a clock made due which was far ahead for a moment: no policy lets a delivery wait for more than a week and
/// what chance adds to it. Returns how many.
pub async fn pull_in(db: &mut PgConnection, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        // By themselves: each has an index of its own.
        "with alone as materialized (
             select partner_id, delivery_id from queue
             where not batched and due_at > herald_now() + interval '9 days' and due_at < 'infinity'
             order by due_at limit $1 for update skip locked),
         batches as materialized (
             select partner_id, delivery_id from queue
             where batch_id is not null and not waits and due_at > herald_now() + interval '9 days' and due_at < 'infinity'
             order by due_at limit $1 for update skip locked)
         update queue q set due_at = herald_now() from (select * from alone union all select * from batches) as far
         where q.partner_id = far.partner_id and q.delivery_id = far.delivery_id",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Makes the oldest of what is held although its subscription is active due, up to `limit`, as far as enough of it is not on its way already: what
/// a resume left to come, or a race between a hold and a resume.
pub async fn resume(db: &mut PgConnection, limit: i64) -> Result<Resumed, Error> {
    let resumed = sqlx::query_as(include_str!("queries/queue/resume.sql"))
        .bind(limit)
        .bind(DRAINING_MAX)
        .fetch_one(db)
        .await?;
    Ok(resumed)
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

/// Whether any unfinished delivery, or one that is still to be queued, needs an event older than the retention.
pub async fn needs_expired(db: &mut PgConnection, retention_days: i32) -> Result<bool, Error> {
    let needed = sqlx::query_scalar(
        "with oldest as (
             select herald_uuid7_floor(((herald_now() at time zone 'UTC')::date - $1)::timestamp at time zone 'UTC') as event_id)
         select exists (select from queue, oldest where queue.event_id < oldest.event_id)
             or exists (select from fanouts, oldest where fanouts.event_id < oldest.event_id)",
    )
    .bind(retention_days)
    .fetch_one(db)
    .await?;
    Ok(needed)
}

/// How many deliveries are held for a subscription. What waits behind another with its ordering key is held if the subscription is stopped.
pub async fn count_held(db: &mut PgConnection, subscription: SubscriptionId) -> Result<i64, Error> {
    let count = sqlx::query_scalar(
        "select count(*) from queue q join subscriptions s on s.id = q.subscription_id
         where q.subscription_id = $1 and q.lease_owner is null and q.due_at = 'infinity'
           and (not q.waits or s.state in ('paused', 'disabled'))",
    )
    .bind(subscription.0)
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Has up to `limit` deliveries of a subscription that are from before a moment, were never tried, and are put off, wait for so much less: `factor` of
/// what they would. Returns where to go on behind the last of them. Batches keep their times.
pub async fn move_up(
    db: &mut PgConnection,
    subscription: SubscriptionId,
    (factor, from_before): (f64, DateTime<Utc>),
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Option<(DateTime<Utc>, Uuid)>, Error> {
    let (due_at, delivery) = after.unzip();
    let last = sqlx::query_as(
        "with put_off as materialized (
             select ctid as place, due_at, delivery_id from queue
             where subscription_id = $1 and lease_owner is null and not batched and attempts = 0 and due_at < 'infinity'
               and delivery_id < herald_uuid7_floor($6) and (due_at, delivery_id) > (coalesce($3, herald_now()), coalesce($4, uuid '00000000-0000-0000-0000-000000000000'))
             order by due_at, delivery_id limit $5 for update skip locked),
         moved as (
             update queue set due_at = herald_now() + greatest(due_at - herald_now(), interval '0') * $2
             where ctid = any (array(select place from put_off)))
         select due_at, delivery_id from put_off order by due_at desc, delivery_id desc limit 1",
    )
    .bind(subscription.0)
    .bind(factor)
    .bind(due_at)
    .bind(delivery)
    .bind(limit)
    .bind(from_before)
    .fetch_optional(db)
    .await?;
    Ok(last)
}

/// Makes a pending delivery due now, with the batch that it is in, whose rows are locked in the order of their keys. False when it has no queue row,
/// or one that is being sent, is held, or waits for another with its ordering key at this moment.
pub async fn hasten(db: &mut PgConnection, partner: PartnerId, delivery: DeliveryId) -> Result<bool, Error> {
    let done = sqlx::query(
        "with waiting as materialized (
             select delivery_id from queue
             where partner_id = $1 and lease_owner is null and due_at < 'infinity' and delivery_id = any (array(
                 select $2 union all
                 select delivery_id from queue where batch_id = (
                     select batch_id from queue where partner_id = $1 and delivery_id = $2)))
             order by delivery_id for update)
         update queue set due_at = least(due_at, herald_now())
         where partner_id = $1 and delivery_id = any (array(select delivery_id from waiting))",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A finished delivery that is to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    pub delivery: DeliveryId,
    pub event: EventId,
    pub subscription: SubscriptionId,
}

/// Queues finished deliveries again under their own ids, with a fresh budget; held if their subscriptions are. Returns how many: what is queued
/// already is left as it is, and what has lost its subscription or its event is left out.
pub async fn insert_again(
    db: &mut PgConnection,
    partner: PartnerId,
    finished: &[Finished],
) -> Result<u64, Error> {
    let ids = |of: fn(&Finished) -> Uuid| finished.iter().map(of).collect::<Vec<_>>();
    let done = sqlx::query(include_str!("queries/queue/insert_again.sql"))
        .bind(partner.0)
        .bind(ids(|one| one.delivery.0))
        .bind(ids(|one| one.event.0))
        .bind(ids(|one| one.subscription.0))
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

/// When a row of the queue is due; `None` when it is held.
pub async fn find_due_at(
    db: &mut PgConnection,
    partner: PartnerId,
    delivery: DeliveryId,
) -> Result<Option<DateTime<Utc>>, Error> {
    let due_at = sqlx::query_scalar(
        "select nullif(due_at, 'infinity') from queue where partner_id = $1 and delivery_id = $2",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .fetch_one(db)
    .await?;
    Ok(due_at)
}

/// About how many unfinished deliveries there are, by what the database has noted.
pub async fn estimate(db: &mut PgConnection) -> Result<i64, Error> {
    let rows = sqlx::query_scalar(
        "select greatest(c.reltuples::bigint, s.n_live_tup, 0) from pg_class c left join pg_stat_user_tables s on s.relid = c.oid
         where c.oid = 'queue'::regclass",
    )
    .fetch_one(db)
    .await?;
    Ok(rows)
}

/// How many unfinished deliveries there are, counted no further than `max`, but for what is being sent for the first time.
pub async fn count_up_to(db: &mut PgConnection, max: i64) -> Result<i64, Error> {
    let count = sqlx::query_scalar("select count(*) from (select from queue limit $1) as rows_there")
        .bind(max)
        .fetch_one(db)
        .await?;
    Ok(count)
}

/// Pending, held, and the age of the oldest that is due, for the metrics. What stands in a bundle counts until the bundle is used up or taken apart.
pub async fn depth(db: &mut PgConnection) -> Result<(i64, i64, f64), Error> {
    let row: (i64, i64, Option<f64>) = sqlx::query_as(
        "select count(*) filter (where due_at < 'infinity' or waits)
                    + (select coalesce(sum(cardinality(delivery_ids)), 0) from bundles)::bigint,
                count(*) filter (where due_at = 'infinity' and not waits),
                extract(epoch from herald_now() - min(due_at) filter (where due_at <= herald_now() and lease_owner is null))::float8
         from queue",
    )
    .fetch_one(db)
    .await?;
    Ok((row.0, row.1, row.2.unwrap_or(0.0)))
}
