//! What is older than the retention goes, a day at a time: first what is still undelivered ends as expired, for its partner to see, then the
//! day's tables are dropped. One node does it at a time; which one does not matter.

use sqlx::{PgConnection, PgPool};

use crate::domain::Error;
use crate::domain::delivery::DeliveryState;
use crate::store::queue::{self, Walked};
use crate::store::sessions::in_time;
use crate::store::{bundles, partitions, replays};
use crate::telemetry::Metrics;

/// Rows a statement touches at most.
const CHUNK: i64 = 1_000;

/// Removes what has been over for longer than `retention_days`. A clock that is days ahead of the last call, in whichever process that
/// was, is followed by a day an hour: one that is wrong must not cost more than that before somebody sees it.
/// Errors: `Unavailable` when a long reader is in the way. What was begun stays begun, and the next call goes on with it.
pub async fn keep(pool: &PgPool, retention_days: i32, metrics: &Metrics) -> Result<(), Error> {
    let mut connection = pool.acquire().await?;
    // The right to remove belongs to the session, so it must end here, however this ends.
    connection.close_on_drop();
    let db = &mut *connection;
    if !in_time(partitions::begin_removal(db)).await? {
        return Ok(());
    }
    let behind = in_time(partitions::days_behind(db)).await?;
    if behind > 0 {
        tracing::warn!(
            days = behind,
            "the database's clock is days ahead of the last look for what is older than the retention; it is followed by a day an hour. If \
             it is wrong, set it right: nothing else is to be done"
        );
    }
    let retention_days = retention_days.saturating_add(behind);
    // What ran out while nobody was there is looked at as rows.
    while in_time(bundles::take_apart_due(db, None, CHUNK)).await? > 0 {}
    // Most of the time nothing is, and a long queue need not be walked to find that out.
    let mut events_are_needed = in_time(queue::needs_expired(db, retention_days)).await?;
    if events_are_needed {
        expire(db, retention_days, metrics).await?;
        // Somebody is sending such a delivery at this moment. If that fails it must find its event, or nobody could say what it was.
        events_are_needed = in_time(queue::needs_expired(db, retention_days)).await?;
    }
    for over in in_time(partitions::list_over(db, retention_days)).await? {
        if over.holds_events() && events_are_needed {
            continue;
        }
        in_time(partitions::remove(db, &over)).await?;
        tracing::info!(table = over.name, retention_days, "dropped a day that left the retention window");
    }
    while in_time(replays::forget(db, retention_days, CHUNK)).await? >= CHUNK.unsigned_abs() {}
    Ok(())
}

/// Ends what is undelivered although its event has left the window.
async fn expire(db: &mut PgConnection, retention_days: i32, metrics: &Metrics) -> Result<(), Error> {
    let (mut walked, mut expired) = (Walked::default(), 0);
    while let Some((count, last)) = in_time(queue::expire(db, retention_days, walked, CHUNK)).await? {
        (walked, expired) = (last, expired + count);
        metrics.deliveries_ended(DeliveryState::Expired, u64::try_from(count).unwrap_or_default());
    }
    if expired > 0 {
        tracing::warn!(
            deliveries = expired,
            retention_days,
            "deliveries left the retention window undelivered"
        );
    }
    Ok(())
}
