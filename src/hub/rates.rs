//! What a callback's rate has put off, when the callback may have more. Each delivery that was beyond the rate has its place in time, which may be
//! hours away: these places move up together.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Hub;
use crate::domain::Error;
use crate::domain::id::CallbackId;
use crate::store::{queue, subscriptions};

/// By then every node has heard of the change, and puts nothing off by the former rate.
const HEARD_AFTER: Duration = Duration::from_millis(1_500);
/// Rows of one statement.
const CHUNK: i64 = 500;

impl Hub {
    /// How many posts in a second a callback may have.
    pub(super) async fn rate_of(&self, db: &mut PgConnection, callback: CallbackId) -> Result<u32, Error> {
        let most = self.settings.policy_limits.rate_per_s_max;
        let own = subscriptions::strictest_rate(db, callback).await?;
        Ok(own.and_then(|rate| u32::try_from(rate).ok()).unwrap_or(most).clamp(1, most))
    }

    /// Moves up what was put off until then, without anybody waiting for that. A process that ends meanwhile leaves the rest at its places.
    pub(super) fn move_up(&self, callback: CallbackId, former_per_s: u32, changed_at: DateTime<Utc>) {
        let hub = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(HEARD_AFTER).await;
            if let Err(error) = hub.move_all_up(callback, former_per_s, changed_at).await {
                let error = error.chain();
                tracing::warn!(%callback, error, "what a former rate put off keeps its places");
            }
        });
    }

    async fn move_all_up(
        &self,
        callback: CallbackId,
        former_per_s: u32,
        changed_at: DateTime<Utc>,
    ) -> Result<(), Error> {
        let mut connection = self.connection().await?;
        // It may have been changed again meanwhile.
        let present_per_s = self.rate_of(&mut connection, callback).await?;
        if present_per_s <= former_per_s {
            return Ok(());
        }
        let of = (f64::from(former_per_s) / f64::from(present_per_s), changed_at);
        let subscriptions = subscriptions::of_callback(&mut connection, callback).await?;
        drop(connection);
        for subscription in subscriptions {
            let mut after = None;
            loop {
                let mut connection = self.connection().await?;
                after = queue::move_up(&mut connection, subscription, of, after, CHUNK).await?;
                if after.is_none() {
                    break;
                }
                self.handoff.ring();
                self.handoff.ring_to_gather();
            }
        }
        Ok(())
    }
}
