//! Keeps the promises that no single request can, every few seconds and a chunk at a time. Any number of nodes may do it at once.

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

pub async fn run(pool: PgPool, mut stop: watch::Receiver<bool>) {
    for round in 0_u32.. {
        if let Err(error) = sweep(&pool, round % SWEEPS_PER_PARTITION_ROUND == 0).await {
            tracing::warn!(error = %error.chain(), "sweeping failed; it is tried again in {} s", SWEEP_EVERY.as_secs());
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

async fn sweep(pool: &PgPool, partitions_too: bool) -> Result<(), Error> {
    let mut connection = pool.acquire().await?;
    let db = &mut *connection;
    let limit = i64::try_from(CHUNK).map_err(Error::internal)?;
    if partitions_too {
        partitions::make_ahead(db).await?;
    }
    while queue::resume_stranded(db, limit).await? == CHUNK {}
    while queue::cancel_deleted(db, None, limit).await? == CHUNK {}
    while idempotency::forget(db, limit).await? == CHUNK {}
    while event_keys::forget(db, limit).await? == CHUNK {}
    Ok(())
}
