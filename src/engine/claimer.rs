//! Leases what is due in the queue: retries, overflow, and what other processes left behind. Claims no more than it has room for, and sleeps
//! until somebody rings, the next row falls due, or a second has passed: a hint that is lost delays by a second at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::recorder::Finished;
use super::verdict::ended;
use super::{Held, Settings, stopped};
use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::{DeliveryState, Lease};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};
use crate::store::queue::{self, Claimed, Ending};

/// Rows claimed at once.
const BATCH_MAX: usize = 500;
/// Claimed rows in memory at most, for each post that may be under way.
const ROOM_PER_POST: usize = 2;
/// The longest sleep.
const POLL_EVERY: Duration = Duration::from_secs(1);

pub struct Claimer {
    pool: PgPool,
    settings: Settings,
    due: Arc<Notify>,
    room: Arc<Semaphore>,
    claims: mpsc::UnboundedSender<Held>,
    results: mpsc::UnboundedSender<Finished>,
}

impl Claimer {
    pub(super) fn new(
        pool: PgPool,
        settings: Settings,
        due: Arc<Notify>,
        claims: mpsc::UnboundedSender<Held>,
        results: mpsc::UnboundedSender<Finished>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(settings.in_flight_max * ROOM_PER_POST));
        Self { pool, settings, due, room, claims, results }
    }

    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let sleep = match self.claim_all(&stop).await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "due deliveries cannot be claimed now");
                    POLL_EVERY
                }
            };
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Claims until nothing more is due; returns for how long there is nothing to do.
    async fn claim_all(&self, stop: &watch::Receiver<bool>) -> Result<Duration, Error> {
        loop {
            let Some(room) = self.take_room(stop).await else { return Ok(Duration::ZERO) };
            let wanted = room.num_permits();
            // The connection goes back between claims; what follows may wait for room for a long time.
            let (claimed, next_due_ms) = {
                let mut connection = self.pool.acquire().await?;
                let until = Instant::now() + self.settings.lease;
                let limit = i64::try_from(wanted).map_err(Error::internal)?;
                let lease_ms = i64::try_from(self.settings.lease.as_millis()).map_err(Error::internal)?;
                let rows = queue::claim(&mut connection, self.settings.node, limit, lease_ms).await?;
                let next =
                    if rows.len() < wanted { queue::next_due_ms(&mut connection).await? } else { Some(0) };
                (rows.into_iter().map(|row| lease(row, until)).collect::<Vec<_>>(), next)
            };
            let drained = claimed.len() < wanted;
            self.pass_on(claimed, room);
            if drained {
                let next_due = next_due_ms
                    .map_or(POLL_EVERY, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
                return Ok(next_due.clamp(Duration::from_millis(1), POLL_EVERY));
            }
        }
    }

    /// Room for at least one row, and for a batch if there is as much. `None` when it is time to stop.
    async fn take_room(&self, stop: &watch::Receiver<bool>) -> Option<OwnedSemaphorePermit> {
        let mut stop = stop.clone();
        let mut room = tokio::select! {
            () = stopped(&mut stop) => return None,
            room = self.room.clone().acquire_owned() => room.ok()?,
        };
        let more = u32::try_from(self.room.available_permits().min(BATCH_MAX - 1)).ok()?;
        if let Ok(more) = self.room.clone().try_acquire_many_owned(more) {
            room.merge(more);
        }
        Some(room)
    }

    fn pass_on(&self, claimed: Vec<(Lease, bool)>, mut room: OwnedSemaphorePermit) {
        for (lease, event_is_there) in claimed {
            let Some(share) = room.split(1) else { return };
            let held = Held { lease, room: share };
            if event_is_there {
                let _stopped = self.claims.send(held);
            } else {
                let _stopped =
                    self.results.send(ended(held, Ending::Final(DeliveryState::Expired), Outcome::Expired));
            }
        }
    }
}

/// A lease, and whether its event is still kept.
fn lease(row: Claimed, until: Instant) -> (Lease, bool) {
    let event_is_there = row.payload.is_some();
    let event = Event {
        id: EventId(row.event_id),
        kind: row.r#type.unwrap_or_else(|| "unknown".to_owned()),
        source: row.source.unwrap_or_default(),
        payload: row.payload.unwrap_or_default(),
        occurred_at: row.occurred_at.unwrap_or_default(),
    };
    let lease = Lease {
        partner: PartnerId(row.partner_id),
        delivery: DeliveryId(row.delivery_id),
        subscription: SubscriptionId(row.subscription_id),
        event: Arc::new(event),
        attempts: row.attempts,
        epoch: row.lease_epoch,
        probe: row.probe,
        crashes: row.crashes,
        until,
    };
    (lease, event_is_there)
}
