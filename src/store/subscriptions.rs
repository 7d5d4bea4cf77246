//! Subscriptions and their event types.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{unknown_word, violated_constraint};
use crate::domain::id::{CallbackId, PartnerId, SubscriptionId};
use crate::domain::subscription::{Subscription, SubscriptionState};
use crate::domain::surface::Surface;
use crate::domain::version::Version;
use crate::domain::{Error, Noun};

/// The unique index whose refusal means DuplicateEntity.
const EXCLUSIVE: &str = "subscription_event_types_exclusive";

/// What a [`Row`] is read from: a subscription `s` and its callback `c`.
pub(super) const COLUMNS: &str = "s.id, s.partner_id, s.surface, s.external_key, s.callback_id, c.url, s.state, s.state_reason, s.version,
    s.created_at, s.updated_at,
    array(select event_type from subscription_event_types t where t.subscription_id = s.id order by event_type) as event_types";

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    id: Uuid,
    partner_id: Uuid,
    surface: String,
    external_key: String,
    callback_id: Uuid,
    url: String,
    state: String,
    state_reason: Option<String>,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    event_types: Vec<String>,
}

impl TryFrom<Row> for Subscription {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: SubscriptionId(row.id),
            partner: PartnerId(row.partner_id),
            surface: Surface::parse(&row.surface).ok_or_else(|| unknown_word("surface", &row.surface))?,
            external_key: row.external_key,
            callback: CallbackId(row.callback_id),
            callback_url: row.url,
            event_types: row.event_types,
            state: SubscriptionState::parse(&row.state)
                .ok_or_else(|| unknown_word("subscription state", &row.state))?,
            state_reason: row.state_reason,
            version: Version(row.version),
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// The partner's living subscription of this external key.
pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    surface: Surface,
    external_key: &str,
) -> Result<Option<Subscription>, Error> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from subscriptions s join callbacks c on c.id = s.callback_id
         where s.partner_id = $1 and s.surface = $2 and s.external_key = $3 and s.state <> 'deleted'"
    )))
    .bind(partner.0)
    .bind(surface.as_str())
    .bind(external_key)
    .fetch_optional(db)
    .await?;
    row.map(Subscription::try_from).transpose()
}

/// Every subscription that had this external key, the deleted ones too (the latest hundred), for looking into their history.
pub async fn list_ids_ever(
    db: &mut PgConnection,
    partner: PartnerId,
    surface: Surface,
    external_key: &str,
) -> Result<Vec<SubscriptionId>, Error> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select id from subscriptions where partner_id = $1 and surface = $2 and external_key = $3 order by id desc limit 100",
    )
    .bind(partner.0)
    .bind(surface.as_str())
    .bind(external_key)
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(SubscriptionId).collect())
}

/// Up to `limit` living subscriptions after a cursor, oldest first.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    surface: Surface,
    after: Option<SubscriptionId>,
    limit: i64,
) -> Result<Vec<Subscription>, Error> {
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from subscriptions s join callbacks c on c.id = s.callback_id
         where s.partner_id = $1 and s.surface = $2 and s.state <> 'deleted' and s.id > $3
         order by s.id limit $4"
    )))
    .bind(partner.0)
    .bind(surface.as_str())
    .bind(after.map_or(Uuid::nil(), |id| id.0))
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Subscription::try_from).collect()
}

pub struct NewSubscription<'a> {
    pub id: SubscriptionId,
    pub partner: PartnerId,
    pub surface: Surface,
    pub external_key: &'a str,
    pub callback: CallbackId,
    pub created_at: DateTime<Utc>,
}

/// Its version goes on from that of its predecessor under the same external key, so that nobody who has seen that one takes this for it. (The
/// latest hundred are looked at: ids of several nodes may be a little out of order.)
/// Errors: `VersionMismatch` when another request made the same one first.
pub async fn insert(db: &mut PgConnection, new: NewSubscription<'_>) -> Result<(), Error> {
    let done = sqlx::query(
        "insert into subscriptions (id, partner_id, surface, external_key, callback_id, created_at, updated_at, version)
         values ($1, $2, $3, $4, $5, $6, $6, 1 + coalesce((
             select max(version) from (
                 select version from subscriptions where partner_id = $2 and surface = $3 and external_key = $4
                 order by id desc limit 100) as earlier), 0))
         on conflict (partner_id, surface, external_key) where state <> 'deleted' do nothing",
    )
    .bind(new.id.0)
    .bind(new.partner.0)
    .bind(new.surface.as_str())
    .bind(new.external_key)
    .bind(new.callback.0)
    .bind(new.created_at)
    .execute(db)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(Error::VersionMismatch(Noun::Subscription)) }
}

