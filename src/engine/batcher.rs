//! Gathers what leaves in batches, and leases batches that are due again. A batch that is full goes at once; one that is not goes when the
//! oldest in it has lingered. What is in a batch stays in it: its rows carry the batch's id before anything is sent, and from then on they
//! are only ever leased together.
//!
//! Of each subscription a few batches may be out at a time, waiting in memory or under way; what is beyond that waits in the database, where
//! it can still be gathered into fuller ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::claimer::Claim;
use super::recorder::Finished;
use super::verdict::ended;
use super::{Held, Settings, stopped};
use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::{Batch, DeliveryState, Lease, Member, Whereabouts};
use crate::domain::event::Event;
use crate::domain::id::{BatchId, DeliveryId, EventId, PartnerId, SubscriptionId};
use crate::domain::row_hint::RowHint;
use crate::hub::SetAside;
use crate::store::batches::{self, Claimed, Terms};
use crate::store::queue::Ending;

/// The largest batch that a callback may ask for [published].
const SIZE_MAX: usize = 200;
/// Deliveries in memory at most. There is always room for a batch before one is asked for.
const ROOM: usize = 20 * SIZE_MAX;
/// The longest sleep.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The shortest. What is due and cannot be had is in somebody else's hands at this moment.
const POLL_AT_MOST_EVERY: Duration = Duration::from_millis(5);

pub struct Batcher {
    pool: PgPool,
    settings: Settings,
    bell: Arc<Notify>,
    room: Arc<Semaphore>,
    out: Out,
    /// Subscriptions whose callbacks take nothing at present, see `backlogs`.
    set_aside: watch::Receiver<SetAside>,
    claims: mpsc::UnboundedSender<Claim>,
    results: mpsc::UnboundedSender<Finished>,
}

impl Batcher {
    pub(super) fn new(
        pool: PgPool,
        settings: Settings,
        bell: Arc<Notify>,
        set_aside: watch::Receiver<SetAside>,
        claims: mpsc::UnboundedSender<Claim>,
        results: mpsc::UnboundedSender<Finished>,
    ) -> Self {
        let out = Out { bell: bell.clone(), by_subscription: Arc::default() };
        Self { pool, settings, bell, room: Arc::new(Semaphore::new(ROOM)), out, set_aside, claims, results }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let sleep = match self.gather_all(&stop).await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "batches cannot be gathered now");
                    POLL_EVERY
                }
            };
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = self.bell.notified() => {}
                Ok(()) = self.set_aside.changed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Until there is nothing to gather and nothing due; returns for how long.
    async fn gather_all(&mut self, stop: &watch::Receiver<bool>) -> Result<Duration, Error> {
        let linger_ms = i64::try_from(self.settings.batch_linger.as_millis()).map_err(Error::internal)?;
        loop {
            let Some(room) = self.take_room(stop).await else { return Ok(Duration::ZERO) };
            let mut except = self.out.full(self.settings.callback_in_flight_max);
            except.extend_from_slice(&self.set_aside.borrow_and_update());
            // The connection goes back between rounds; what follows may wait for room for a long time.
            let mut connection = self.pool.acquire().await?;
            let until = Instant::now() + self.settings.lease;
            let claimed = self.round(&mut connection, &except, linger_ms, room.num_permits()).await?;
            if claimed.is_empty() {
                drop(room);
                let next = batches::next_due_ms(&mut connection, linger_ms, &except).await?;
                let next = next
                    .map_or(POLL_EVERY, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
                return Ok(next.clamp(POLL_AT_MOST_EVERY, POLL_EVERY));
            }
            drop(connection);
            self.pass_on(claimed, until, room);
        }
    }

    /// First what is due again, then what is new; each as far as there is room.
    async fn round(
        &self,
        db: &mut PgConnection,
        except: &[SubscriptionId],
        linger_ms: i64,
        room: usize,
    ) -> Result<Vec<Vec<Claimed>>, Error> {
        let terms = |room: usize| -> Result<Terms<'_>, Error> {
            Ok(Terms {
                owner: self.settings.node,
                lease_ms: i64::try_from(self.settings.lease.as_millis()).map_err(Error::internal)?,
                deliveries_max: i64::try_from(room).map_err(Error::internal)?,
                except,
            })
        };
        let mut claimed = batches::claim(db, &terms(room)?).await?;
        let left = room - claimed.iter().map(Vec::len).sum::<usize>();
        if left >= SIZE_MAX {
            let each_max =
                i32::try_from(self.settings.callback_in_flight_max).unwrap_or(i32::MAX).min(EACH_MAX);
            claimed.extend(batches::form(db, &terms(left)?, linger_ms, each_max).await?);
        }
        Ok(claimed)
    }

    /// Room for at least one batch, and for as many as there is room for. `None` when it is time to stop.
    async fn take_room(&self, stop: &watch::Receiver<bool>) -> Option<OwnedSemaphorePermit> {
        let mut stop = stop.clone();
        let one = u32::try_from(SIZE_MAX).ok()?;
        let mut room = tokio::select! {
            () = stopped(&mut stop) => return None,
            room = self.room.clone().acquire_many_owned(one) => room.ok()?,
        };
        let more = u32::try_from(self.room.available_permits()).ok()?;
        if let Ok(more) = self.room.clone().try_acquire_many_owned(more) {
            room.merge(more);
        }
        Some(room)
    }

    fn pass_on(&self, claimed: Vec<Vec<Claimed>>, until: Instant, mut room: OwnedSemaphorePermit) {
        for batch in claimed {
            let (here, gone): (Vec<_>, Vec<_>) = batch.into_iter().partition(|row| row.payload.is_some());
            for row in gone {
                let Some(share) = room.split(1) else { return };
                let held = Held { lease: lease(row, until), room: share, place: None, alone: None };
                let expired = ended(held, Ending::Final(DeliveryState::Expired), Outcome::Expired);
                let _stopped = self.results.send(expired);
            }
            let Some((lease, size)) = together(here, until) else { continue };
            let Some(share) = room.split(size) else { return };
            let place = Some(self.out.one_more(lease.subscription));
            let _stopped = self.claims.send(Claim::Lease(Held { lease, room: share, place, alone: None }));
        }
    }
}

