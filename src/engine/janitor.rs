//! Keeps the promises that no single request can, every few seconds and a chunk at a time. Any number of nodes may do it at once.

pub mod retention;

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;

use super::stopped;
use crate::domain::Error;
use crate::domain::delivery::DeliveryState;
use crate::store::ordering_lines::{self, Stalled};
use crate::store::sessions::in_time;
use crate::store::{access_tokens, event_keys, idempotency, partitions, queue};
use crate::telemetry::{Metrics, Pulse};

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Sweeps between two looks at the partitions: about an hour.
const SWEEPS_PER_PARTITION_ROUND: u32 = 360;
/// Rows a statement touches at most.
const CHUNK: u64 = 1_000;

#[derive(Clone)]
pub struct Pulses {
    pub sweeps: Pulse,
    pub partitions: Pulse,
}

pub async fn run(
    pool: PgPool,
    retention_days: i32,
    metrics: Metrics,
    pulses: Pulses,
    mut stop: watch::Receiver<bool>,
) {
    let mut sweeps_to_partition_round = 0;
    loop {
        match sweep(&pool, &metrics).await {
            Ok(()) => pulses.sweeps.well(),
            Err(error) => {
                if partitions::is_missing_behind(&error) {
                    sweeps_to_partition_round = 0;
                }
                pulses.sweeps.failed(&error, "what nobody needs cannot be swept away now");
            }
        }
        if sweeps_to_partition_round == 0 {
            match partition_round(&pool, retention_days, &metrics).await {
                Ok(()) => {
                    pulses.partitions.well();
                    sweeps_to_partition_round = SWEEPS_PER_PARTITION_ROUND;
                }
                Err(error) => pulses.partitions.failed(&error, "partitions cannot be seen to now"),
            }
        } else {
            sweeps_to_partition_round -= 1;
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

async fn partition_round(pool: &PgPool, retention_days: i32, metrics: &Metrics) -> Result<(), Error> {
    in_time(async { partitions::make_ahead(&mut *pool.acquire().await?).await }).await?;
    retention::keep(pool, retention_days, metrics).await
}

async fn sweep(pool: &PgPool, metrics: &Metrics) -> Result<(), Error> {
    let mut connection = pool.acquire().await?;
    let db = &mut *connection;
    let limit = i64::try_from(CHUNK).map_err(Error::internal)?;
    for deleted in in_time(queue::unfinished_of_deleted(db)).await? {
        loop {
            let cancelled = in_time(queue::cancel_deleted(db, deleted, limit)).await?;
            metrics.deliveries_ended(DeliveryState::Cancelled, cancelled);
            if cancelled < CHUNK {
                break;
            }
        }
    }
    while in_time(queue::pull_in(db, limit)).await? >= CHUNK {}
    in_time(tend_lines(db, limit)).await?;
    while in_time(idempotency::forget(db, limit)).await? == CHUNK {}
    while in_time(event_keys::forget(db, limit)).await? == CHUNK {}
    while in_time(access_tokens::forget(db, limit)).await? == CHUNK {}
    Ok(())
}

/// Moves on lines in which nobody is first: whoever was to let out the next died before it could. Lines of deleted subscriptions are forgotten.
async fn tend_lines(db: &mut PgConnection, limit: i64) -> Result<(), Error> {
    loop {
        let stalled = ordering_lines::list_stalled(db, limit).await?;
        let lines: Vec<_> = stalled.iter().map(Stalled::line).collect();
        let moved =
            ordering_lines::let_out(db, &lines).await? + ordering_lines::forget_empty(db, &stalled).await?;
        // Those that somebody else saw to meanwhile come up no more; if there are others, the next sweep has them.
        if stalled.len() < CHUNK as usize || moved == 0 {
            return Ok(());
        }
    }
}
