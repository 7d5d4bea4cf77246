//! The history: what came of each attempt.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::unknown_word;
use crate::domain::Error;
use crate::domain::attempt::{Attempt, Outcome};
use crate::domain::id::{AttemptId, DeliveryId, PartnerId, SubscriptionId};

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    outcome: String,
    status: Option<i16>,
    started_at: DateTime<Utc>,
    latency_ms: i32,
    response: Option<Vec<u8>>,
    detail: Option<String>,
    late: bool,
}

impl TryFrom<Row> for Attempt {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: AttemptId(row.id),
            outcome: Outcome::parse(&row.outcome).ok_or_else(|| unknown_word("outcome", &row.outcome))?,
            status: row.status.and_then(|status| u16::try_from(status).ok()),
            started_at: row.started_at,
            latency_ms: row.latency_ms,
            response: row.response,
            detail: row.detail,
            late: row.late,
        })
    }
}

/// A page of a delivery's attempts.
#[derive(Debug)]
pub struct Listed {
    /// In the order in which they were made.
    pub attempts: Vec<Attempt>,
    /// How many were made before them.
    pub earlier: usize,
    /// Where the list goes on, if it does: before this one.
    pub rest: Option<AttemptId>,
}

/// The last `limit` attempts of a delivery, of those before the cursor. Ends that no attempt made are not among them. A delivery may be sent again
/// as often as its partner likes, and an attempt carries what came back.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    delivery: DeliveryId,
    before: Option<AttemptId>,
    limit: i64,
) -> Result<Listed, Error> {
    let mut rows: Vec<Row> = sqlx::query_as(
        "select id, outcome, status, started_at, latency_ms, response, detail, late from attempts
         where partner_id = $1 and delivery_id = $2 and id < $3 and outcome not in ('cancelled', 'expired', 'crashed')
         order by id desc limit $4",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .bind(before.map_or(Uuid::max(), |id| id.0))
    // One more tells whether there is more.
    .bind(limit.saturating_add(1))
    .fetch_all(&mut *db)
    .await?;
    let has_more = i64::try_from(rows.len()).unwrap_or(i64::MAX) > limit;
    if has_more {
        rows.pop();
    }
    rows.reverse();
    let rest = rows.first().filter(|_| has_more).map(|first| AttemptId(first.id));
    let earlier = match rest {
        Some(first) => count_before(db, partner, delivery, first).await?,
        None => 0,
    };
    let attempts = rows.into_iter().map(Attempt::try_from).collect::<Result<_, _>>()?;
    Ok(Listed { attempts, earlier, rest })
}

async fn count_before(
    db: &mut PgConnection,
    partner: PartnerId,
    delivery: DeliveryId,
    first: AttemptId,
) -> Result<usize, Error> {
    let count: i64 = sqlx::query_scalar(
        "select count(*) from attempts
         where partner_id = $1 and delivery_id = $2 and id < $3 and outcome not in ('cancelled', 'expired', 'crashed')",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .bind(first.0)
    .fetch_one(db)
    .await?;
    usize::try_from(count).map_err(Error::internal)
}

/// What the history says last of a delivery, be it an attempt or an end that none made.
pub async fn find_last(
    db: &mut PgConnection,
    partner: PartnerId,
    delivery: DeliveryId,
) -> Result<Option<Attempt>, Error> {
    let row: Option<Row> = sqlx::query_as(
        "select id, outcome, status, started_at, latency_ms, response, detail, late from attempts
         where partner_id = $1 and delivery_id = $2 order by id desc limit 1",
    )
    .bind(partner.0)
    .bind(delivery.0)
    .fetch_optional(db)
    .await?;
    row.map(Attempt::try_from).transpose()
}

/// How a subscription's callback has been doing, judged by its latest attempts.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub struct Health {
    pub last_success_at: Option<DateTime<Utc>>,
    pub last_failure_at: Option<DateTime<Utc>>,
    /// Failures since the last success, at most 100.
    pub consecutive_failures: i64,
}

/// The partner is looked at and not searched by, as in queries/webhooks/history.sql.
pub async fn health(
    db: &mut PgConnection,
    partner: PartnerId,
    subscription: SubscriptionId,
) -> Result<Health, Error> {
    let health = sqlx::query_as(
        "with latest as (
             select id, outcome = 'delivered' as success, started_at from attempts
             where subscription_id = $2 and (partner_id = $1) is true and outcome not in ('cancelled', 'expired', 'crashed')
             order by id desc limit 100)
         select max(started_at) filter (where success) as last_success_at,
                max(started_at) filter (where not success) as last_failure_at,
                count(*) filter (where not success and id > coalesce((select max(id::text) from latest where success)::uuid,
                    '00000000-0000-0000-0000-000000000000')) as consecutive_failures
         from latest",
    )
    .bind(partner.0)
    .bind(subscription.0)
    .fetch_one(db)
    .await?;
    Ok(health)
}