/// Batches of one subscription that are formed in one round at most.
const EACH_MAX: i32 = 8;

/// The lease of a batch, and how many deliveries are in it; `None` when there are none.
fn together(rows: Vec<Claimed>, until: Instant) -> Option<(Lease, usize)> {
    let size = rows.len();
    let mut rows = rows.into_iter();
    let first = rows.next()?;
    let id = BatchId(first.batch_id);
    let others = rows
        .map(|row| Member {
            delivery: DeliveryId(row.delivery_id),
            epoch: row.lease_epoch,
            event: Arc::new(event(row)),
        })
        .collect();
    let batch = Some(Box::new(Batch { id, others }));
    Some((Lease { batch, ..lease(first, until) }, size))
}

fn lease(row: Claimed, until: Instant) -> Lease {
    Lease {
        partner: PartnerId(row.partner_id),
        delivery: DeliveryId(row.delivery_id),
        subscription: SubscriptionId(row.subscription_id),
        attempts: row.attempts,
        epoch: row.lease_epoch,
        probe: false,
        draining: row.draining,
        crashes: row.crashes,
        until,
        batch: None,
        // Batches are finished by key.
        at: Whereabouts::Row(RowHint::default()),
        event: Arc::new(event(row)),
    }
}

fn event(row: Claimed) -> Event {
    Event {
        id: EventId(row.event_id),
        kind: row.r#type.unwrap_or_else(|| "unknown".to_owned()),
        source: row.source.unwrap_or_default(),
        payload: row.payload.unwrap_or_default(),
        occurred_at: row.occurred_at.unwrap_or_default(),
    }
}

/// How many batches of each subscription are out.
#[derive(Clone)]
struct Out {
    bell: Arc<Notify>,
    by_subscription: Arc<Mutex<HashMap<SubscriptionId, usize>>>,
}

impl Out {
    fn one_more(&self, subscription: SubscriptionId) -> OutPlace {
        let mut counts = self.by_subscription.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(subscription).or_default() += 1;
        OutPlace { out: self.clone(), subscription }
    }

    /// The subscriptions that have as many out as they may.
    fn full(&self, max: usize) -> Vec<SubscriptionId> {
        let counts = self.by_subscription.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().filter(|(_, count)| **count >= max).map(|(subscription, _)| *subscription).collect()
    }
}

/// Of a batch that is out, until what came of it is written.
pub struct OutPlace {
    out: Out,
    subscription: SubscriptionId,
}

impl Drop for OutPlace {
    fn drop(&mut self) {
        let mut counts = self.out.by_subscription.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.subscription) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.subscription);
            }
        }
        self.out.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_that_is_free_again_rings() {
        let out = Out { bell: Arc::default(), by_subscription: Arc::default() };
        let (one, other) = (SubscriptionId::new(), SubscriptionId::new());
        let places = [out.one_more(one), out.one_more(one), out.one_more(other)];
        assert_eq!(out.full(2), [one]);
        assert!(out.full(3).is_empty());
        drop(places);
        assert!(out.full(1).is_empty());
        tokio::time::timeout(Duration::from_secs(5), out.bell.notified()).await.unwrap();
    }
}