/// Puts the event types of a subscription in the place of those it had. `exclusive_in` names that within which each may be taken once.
/// Errors: `Duplicate` when one is taken by another subscription.
pub async fn replace_event_types(
    db: &mut PgConnection,
    subscription: (PartnerId, SubscriptionId, Surface),
    event_types: &[String],
    exclusive_in: Option<&[u8]>,
) -> Result<(), Error> {
    let (partner, id, surface) = subscription;
    sqlx::query("delete from subscription_event_types where subscription_id = $1")
        .bind(id.0)
        .execute(&mut *db)
        .await?;
    let inserted = sqlx::query(
        "insert into subscription_event_types (partner_id, subscription_id, surface, event_type, exclusive_in)
         select $1, $2, $3, event_type, $5 from unnest($4::text[]) as event_type order by event_type",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(surface.as_str())
    .bind(event_types)
    .bind(exclusive_in)
    .execute(db)
    .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(error) if violated_constraint(&error) == Some(EXCLUSIVE) => {
            Err(Error::Duplicate(Noun::Subscription))
        }
        Err(error) => Err(error.into()),
    }
}

/// Counts a change, and moves to the state that it leads to, if nobody changed the row since it was read as `read`.
/// Errors: `VersionMismatch` when somebody did.
pub async fn touch(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
    read: Version,
    state: SubscriptionState,
    reason: Option<&str>,
) -> Result<(), Error> {
    let done = sqlx::query(
        "update subscriptions set version = version + 1, state = $4, state_reason = $5, failing_since = null, updated_at = herald_now()
         where partner_id = $1 and id = $2 and version = $3 and state <> 'deleted'",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(read.0)
    .bind(state.as_str())
    .bind(reason)
    .execute(db)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(Error::VersionMismatch(Noun::Subscription)) }
}

/// What a subscription and its callback were when something was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsRead {
    pub version: Version,
    pub callback_updated_at: DateTime<Utc>,
}

/// What became of a wish to disable a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disabling {
    Done,
    /// It is not what was judged any more.
    Outdated,
    /// Somebody has locked it.
    OutOfReach,
}

#[derive(sqlx::FromRow)]
struct DisablingRow {
    in_reach: bool,
    done: bool,
}

/// Disables a subscription because of what its callback said. Only an active one that is still what it was when the callback was called: its
/// owner's pause or deletion stands, and what an old callback said is not held against a new one. Where event types are taken only while
/// active, others may have them from now on. Its partner is to be told (`notices`). With `failing_for`, only if by now it has failed for so long
/// without a success. One that somebody has locked is not waited for.
pub async fn disable(
    db: &mut PgConnection,
    (partner, id): (PartnerId, SubscriptionId),
    judged: AsRead,
    failing_for: Option<Duration>,
    reason: &str,
) -> Result<Disabling, sqlx::Error> {
    let row: DisablingRow = sqlx::query_as(
        "with in_reach as materialized (
             select id from subscriptions where partner_id = $1 and id = $2 for update skip locked),
         disabled as (
             update subscriptions s set version = s.version + 1, state = 'disabled', state_reason = $3, updated_at = herald_now()
             from callbacks c
             where s.id in (select id from in_reach) and s.state = 'active' and s.version = $4
               and c.id = s.callback_id and c.updated_at = $5
               and ($6::bigint is null or s.failing_since <= herald_now() - $6 * interval '1 ms')
             returning s.id, s.partner_id, s.version, s.state_reason),
         noticed as (
             insert into notices (partner_id, subscription_id, version, reason)
             select partner_id, id, version, state_reason from disabled),
         freed as (
             update subscription_event_types set exclusive_in = null
             where subscription_id in (select id from disabled) and surface = 'notifications')
         select exists (select from in_reach) as in_reach, exists (select from disabled) as done",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(reason)
    .bind(judged.version.0)
    .bind(judged.callback_updated_at)
    .bind(failing_for.map(|failing_for| i64::try_from(failing_for.as_millis()).unwrap_or(i64::MAX)))
    .fetch_one(db)
    .await?;
    Ok(match row {
        DisablingRow { done: true, .. } => Disabling::Done,
        DisablingRow { in_reach: true, .. } => Disabling::Outdated,
        DisablingRow { .. } => Disabling::OutOfReach,
    })
}

