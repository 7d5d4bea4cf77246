//! Watches that the queue does not grow without end: beyond a bound nothing more is published until some of it has been delivered (SECURITY
//! rule 14). Cancels go on, since a session's state must not depend on who cannot be reached.
//!
//! How many rows there are is known well enough from the database's own statistics; they are counted only where the bound is near, and only
//! up to it. Publishers are not made to wait for any of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;

use super::stopped;
use crate::domain::Error;
use crate::store::queue;
use crate::store::sessions::in_time;
use crate::telemetry::Pulse;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So many rows are counted in no time, whatever the statistics say.
const ALWAYS_COUNTED: i64 = 100_000;

pub async fn run(
    pool: PgPool,
    rows_max: i64,
    full: Arc<AtomicBool>,
    pulse: Pulse,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let looked = in_time(async { is_full(&mut *pool.acquire().await?, rows_max).await });
        let looked = looked.await;
        match &looked {
            Ok(_) => pulse.well(),
            Err(error) => pulse.failed(error, "the backlog cannot be looked at now"),
        }
        match looked {
            Ok(now) if full.swap(now, Ordering::Relaxed) == now => {}
            Ok(true) => {
                tracing::warn!(
                    rows_max,
                    "the backlog has reached its bound: publishing is answered 429 until it is below it"
                );
            }
            Ok(false) => tracing::info!(rows_max, "the backlog is below its bound again: publishing goes on"),
            Err(_said) => {}
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whether the queue has so many rows.
pub async fn is_full(db: &mut PgConnection, rows_max: i64) -> Result<bool, Error> {
    // The statistics lag behind, so they are believed only well below the bound.
    let near = rows_max <= ALWAYS_COUNTED || queue::estimate(db).await? >= rows_max / 4 * 3;
    Ok(near && queue::count_up_to(db, rows_max).await? >= rows_max)
}
