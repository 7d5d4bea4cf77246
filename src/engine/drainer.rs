//! Brings back what was held, once its subscription is active again: oldest first, and of each subscription a little at a time, so that what is
//! due remains short and others find their place in it. The lanes give it a quarter of the posts at most.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::watch;

use super::stopped;
use crate::domain::Error;
use crate::domain::id::SubscriptionId;
use crate::hub::handoff::Bells;
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

pub async fn run(pool: PgPool, bells: Bells, pulse: Pulse, mut stop: watch::Receiver<bool>) {
    let mut draining = Draining::default();
    loop {
        let drained = draining.step(&pool).await;
        if drained.is_ok() {
            pulse.well();
        }
        let sleep = match drained {
            Ok(Resumed { moved: 0, unfinished: false }) => LOOK_EVERY,
            Ok(Resumed { moved: 0, unfinished: true }) => SLOWLY,
            Ok(_) => {
                bells.ring_here();
                AGAIN_AFTER
            }
            Err(error) => {
                pulse.failed(&error, "held deliveries cannot be brought back now");
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = bells.resumed.notified() => draining.looked_at = None,
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// Whose is brought back. To find them all that hold something are looked at, which may be many more and are not looked at in each step.
#[derive(Default)]
struct Draining {
    subscriptions: Vec<SubscriptionId>,
    /// None once somebody has rung.
    looked_at: Option<Instant>,
}

impl Draining {
    async fn step(&mut self, pool: &PgPool) -> Result<Resumed, Error> {
        in_time(async {
            let db = &mut *pool.acquire().await?;
            if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                // A bell that rings meanwhile is heard after this step.
                self.subscriptions = queue::held_of_active(db).await?;
                self.looked_at = Some(Instant::now());
            }
            queue::resume(db, &self.subscriptions, CHUNK).await
        })
        .await
    }
}
