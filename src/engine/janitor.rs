//! Keeps the promises that no single request can, every few seconds and a chunk at a time. Any number of nodes may do it at once.

pub mod retention;

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use super::stopped;
use crate::domain::Error;
use crate::store::{event_keys, idempotency, partitions, queue};

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Sweeps between two looks at the partitions: about an hour.
const SWEEPS_PER_PARTITION_ROUND: u32 = 360;
/// Rows a statement touches at most.
const CHUNK: u64 = 1_000;

pub async fn run(pool: PgPool, retention_days: i32, mut stop: watch::Receiver<bool>) {
    let mut sweeps_to_partition_round = 0;
    loop {
        if let Err(error) = sweep(&pool).await {
            tracing::warn!(error = %error.chain(), "sweeping failed; it is tried again in {} s", SWEEP_EVERY.as_secs());
        }
        if sweeps_to_partition_round == 0 {
            match partition_round(&pool, retention_days).await {
                Ok(()) => sweeps_to_partition_round = SWEEPS_PER_PARTITION_ROUND,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "partitions could not be seen to; it is tried again in {} s", SWEEP_EVERY.as_secs());
                }
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

async fn partition_round(pool: &PgPool, retention_days: i32) -> Result<(), Error> {
    partitions::make_ahead(&mut *pool.acquire().await?).await?;
    retention::keep(pool, retention_days).await
}

async fn sweep(pool: &PgPool) -> Result<(), Error> {
    let mut connection = pool.acquire().await?;
    let db = &mut *connection;
    let limit = i64::try_from(CHUNK).map_err(Error::internal)?;
    while queue::resume_stranded(db, limit).await? == CHUNK {}
    while queue::cancel_deleted(db, None, limit).await? == CHUNK {}
    while idempotency::forget(db, limit).await? == CHUNK {}
    while event_keys::forget(db, limit).await? == CHUNK {}
    Ok(())
}
