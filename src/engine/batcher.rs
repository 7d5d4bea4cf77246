//! Gathers what leaves in batches, and leases batches that are due again. A batch that is full goes at once; one that is not goes when the
//! oldest in it has lingered. What is in a batch stays in it: its rows carry the batch's id before anything is sent, and from then on they
//! are only ever leased together.
//!
//! Of each callback a few batches may be out at a time, waiting in memory or under way; what is beyond that waits in the database, where
//! it can still be gathered into fuller ones. The room in memory is bounded in deliveries and in bytes. Once half of it is taken, the rest is for
//! callbacks that have nothing out; and those of which nobody knows that they answer promptly ([`out`]) have a part of it only, or some dozens that hang,
//! with two hundred deliveries each, would leave nothing to the others. So each of these is soon asked with a few.
//!
//! A batch that may be what killed its senders is claimed by itself, while nothing else is sent alone, be it a batch or not.

mod out;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use self::out::Out;
pub use self::out::OutPlace;
use super::claimer::Claim;
use super::recorder::Results;
use super::verdict::{ended, millis};
use super::{Held, Settings, stopped};
use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::{Batch, DeliveryState, Lease, Member, Whereabouts};
use crate::domain::event::Event;
use crate::domain::id::{BatchId, CallbackId, DeliveryId, EventId, PartnerId, SubscriptionId};
use crate::domain::row_hint::RowHint;
use crate::hub::SetAside;
use crate::store::batches::{self, Claimed, Terms};
use crate::store::queue::Ending;
use crate::store::sessions::in_time;
use crate::telemetry::Pulse;

/// Deliveries in memory at most, or fewer of large events ([`crate::store::queue::room_for`]). There is always room for the largest batch before one is asked for.
const ROOM: usize = 40 * batches::SIZE_MAX;
/// While more than this is free, each callback may have as much out as may be under way to it at a time.
const KEPT: usize = ROOM / 2;
/// What is formed in one round at most, and what is claimed; the next follows at once. Nobody waits for long because a crowd came before.
const FORMED: usize = ROOM / 4;
/// Once callbacks that are not known to be prompt have so much, each of them is asked with a few, and once they have so much, with nothing. With what
/// a round brings beyond that there is still room for the largest batch of those that are prompt.
const OTHERS_WARY: usize = ROOM / 8;
const OTHERS_MAX: usize = ROOM / 2;
/// How large those few are.
const FEW: i32 = 4;
/// The longest sleep.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// While nothing of some is taken.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The shortest. What is due and cannot be had is in somebody else's hands at this moment.
const POLL_AT_MOST_EVERY: Duration = Duration::from_millis(5);

pub struct Batcher {
    pool: PgPool,
    pulse: Pulse,
    settings: Settings,
    bell: Arc<Notify>,
    room: Arc<Semaphore>,
    /// For the one that is sent alone, which may be the claimer's.
    alone: Arc<Semaphore>,
    out: Out,
    /// Subscriptions whose callbacks take nothing at present, see `backlogs`.
    set_aside: watch::Receiver<SetAside>,
    claims: mpsc::UnboundedSender<Claim>,
    results: Results,
}

