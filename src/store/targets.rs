//! What the engine needs to know to send to a subscription, sealed secrets included.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{CallbackId, SubscriptionId};
use crate::domain::version::Version;
use crate::store::subscriptions::AsRead;

#[derive(sqlx::FromRow)]
pub struct TargetRow {
    pub subscription_id: Uuid,
    pub partner_id: Uuid,
    pub callback_id: Uuid,
    pub surface: String,
    pub state: String,
    /// Rises with every change of the subscription.
    pub version: i64,
    pub url: String,
    pub callback_updated_at: DateTime<Utc>,
    pub backup_url: Option<String>,
    pub credentials: Option<Vec<u8>>,
    pub signing_key: Option<Vec<u8>>,
    /// Those that are still valid, newest first.
    pub superseded_signing_keys: Vec<Vec<u8>>,
    pub retry_delays_ms: Option<Vec<i64>>,
    pub timeout_ms: Option<i32>,
    /// The strictest of those who share the callback.
    pub rate_per_s: Option<i32>,
    /// Seconds for which everything has failed.
    pub failing_for_s: Option<f64>,
}

impl TargetRow {
    pub fn as_read(&self) -> AsRead {
        AsRead { version: Version(self.version), callback_updated_at: self.callback_updated_at }
    }
}

/// What is read of a callback. A superseded signing key that is no longer valid is not shown.
const OF_CALLBACK: &str = "c.url, c.updated_at as callback_updated_at, c.backup_url, c.credentials, c.signing_key,
    array(select k.signing_key from superseded_signing_keys k where k.callback_id = c.id and k.valid_until > herald_now()
          order by k.valid_until desc) as superseded_signing_keys";

/// The present state of these subscriptions, deleted ones included.
pub async fn find(db: &mut PgConnection, ids: &[SubscriptionId]) -> Result<Vec<TargetRow>, Error> {
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "with strictest as materialized (
             select w.callback_id, (
                 select min(o.rate_per_s) from subscriptions o where o.callback_id = w.callback_id and o.state <> 'deleted') as rate_per_s
             from (select distinct callback_id from subscriptions where id = any ($1)) w)
         select s.id as subscription_id, s.partner_id, s.callback_id, s.surface, s.state, s.version, {OF_CALLBACK},
                s.retry_delays_ms, s.timeout_ms, r.rate_per_s,
                extract(epoch from herald_now() - s.failing_since)::float8 as failing_for_s
         from subscriptions s join callbacks c on c.id = s.callback_id join strictest r on r.callback_id = s.callback_id
         where s.id = any ($1)"
    )))
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// The callbacks that these subscriptions have now.
pub async fn callbacks(
    db: &mut PgConnection,
    ids: &[SubscriptionId],
) -> Result<Vec<(SubscriptionId, CallbackId)>, Error> {
    let rows: Vec<(Uuid, Uuid)> =
        sqlx::query_as("select id, callback_id from subscriptions where id = any ($1)")
            .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(db)
            .await?;
    Ok(rows.into_iter().map(|(id, callback)| (SubscriptionId(id), CallbackId(callback))).collect())
}

/// A callback as a target of its own, whichever subscriptions have it: active, with the default policy, under the callback's id.
pub async fn find_callback(db: &mut PgConnection, id: CallbackId) -> Result<Option<TargetRow>, Error> {
    let row = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select c.id as subscription_id, c.partner_id, c.id as callback_id, c.surface, 'active' as state, 1::bigint as version, {OF_CALLBACK},
                null::bigint[] as retry_delays_ms, null::integer as timeout_ms, null::integer as rate_per_s,
                null::float8 as failing_for_s
         from callbacks c where c.id = $1"
    )))
    .bind(id.0)
    .fetch_optional(db)
    .await?;
    Ok(row)
}
