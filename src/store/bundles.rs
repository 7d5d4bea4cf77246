//! Deliveries that were born leased, in one row for all that a commit leased to its node. A bundle is as good as the queue rows that it stands for,
//! and can be taken apart into them at any time, see `docs/decisions/0029-bundles.md`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::delivery::{Bundle, Lease};
use crate::domain::id::{BundleId, NodeId};

/// Gives what is left of these bundles its queue rows. Who is doing the same, or records an end in one of them, is waited for.
pub async fn take_apart(db: &mut PgConnection, bundles: &[BundleId]) -> Result<(), sqlx::Error> {
    sqlx::query("select herald_take_apart($1, true)").bind(uuids(bundles)).execute(db).await?;
    Ok(())
}

/// Takes apart the bundles whose leases ran out, no earlier than `due_from` if that is given, but for those that somebody is at work on: as many as
/// have `members_max` members together, and one at least. Returns how many; what follows is a claim's work.
pub async fn take_apart_due(
    db: &mut PgConnection,
    due_from: Option<DateTime<Utc>>,
    members_max: i64,
) -> Result<i64, Error> {
    let taken: Option<i64> = sqlx::query_scalar(
        "with due as materialized (
             select id, due_at, cardinality(delivery_ids) as members from bundles
             where due_at <= herald_now() and due_at >= coalesce($1, timestamptz '-infinity')
             order by due_at limit 1000 for update skip locked)
         select herald_take_apart(few.ids, false) from (select array(
             select id from (select id, sum(members) over (order by due_at, id) - members as before from due) summed where before < $2) as ids) few
         where cardinality(few.ids) > 0",
    )
    .bind(due_from)
    .bind(members_max)
    .fetch_optional(db)
    .await?;
    Ok(taken.unwrap_or_default())
}

/// Takes apart the bundles that a node has had since `born_until` at the latest, as [`take_apart_due`] does. Returns how many.
pub async fn take_apart_of(
    db: &mut PgConnection,
    owner: NodeId,
    born_until: DateTime<Utc>,
    members_max: i64,
) -> Result<i64, Error> {
    let taken: Option<i64> = sqlx::query_scalar(
        "with own as materialized (
             select id, cardinality(delivery_ids) as members from bundles
             where owner = $1 and born_at <= $2 order by id limit 1000 for update skip locked)
         select herald_take_apart(few.ids, false) from (select array(
             select id from (select id, sum(members) over (order by id) - members as before from own) summed where before < $3) as ids) few
         where cardinality(few.ids) > 0",
    )
    .bind(owner.0)
    .bind(born_until)
    .bind(members_max)
    .fetch_optional(db)
    .await?;
    Ok(taken.unwrap_or_default())
}

/// Gives some members of bundles their queue rows, and leaves the rest as it is; deletes the bundles of which nothing is left then. Only for
/// members that have not ended. Where a bundle is not the owner's any more, it was taken apart, and they have their rows.
pub(super) async fn split_off(
    db: &mut PgConnection,
    owner: NodeId,
    members: &[(&Lease, Bundle)],
    used_up: &[BundleId],
) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("queries/bundles/split_off.sql"))
        .bind(owner.0)
        .bind(members.iter().map(|(lease, _)| lease.partner.0).collect::<Vec<_>>())
        .bind(members.iter().map(|(lease, _)| lease.delivery.0).collect::<Vec<_>>())
        .bind(members.iter().map(|(lease, _)| lease.event.id.0).collect::<Vec<_>>())
        .bind(members.iter().map(|(lease, _)| lease.subscription.0).collect::<Vec<_>>())
        .bind(members.iter().map(|(_, bundle)| bundle.id.0).collect::<Vec<_>>())
        .bind(uuids(used_up))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) fn uuids(bundles: &[BundleId]) -> Vec<Uuid> {
    bundles.iter().map(|id| id.0).collect()
}
