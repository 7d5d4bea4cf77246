//! Jobs that send many finished deliveries again.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::queue::Finished;
use super::{sections, unknown_word};
use crate::domain::Error;
use crate::domain::delivery::DeliveryState;
use crate::domain::event::TEST_EVENT_TYPE;
use crate::domain::id::{DeliveryId, EventId, PartnerId, ReplayId, SubscriptionId};
use crate::domain::replay::{ReplayState, Selection};
use crate::domain::surface::Surface;

#[derive(Debug, Clone)]
pub struct Replay {
    pub partner: PartnerId,
    pub id: ReplayId,
    pub state: ReplayState,
    pub dry_run: bool,
    /// `until` is always there.
    pub of: Selection,
    /// The subscriptions, inside, that `of` speaks of.
    subscriptions: Option<Vec<Uuid>>,
    reached: Uuid,
    pub matched: i64,
    pub queued: i64,
    pub skipped: i64,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Replay {
    /// How far it has come, by the time of the events; `None` while that is nowhere, and once it is over.
    pub fn reached_at(&self) -> Option<DateTime<Utc>> {
        let is_over = matches!(self.state, ReplayState::Done | ReplayState::Cancelled);
        (!is_over && !self.reached.is_nil()).then(|| DeliveryId(self.reached).moment())
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    partner_id: Uuid,
    id: Uuid,
    state: String,
    dry_run: bool,
    of_state: String,
    surface: Option<String>,
    external_key: Option<String>,
    subscriptions: Option<Vec<Uuid>>,
    event_type: Option<String>,
    from_at: Option<DateTime<Utc>>,
    until_at: DateTime<Utc>,
    reached: Uuid,
    matched: i64,
    queued: i64,
    skipped: i64,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

/// Begins a replay; false while the partner has another one that is not over. `subscriptions` are those that the selection speaks of, if it
/// speaks of one.
pub async fn insert(
    db: &mut PgConnection,
    (partner, id): (PartnerId, ReplayId),
    of: &Selection,
    subscriptions: Option<&[SubscriptionId]>,
    dry_run: bool,
) -> Result<bool, Error> {
    let ids = |ids: &[SubscriptionId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let done = sqlx::query(include_str!("queries/replays/insert.sql"))
        .bind(partner.0)
        .bind(id.0)
        .bind(dry_run)
        .bind(of.state.as_str())
        .bind(of.subscription.as_ref().map(|(surface, _)| surface.as_str()))
        .bind(of.subscription.as_ref().map(|(_, key)| key))
        .bind(subscriptions.map(ids))
        .bind(&of.event_type)
        .bind(of.from)
        .bind(of.until)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The statements that read replays: a page of a partner's, one of them, the one that is due.
static READ: LazyLock<[String; 3]> = LazyLock::new(|| {
    ["page", "one", "due"].map(|section| sections::with(include_str!("queries/replays/read.sql"), &[section]))
});

/// A partner's replays older than the given one, newest first, up to `limit`.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    before: Option<ReplayId>,
    limit: i64,
) -> Result<Vec<Replay>, Error> {
    let [page, ..]: &'static [String; 3] = &READ;
    let rows: Vec<Row> = sqlx::query_as(page.as_str())
        .bind(partner.0)
        .bind(before.map_or(Uuid::max(), |id| id.0))
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.into_iter().map(Replay::try_from).collect()
}

pub async fn find(db: &mut PgConnection, partner: PartnerId, id: ReplayId) -> Result<Option<Replay>, Error> {
    let [_, one, _]: &'static [String; 3] = &READ;
    let row: Option<Row> = sqlx::query_as(one.as_str()).bind(partner.0).bind(id.0).fetch_optional(db).await?;
    row.map(Replay::try_from).transpose()
}

/// Stops a replay that is not over; false where there is none, or it is. A step that is being taken is waited for.
pub async fn cancel(db: &mut PgConnection, partner: PartnerId, id: ReplayId) -> Result<bool, Error> {
    let done = sqlx::query(
        "update replays set state = 'cancelled', ended_at = herald_now()
         where partner_id = $1 and id = $2 and state in ('counting', 'queueing')",
    )
    .bind(partner.0)
    .bind(id.0)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How long it is until a step of any replay is due; `None` when none is running.
pub async fn next_due_in(db: &mut PgConnection) -> Result<Option<Duration>, Error> {
    let due_in_ms: Option<i64> = sqlx::query_scalar(
        "select ceil(extract(epoch from min(due_at) - herald_now()) * 1000)::bigint from replays
         where state in ('counting', 'queueing')",
    )
    .fetch_one(db)
    .await?;
    Ok(due_in_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default())))
}

/// Locks the replay whose next step is due for longest, and that nobody is working on.
pub async fn take(db: &mut PgConnection) -> Result<Option<Replay>, Error> {
    let [.., due]: &'static [String; 3] = &READ;
    let row: Option<Row> = sqlx::query_as(due.as_str()).fetch_optional(db).await?;
    row.map(Replay::try_from).transpose()
}

/// What one step of a replay has before it.
#[derive(Debug)]
pub struct Looked {
    /// Oldest first.
    pub fit: Vec<Finished>,
    /// Behind which the next step goes on; `None` when this is the last.
    pub rest: Option<DeliveryId>,
}

/// The next deliveries that fit, up to `limit`, as far as they are found among the next `looked_at_max` attempts.
pub async fn look(
    db: &mut PgConnection,
    replay: &Replay,
    limit: i64,
    looked_at_max: i64,
) -> Result<Looked, Error> {
    static OF_DELIVERED: LazyLock<[String; 2]> = LazyLock::new(|| statements(&[]));
    static OF_RARE: LazyLock<[String; 2]> = LazyLock::new(|| statements(&["rare"]));
    let [ceiling, look]: &'static [String; 2] =
        if replay.of.state == DeliveryState::Delivered { &OF_DELIVERED } else { &OF_RARE };
    let until: Uuid =
        sqlx::query_scalar("select herald_uuid7_floor($1)").bind(replay.of.until).fetch_one(&mut *db).await?;
    let ceiling: Option<Uuid> = sqlx::query_scalar(ceiling.as_str())
        .bind(replay.partner.0)
        .bind(replay.reached)
        .bind(until)
        .bind(looked_at_max)
        .fetch_optional(&mut *db)
        .await?;
    let rows: Vec<(Uuid, Uuid, Uuid)> = sqlx::query_as(look.as_str())
        .bind(replay.partner.0)
        .bind(replay.reached)
        .bind(until)
        .bind(ceiling.unwrap_or(Uuid::max()))
        .bind(replay.of.state.as_str())
        .bind(&replay.subscriptions)
        .bind(&replay.of.event_type)
        .bind(limit)
        .bind(TEST_EVENT_TYPE)
        .fetch_all(db)
        .await?;
    let is_full = i64::try_from(rows.len()).map_err(Error::internal)? == limit;
    let last = rows.last().filter(|_| is_full).map(|(delivery, _, _)| *delivery);
    let fit = rows
        .into_iter()
        .map(|(delivery, event, subscription)| Finished {
            delivery: DeliveryId(delivery),
            event: EventId(event),
            subscription: SubscriptionId(subscription),
        })
        .collect();
    Ok(Looked { fit, rest: last.or(ceiling).map(DeliveryId) })
}

fn statements(chosen: &[&str]) -> [String; 2] {
    let all = [include_str!("queries/replays/ceiling.sql"), include_str!("queries/replays/look.sql")];
    all.map(|sql| sections::with(sql, chosen))
}

/// What a step has done.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub matched: i64,
    pub queued: i64,
    pub skipped: i64,
    /// Where the replay stands afterwards.
    pub state: ReplayState,
    /// Behind which it goes on; `None` for where it began.
    pub reached: Option<DeliveryId>,
    /// Until its next step.
    pub wait: Duration,
}

/// Notes what a step has done. In its transaction, which holds the replay's lock.
pub async fn note(db: &mut PgConnection, replay: &Replay, step: Step) -> Result<(), Error> {
    sqlx::query(
        "update replays set state = $3, matched = matched + $4, queued = queued + $5, skipped = skipped + $6,
             reached = coalesce($7, herald_uuid7_floor(from_at), '00000000-0000-0000-0000-000000000000'),
             due_at = herald_now() + $8 * interval '1 millisecond',
             ended_at = case when $3 in ('done', 'cancelled') then herald_now() end
         where partner_id = $1 and id = $2",
    )
    .bind(replay.partner.0)
    .bind(replay.id.0)
    .bind(step.state.as_str())
    .bind(step.matched)
    .bind(step.queued)
    .bind(step.skipped)
    .bind(step.reached.map(|delivery| delivery.0))
    .bind(i64::try_from(step.wait.as_millis()).map_err(Error::internal)?)
    .execute(db)
    .await?;
    Ok(())
}

/// Puts off the next step of a replay that is not over.
pub async fn put_off(
    db: &mut PgConnection,
    (partner, id): (PartnerId, ReplayId),
    wait: Duration,
) -> Result<(), Error> {
    sqlx::query(
        "update replays set due_at = herald_now() + $3 * interval '1 millisecond'
         where partner_id = $1 and id = $2 and state in ('counting', 'queueing')",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(i64::try_from(wait.as_millis()).map_err(Error::internal)?)
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets replays that have been over for so many days, up to `limit`; returns how many.
pub async fn forget(db: &mut PgConnection, days: i32, limit: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "delete from replays where ctid = any (array(
             select ctid from replays where ended_at < herald_now() - make_interval(days => $1) limit $2))",
    )
    .bind(days)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

impl TryFrom<Row> for Replay {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let surface = row
            .surface
            .map(|word| Surface::parse(&word).ok_or_else(|| unknown_word("surface", &word)))
            .transpose()?;
        Ok(Self {
            partner: PartnerId(row.partner_id),
            id: ReplayId(row.id),
            state: ReplayState::parse(&row.state).ok_or_else(|| unknown_word("replay state", &row.state))?,
            dry_run: row.dry_run,
            of: Selection {
                state: DeliveryState::parse(&row.of_state)
                    .ok_or_else(|| unknown_word("delivery state", &row.of_state))?,
                subscription: surface.zip(row.external_key),
                event_type: row.event_type,
                from: row.from_at,
                until: Some(row.until_at),
            },
            subscriptions: row.subscriptions,
            reached: row.reached,
            matched: row.matched,
            queued: row.queued,
            skipped: row.skipped,
            created_at: row.created_at,
            ended_at: row.ended_at,
        })
    }
}
