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

/// Makes up to `limit` rows, and as many of batches, due that a clock made due which was far ahead for a moment: no policy lets a delivery wait for
/// more than a week and what chance adds to it, and no rate puts one off for more than a week at a time (`domain::throttle`). Returns how many.
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

/// The active subscriptions of which something is held: what a resume left to come, or a race between a hold and a resume. All that hold something
/// are looked at, paused ones included.
pub async fn held_of_active(db: &mut PgConnection) -> Result<Vec<SubscriptionId>, Error> {
    // From one subscription to the next by the index, whatever the number of their deliveries; as of those below.
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "with recursive holding as (
             (select q.subscription_id from queue q where q.due_at = 'infinity' and not q.waits order by q.subscription_id limit 1)
             union all
             select (select q.subscription_id from queue q
                     where q.due_at = 'infinity' and not q.waits and q.subscription_id > h.subscription_id
                     order by q.subscription_id limit 1)
             from holding h where h.subscription_id is not null)
         select subscription_id from holding h
         where (select s.state = 'active' from subscriptions s where s.id between h.subscription_id and h.subscription_id limit 1)",
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(SubscriptionId).collect())
}

/// Makes the oldest of what is held for these subscriptions due, of those that are active, up to `limit`, as far as enough of it is not on its way
/// already.
pub async fn resume(db: &mut PgConnection, of: &[SubscriptionId], limit: i64) -> Result<Resumed, Error> {
    let resumed = sqlx::query_as(include_str!("queries/queue/resume.sql"))
        .bind(limit)
        .bind(DRAINING_MAX)
        .bind(of.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_one(db)
        .await?;
    Ok(resumed)
}

/// The deleted subscriptions that have something unfinished. All that have are looked at.
pub async fn unfinished_of_deleted(db: &mut PgConnection) -> Result<Vec<SubscriptionId>, Error> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "with recursive having_some as (
             (select q.subscription_id from queue q where q.lease_owner is null order by q.subscription_id limit 1)
             union all
             select (select q.subscription_id from queue q
                     where q.lease_owner is null and q.subscription_id > h.subscription_id
                     order by q.subscription_id limit 1)
             from having_some h where h.subscription_id is not null)
         select subscription_id from having_some h
         where (select s.state = 'deleted' from subscriptions s where s.id between h.subscription_id and h.subscription_id limit 1)",
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(SubscriptionId).collect())
}

/// Ends unfinished deliveries of a subscription as cancelled, up to `limit`, if it is deleted; returns how many.
pub async fn cancel_deleted(db: &mut PgConnection, of: SubscriptionId, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(include_str!("queries/queue/cancel_deleted.sql"))
        .bind(limit)
        .bind(of.0)
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

/// Deliveries that are counted for one answer: of what is held there may be millions.
pub const COUNTED_MAX: i64 = 10_000;

/// How many deliveries are held for a subscription, counted no further than `max`. What waits behind another with its ordering key is held if the
/// subscription is stopped.
pub async fn count_held(db: &mut PgConnection, subscription: SubscriptionId, max: i64) -> Result<i64, Error> {
    let count: Option<i64> = sqlx::query_scalar(
        // Each is counted in an index that has nothing else: where all wait behind one that is being sent, none is waded through.
        "select case when s.state in ('paused', 'disabled')
             then (select count(*) from (
                 select from queue where subscription_id = $1 and lease_owner is null and due_at = 'infinity' limit $2) as held)
             else (select count(*) from (
                 select from queue where subscription_id = $1 and due_at = 'infinity' and not waits limit $2) as held) end
         from subscriptions s where s.id = $1",
    )
    .bind(subscription.0)
    .bind(max)
    .fetch_optional(db)
    .await?;
    Ok(count.unwrap_or(0))
}

/// Has up to `limit` deliveries of a subscription that are from before a moment, were never tried, and are put off, wait for so much less: `factor` of
/// what they would; and with each all of its batch. Returns where to go on behind the last of them.
pub async fn move_up(
    db: &mut PgConnection,
    subscription: SubscriptionId,
    (factor, from_before): (f64, DateTime<Utc>),
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Option<(DateTime<Utc>, Uuid)>, Error> {
    let (due_at, delivery) = after.unzip();
    let last = sqlx::query_as(include_str!("queries/queue/move_up.sql"))
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
        // By key at each step: this plan is kept, and may be from when the queue was empty.
        "with own as materialized (
             select batch_id from queue where partner_id = any (array[$1]) and delivery_id between $2 and $2 limit 1),
         together as materialized (
             select $2 as delivery_id
             union
             select m.delivery_id from own o
             cross join lateral (select delivery_id from queue where batch_id = any (array[o.batch_id])) as m),
         waiting as materialized (
             select w.delivery_id from (select delivery_id from together order by delivery_id) as t
             cross join lateral (
                 select delivery_id from queue
                 where partner_id = any (array[$1]) and delivery_id between t.delivery_id and t.delivery_id
                   and lease_owner is null and due_at < 'infinity'
                 limit 1 for update) as w)
         update queue q set due_at = least(q.due_at, herald_now()) from waiting w
         where q.partner_id = any (array[$1]) and q.delivery_id between w.delivery_id and w.delivery_id",
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
