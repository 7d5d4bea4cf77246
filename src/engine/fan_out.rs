//! Puts the deliveries of events that matched very many subscriptions into the queue, a chunk at a time. Any number of nodes may do it at
//! once: a chunk is taken by one of them, in one statement, and is there again if that statement fails.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, watch};

use super::stopped;
use crate::domain::Error;
use crate::store::fanouts;

/// The longest sleep: chunks that another node left behind are found by looking.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// `bell` rings when there are chunks, `due` are rung when their deliveries are in the queue.
pub async fn run(pool: PgPool, bell: Arc<Notify>, due: Vec<Arc<Notify>>, mut stop: watch::Receiver<bool>) {
    loop {
        if let Err(error) = spread_all(&pool, &due, &stop).await {
            tracing::warn!(error = %error.chain(), "large fan-outs cannot be spread now");
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = bell.notified() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
}

async fn spread_all(pool: &PgPool, due: &[Arc<Notify>], stop: &watch::Receiver<bool>) -> Result<(), Error> {
    while !*stop.borrow() {
        let spread = fanouts::spread(&mut *pool.acquire().await?).await?;
        let Some((event, deliveries)) = spread else { return Ok(()) };
        tracing::debug!(%event, deliveries, "a chunk of a large fan-out is in the queue");
        due.iter().for_each(|bell| bell.notify_one());
    }
    Ok(())
}