impl Batcher {
    pub(super) fn new(
        (pool, pulse): (PgPool, Pulse),
        settings: Settings,
        bell: Arc<Notify>,
        alone: Arc<Semaphore>,
        set_aside: watch::Receiver<SetAside>,
        claims: mpsc::UnboundedSender<Claim>,
        results: Results,
    ) -> Self {
        let out = Out::new(bell.clone());
        let room = Arc::new(Semaphore::new(ROOM));
        Self { pool, pulse, settings, bell, room, alone, out, set_aside, claims, results }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let sleep = match self.gather_all(&stop).await {
                Ok(sleep) => {
                    self.pulse.well();
                    sleep
                }
                Err(error) => {
                    self.pulse.failed(&error, "batches cannot be gathered now");
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
        let mut suspects_at = Instant::now();
        loop {
            let Some(Room { mut room, each_max }) = self.take_room(stop).await else {
                return Ok(Duration::ZERO);
            };
            // Also while there is always something else to do.
            if suspects_at <= Instant::now() {
                suspects_at = Instant::now() + POLL_EVERY;
                if self.claim_suspect(&mut room).await? {
                    continue;
                }
            }
            let now = Instant::now();
            let others = Others::with(self.out.room_of_others(now));
            let share = self.out.share(now, (each_max, others.each_max.min(each_max)));
            let except =
                Except { callbacks: share.full, subscriptions: self.set_aside.borrow_and_update().clone() };
            // The connection goes back between rounds; what follows may wait for room for a long time.
            let mut connection = self.pool.acquire().await?;
            let until = Instant::now() + self.settings.lease;
            let round = Round {
                except: &except,
                prompt: &share.prompt,
                others,
                each_max,
                linger_ms,
                room: room.num_permits(),
            };
            let claimed = in_time(self.round(&mut connection, round)).await?;
            if claimed.is_empty() {
                drop(room);
                let Except { subscriptions, callbacks } = &except;
                let next = batches::next_due_ms(&mut connection, linger_ms, subscriptions, callbacks);
                let next = in_time(next).await?;
                let next = next
                    .map_or(POLL_EVERY, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
                let soonest = if others.size == 0 { LOOK_AGAIN_AFTER } else { POLL_AT_MOST_EVERY };
                return Ok(next.clamp(soonest, POLL_EVERY));
            }
            drop(connection);
            self.pass_on(claimed, until, room);
        }
    }

    /// Claims a batch that is sent alone, unless something is under way that is. Whether there was one, which has taken of the room.
    async fn claim_suspect(&self, room: &mut OwnedSemaphorePermit) -> Result<bool, Error> {
        let Ok(alone) = self.alone.clone().try_acquire_owned() else { return Ok(false) };
        let mut connection = self.pool.acquire().await?;
        let until = Instant::now() + self.settings.lease;
        let lease_ms = millis(self.settings.lease);
        let claimed = batches::claim_suspect(&mut connection, self.settings.node, lease_ms);
        let claimed = in_time(claimed).await?;
        drop(connection);
        let found = claimed.is_some();
        if let Some(batch) = claimed {
            self.pass_on_one(batch, until, room, Some(alone));
        }
        Ok(found)
    }

    /// First what is due again, then what is new; each as far as there is room.
    async fn round(&self, db: &mut PgConnection, round: Round<'_>) -> Result<Vec<Vec<Claimed>>, Error> {
        let Round { except, prompt, others, each_max, linger_ms, room } = round;
        let mut terms = Terms {
            owner: self.settings.node,
            lease_ms: millis(self.settings.lease),
            room: i64::try_from(room.min(others.round_max)).map_err(Error::internal)?,
            each_max: i32::try_from(each_max).unwrap_or(i32::MAX).min(EACH_MAX),
            except: &except.subscriptions,
            except_of: &except.callbacks,
            prompt,
            others_size: others.size,
            others_each_max: 1,
        };
        let mut claimed = batches::claim(db, &terms).await?;
        let taken: usize = claimed.iter().flatten().map(Claimed::room).sum();
        let left = room.saturating_sub(taken);
        if left >= batches::ROOM_MAX {
            // Whoever got some of theirs again gets no more in the same round.
            let mut except_of = except.callbacks.clone();
            except_of.extend(claimed.iter().flatten().filter_map(|row| row.callback_id).map(CallbackId));
            terms.room = i64::try_from(left.min(others.round_max)).map_err(Error::internal)?;
            terms.except_of = &except_of;
            claimed.extend(batches::form(db, &terms, linger_ms).await?);
        }
        Ok(claimed)
    }

    /// Room for at least one batch, and for as many as there is room for; and of each callback no more than how many may be out. `None` when it is
    /// time to stop.
    async fn take_room(&self, stop: &watch::Receiver<bool>) -> Option<Room> {
        let mut stop = stop.clone();
        let one = u32::try_from(batches::ROOM_MAX).ok()?;
        let mut room = tokio::select! {
            () = stopped(&mut stop) => return None,
            room = self.room.clone().acquire_many_owned(one) => room.ok()?,
        };
        let free = self.room.available_permits();
        let (more, each_max) = match free.checked_sub(KEPT) {
            Some(more) => (more, self.settings.callback_in_flight_max),
            None => (free, 1),
        };
        if let Ok(more) = self.room.clone().try_acquire_many_owned(u32::try_from(more).ok()?) {
            room.merge(more);
        }
        Some(Room { room, each_max })
    }

    fn pass_on(&self, claimed: Vec<Vec<Claimed>>, until: Instant, mut room: OwnedSemaphorePermit) {
        for batch in claimed {
            self.pass_on_one(batch, until, &mut room, None);
        }
    }

    fn pass_on_one(
        &self,
        batch: Vec<Claimed>,
        until: Instant,
        room: &mut OwnedSemaphorePermit,
        alone: Option<OwnedSemaphorePermit>,
    ) {
        let callback = batch.iter().find_map(|row| row.callback_id).map(CallbackId);
        let (here, gone): (Vec<_>, Vec<_>) = batch.into_iter().partition(|row| row.payload.is_some());
        for row in gone {
            let Some(share) = room.split(1) else { return };
            let held = Held { lease: lease(row, until), room: share, place: None, alone: None };
            let expired = ended(held, Ending::Final(DeliveryState::Expired), Outcome::Expired);
            self.results.send(expired);
        }
        let size: usize = here.iter().map(Claimed::room).sum();
        let Some(lease) = together(here, until) else { return };
        let Some(share) = room.split(size.min(room.num_permits())) else { return };
        let place = callback.map(|callback| self.out.one_more(callback, size));
        let _stopped = self.claims.send(Claim::Lease(Held { lease, room: share, place, alone }));
    }
}

/// Room for what a round takes.
struct Room {
    room: OwnedSemaphorePermit,
    /// How many batches each callback may have out.
    each_max: usize,
}

/// Whose batches a round leaves alone.
struct Except {
    callbacks: Vec<CallbackId>,
    subscriptions: SetAside,
}

struct Round<'a> {
    except: &'a Except,
    prompt: &'a [CallbackId],
    others: Others,
    each_max: usize,
    linger_ms: i64,
    room: usize,
}

/// What a round takes of callbacks that are not known to be prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Others {
    /// Of a new batch, of which a round forms one for each of them; with 0 nothing of theirs is taken.
    size: i32,
    /// Batches that each of them may have out.
    each_max: usize,
    /// What is claimed of anybody in a round, and what is formed.
    round_max: usize,
}

impl Others {
    /// While they have so much of the room.
    fn with(room: usize) -> Self {
        match room {
            OTHERS_MAX.. => Self { size: 0, each_max: 1, round_max: FORMED },
            OTHERS_WARY.. => Self { size: FEW, each_max: 1, round_max: batches::ROOM_MAX },
            _ => Self { size: i32::MAX, each_max: usize::MAX, round_max: FORMED },
        }
    }
}

/// Batches of one callback that a round takes at most.
const EACH_MAX: i32 = 8;

/// The lease of a batch; `None` when nothing is in it.
fn together(rows: Vec<Claimed>, until: Instant) -> Option<Lease> {
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
    Some(Lease { batch, ..lease(first, until) })
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
        // It is waited for as a batch in any case.
        in_line: false,
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