/// A partner's own delivery policy for a subscription; `None` is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct PolicyRow {
    pub retry_delays_ms: Option<Vec<i64>>,
    pub timeout_ms: Option<i32>,
    pub rate_per_s: Option<i32>,
}

/// Reads a policy for changing it within the present transaction. `None` when the subscription was deleted meanwhile.
pub async fn lock_policy(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
) -> Result<Option<PolicyRow>, Error> {
    let row = sqlx::query_as(
        "select retry_delays_ms, timeout_ms, rate_per_s from subscriptions
         where partner_id = $1 and id = $2 and state <> 'deleted' for update",
    )
    .bind(partner.0)
    .bind(id.0)
    .fetch_optional(db)
    .await?;
    Ok(row)
}

pub async fn find_policy(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
) -> Result<PolicyRow, Error> {
    let row = sqlx::query_as(
        "select retry_delays_ms, timeout_ms, rate_per_s from subscriptions where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(id.0)
    .fetch_one(db)
    .await?;
    Ok(row)
}

/// The strictest rate that a subscription of a callback has; none, if none has one.
pub async fn strictest_rate(db: &mut PgConnection, callback: CallbackId) -> Result<Option<i32>, Error> {
    let rate = sqlx::query_scalar(
        "select min(rate_per_s) from subscriptions where callback_id = $1 and state <> 'deleted'",
    )
    .bind(callback.0)
    .fetch_one(db)
    .await?;
    Ok(rate)
}

/// Those that are not deleted.
pub async fn of_callback(db: &mut PgConnection, callback: CallbackId) -> Result<Vec<SubscriptionId>, Error> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar("select id from subscriptions where callback_id = $1 and state <> 'deleted'")
            .bind(callback.0)
            .fetch_all(db)
            .await?;
    Ok(ids.into_iter().map(SubscriptionId).collect())
}

pub async fn update_policy(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
    policy: &PolicyRow,
) -> Result<(), Error> {
    sqlx::query(
        "update subscriptions set retry_delays_ms = $3, timeout_ms = $4, rate_per_s = $5, version = version + 1,
             updated_at = herald_now()
         where partner_id = $1 and id = $2 and state <> 'deleted'",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(&policy.retry_delays_ms)
    .bind(policy.timeout_ms)
    .bind(policy.rate_per_s)
    .execute(db)
    .await?;
    Ok(())
}

/// Notes since when these subscriptions fail, unless that is known already. One that somebody has locked is passed over: its next failure is as good.
pub async fn begin_failing(db: &mut PgConnection, ids: &[SubscriptionId]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with turned as materialized (
             select id from subscriptions where id = any ($1) and failing_since is null order by partner_id, id for update skip locked)
         update subscriptions set failing_since = herald_now() where id in (select id from turned)",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that these subscriptions are well again. Returns those of which it could not be noted, since somebody has locked them.
pub async fn end_failing(
    db: &mut PgConnection,
    ids: &[SubscriptionId],
) -> Result<Vec<SubscriptionId>, sqlx::Error> {
    let passed_over: Vec<Uuid> = sqlx::query_scalar(
        "with failing as materialized (
             select id from subscriptions where id = any ($1) and failing_since is not null),
         turned as materialized (
             select id from subscriptions where id in (select id from failing) order by partner_id, id for update skip locked),
         ended as (
             update subscriptions set failing_since = null where id in (select id from turned))
         select id from failing where id not in (select id from turned)",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    Ok(passed_over.into_iter().map(SubscriptionId).collect())
}
