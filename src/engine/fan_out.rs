//! Puts into the queue what was only noted down when it was committed: the deliveries of events that matched very many subscriptions, a chunk at a
//! time, and what partners are to be told of their own subscriptions. Any number of nodes may do it at once: a chunk or a notice is taken by
//! one of them, in one statement, and is there again if that statement fails.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use super::stopped;
use crate::domain::Error;
use crate::hub::handoff::Bells;
use crate::store::sessions::in_time;
use crate::store::{fanouts, notices, partitions};
use crate::telemetry::Pulse;

/// The longest sleep: notices, and chunks that another node left behind, are found by looking.
const POLL_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Pulses {
    pub spread: Pulse,
    pub tell: Pulse,
}

pub async fn run(pool: PgPool, bells: Bells, pulses: Pulses, mut stop: watch::Receiver<bool>) {
    loop {
        match spread_all(&pool, &bells, &stop).await {
            Ok(()) => pulses.spread.well(),
            Err(error) => pulses.spread.failed(&error, "large fan-outs cannot be spread now"),
        }
        match tell_all(&pool, &bells, &stop).await {
            Ok(()) => pulses.tell.well(),
            Err(error) => {
                pulses
                    .tell
                    .failed(&error, "partners cannot be told now which of their subscriptions were disabled");
            }
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = bells.fan_out.notified() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
}

async fn spread_all(pool: &PgPool, bells: &Bells, stop: &watch::Receiver<bool>) -> Result<(), Error> {
    while !*stop.borrow() {
        let spread = in_time(async { fanouts::spread(&mut *pool.acquire().await?).await }).await?;
        let Some((event, deliveries)) = spread else { return Ok(()) };
        tracing::debug!(%event, deliveries, "a chunk of a large fan-out is in the queue");
        bells.ring_here();
    }
    Ok(())
}

async fn tell_all(pool: &PgPool, bells: &Bells, stop: &watch::Receiver<bool>) -> Result<(), Error> {
    while !*stop.borrow() {
        match in_time(tell(pool)).await? {
            None => return Ok(()),
            Some(0) => {}
            Some(_deliveries) => bells.ring_here(),
        }
    }
    Ok(())
}

/// Tells of one disabling; `None` when there is none to tell of.
async fn tell(pool: &PgPool) -> Result<Option<i64>, Error> {
    let mut connection = pool.acquire().await?;
    match notices::send(&mut connection).await {
        Err(error) if partitions::is_missing_behind(&error) => {
            partitions::make_ahead(&mut connection).await?;
            notices::send(&mut connection).await
        }
        told => told,
    }
}
