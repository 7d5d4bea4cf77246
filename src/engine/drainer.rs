//! Brings back what was held, once its subscription is active again: oldest first, and of each subscription a little at a time, so that what is
//! due remains short and others find their place in it. The lanes give it a quarter of the posts at most.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, watch};

use super::stopped;
use crate::domain::Error;
use crate::store::queue::{self, Resumed};
use crate::store::sessions::in_time;
use crate::telemetry::Pulse;

/// Rows made due at once.
const CHUNK: i64 = 2_000;
/// Between two chunks.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// While enough of everything is on its way.
const SLOWLY: Duration = Duration::from_millis(500);
/// The longest sleep. Rows that are held although their subscription is active are what a race between a hold and a resume left behind, or
/// what another process was draining when it died.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Who is told of what the drainer did, and who tells it that there may be something to do.
#[derive(Clone)]
pub struct Bells {
    pub resumed: Arc<Notify>,
    pub due: Arc<Notify>,
    pub gather: Arc<Notify>,
}

pub async fn run(pool: PgPool, bells: Bells, pulse: Pulse, mut stop: watch::Receiver<bool>) {
    loop {
        let drained = drain(&pool).await;
        if drained.is_ok() {
            pulse.well();
        }
        let sleep = match drained {
            Ok(Resumed { moved: 0, unfinished: false }) => LOOK_EVERY,
            Ok(Resumed { moved: 0, unfinished: true }) => SLOWLY,
            Ok(_) => {
                bells.due.notify_one();
                bells.gather.notify_one();
                AGAIN_AFTER
            }
            Err(error) => {
                pulse.failed(&error, "held deliveries cannot be brought back now");
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = bells.resumed.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

async fn drain(pool: &PgPool) -> Result<Resumed, Error> {
    in_time(async { queue::resume(&mut *pool.acquire().await?, CHUNK).await }).await
}
