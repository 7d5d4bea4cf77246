//! Leases what is due in the queue: retries, overflow, and what other processes left behind. Claims no more than it has room for, and sleeps
//! until somebody rings, the next row falls due, or a second has passed: a hint that is lost delays by a second at most.
//!
//! What may be what killed its senders is claimed by itself, one at a time: then no other such counts a crash with it, and one that is
//! innocent soon has an outcome that forgets its crashes.
//!
//! What it claims waits in memory, so there is room for so many deliveries, of which large ones take more: their bytes are bounded as well.
//!
//! Subscriptions that are set aside (see `backlogs`) are left out; their callbacks' lanes draw what they have room for.

mod mark;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use self::mark::Mark;
use super::backlogs::{Draw, Drawn, Wishes};
use super::lanes::SharedRoom;
use super::recorder::Results;
use super::verdict::{ended, millis};
use super::{Held, Settings, stopped};
use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::delivery::{DeliveryState, Lease, Whereabouts};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, IdMap, PartnerId, SubscriptionId};
use crate::store::queue::{self, Claimed, Ending, Reach, Share};
use crate::store::sessions::in_time;
use crate::store::{self, bundles};
use crate::telemetry::Pulse;

/// Rows claimed at once.
const BATCH_MAX: usize = 500;
/// Claimed rows in memory at most, for each post that may be under way.
const ROOM_PER_POST: usize = 4;
/// The longest sleep.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Between looks for bundles whose leases ran out, at least; and to how many of what is in them a statement gives rows.
const BUNDLES_EVERY: Duration = Duration::from_millis(500);
const MEMBERS_MAX: i64 = 1_000;
/// Room beside that of the rows, which no lane reckons with: so much is free besides whenever there is room for a row, and the row may be the
/// largest there can be.
const RESERVE: usize = queue::ROOM_OF_LARGEST - 1;

/// What the claimer has for the dispatcher.
pub(super) enum Claim {
    Lease(Held),
    /// Comes after the leases of its draw.
    Drawn(Drawn),
}

pub struct Claimer {
    pool: PgPool,
    pulse: Pulse,
    settings: Settings,
    due: Arc<Notify>,
    room: Arc<Semaphore>,
    claims: mpsc::UnboundedSender<Claim>,
    results: Results,
    wishes: Wishes,
    /// Draws that were asked for and not answered yet.
    asked: Vec<Draw>,
    mark: Mark,
    /// For the one delivery that is sent alone.
    alone: Arc<Semaphore>,
    /// Of the subscriptions that are drawn for.
    marks: IdMap<SubscriptionId, Mark>,
    bundles: Mark,
    bundles_looked_for_at: Option<Instant>,
}

/// What a statement claimed, with the end of the leases.
struct Taken {
    rows: Vec<Claimed>,
    until: Instant,
}

impl Claimer {
    pub(super) fn new(
        pool: PgPool,
        pulse: Pulse,
        settings: Settings,
        due: Arc<Notify>,
        claims: mpsc::UnboundedSender<Claim>,
        results: Results,
        wishes: Wishes,
    ) -> Self {
        let room = Arc::new(Semaphore::new(settings.in_flight_max * ROOM_PER_POST + RESERVE));
        let (mark, alone, marks) = (Mark::default(), Arc::new(Semaphore::new(1)), IdMap::default());
        Self {
            pool,
            pulse,
            settings,
            due,
            room,
            claims,
            results,
            wishes,
            asked: Vec::new(),
            mark,
            alone,
            marks,
            bundles: Mark::default(),
            bundles_looked_for_at: None,
        }
    }

    /// The room that claimed rows share.
    pub(super) fn room(&self) -> SharedRoom {
        let size = self.settings.in_flight_max * ROOM_PER_POST;
        SharedRoom { room: self.room.clone(), size, reserve: RESERVE, of_proven_lanes: true }
    }

    /// What is sent alone takes this, however it leaves.
    pub(super) fn alone(&self) -> Arc<Semaphore> {
        self.alone.clone()
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let sleep = match self.claim_all(&stop).await {
                Ok(sleep) => {
                    self.pulse.well();
                    sleep
                }
                Err(error) => {
                    self.pulse.failed(&error, "due deliveries cannot be claimed now");
                    POLL_EVERY
                }
            };
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = self.due.notified() => {}
                Some(draw) = self.wishes.draws.recv() => self.asked.push(draw),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Claims until nothing more is due; returns for how long there is nothing to do. Draws and claims take turns.
    async fn claim_all(&mut self, stop: &watch::Receiver<bool>) -> Result<Duration, Error> {
        loop {
            while let Ok(draw) = self.wishes.draws.try_recv() {
                self.asked.push(draw);
            }
            if !self.asked.is_empty() {
                let Some(room) = self.take_room(stop).await else { return Ok(Duration::ZERO) };
                self.draw(room).await?;
            }
            let taken_apart = self.take_apart_bundles().await;
            // What has rows is claimed nevertheless.
            let Some(room) = self.take_room(stop).await else { return Ok(Duration::ZERO) };
            let sleep = self.claim(room).await?;
            self.claim_suspect().await?;
            if let Some(sleep) = sleep
                && self.asked.is_empty()
            {
                return taken_apart.map(|()| sleep);
            }
        }
    }

    /// Gives what stands in bundles whose leases ran out its rows, which are claimed as such.
    async fn take_apart_bundles(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.bundles_looked_for_at.is_some_and(|at| now.duration_since(at) < BUNDLES_EVERY) {
            return Ok(());
        }
        self.bundles_looked_for_at = Some(now);
        let mut connection = self.pool.acquire().await?;
        let at = in_time(store::now(&mut connection)).await?;
        let due_from = self.bundles.due_from(now);
        while in_time(bundles::take_apart_due(&mut connection, due_from, MEMBERS_MAX)).await? > 0 {
            // Their rows are due since then.
            self.mark = Mark::default();
        }
        self.bundles.took_all(at, false);
        Ok(())
    }

    /// Claims one that is sent alone, unless one is under way.
    async fn claim_suspect(&self) -> Result<(), Error> {
        let Ok(alone) = self.alone.clone().try_acquire_owned() else { return Ok(()) };
        let Ok(room) = self.room.clone().try_acquire_owned() else { return Ok(()) };
        let mut connection = self.pool.acquire().await?;
        let until = Instant::now() + self.settings.lease;
        let lease_ms = millis(self.settings.lease);
        let claimed = in_time(queue::claim_suspect(&mut connection, self.settings.node, lease_ms)).await?;
        drop(connection);
        if let Some(row) = claimed {
            self.pass_on_one(row, until, room, Some(alone));
        }
        Ok(())
    }

    /// Claims once; returns for how long there is nothing to do if that was all.
    async fn claim(&mut self, room: OwnedSemaphorePermit) -> Result<Option<Duration>, Error> {
        let wanted = room.num_permits() - RESERVE;
        let has_changed = self.wishes.set_aside.has_changed().unwrap_or(false);
        let set_aside = self.wishes.set_aside.borrow_and_update().clone();
        if has_changed {
            self.mark.step_back(!set_aside.is_empty());
        }
        // The connection goes back between claims; what follows may wait for room for a long time.
        let mut connection = self.pool.acquire().await?;
        let room_left = Some(rows(room.num_permits()));
        let due_from = self.mark.due_from(Instant::now());
        let reach = Reach { due_from, set_aside: &set_aside, room: room_left };
        let at = in_time(store::now(&mut connection)).await?;
        let until = Instant::now() + self.settings.lease;
        let (limit, lease_ms) = (rows(wanted), millis(self.settings.lease));
        let claim = queue::claim_within(&mut connection, self.settings.node, limit, lease_ms, reach);
        let taken = in_time(claim).await?;
        let last = taken.last().map(|last| (last.more || taken.len() >= wanted, last.was_due_at));
        self.pass_on(Taken { rows: taken, until }, room);
        Ok(match last {
            Some((true, was_due_at)) => {
                self.mark.took_up_to(was_due_at);
                None
            }
            _ => {
                self.mark.took_all(at, !set_aside.is_empty());
                let next =
                    in_time(queue::next_due_ms(&mut connection, at, millis(POLL_EVERY), &set_aside)).await?;
                let next =
                    next.map_or(POLL_EVERY, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
                Some(next.clamp(Duration::from_millis(1), POLL_EVERY))
            }
        })
    }

    /// Claims what lanes have asked for, as much as there is room for; the rest stays asked for.
    async fn draw(&mut self, room: OwnedSemaphorePermit) -> Result<(), Error> {
        let draws = self.fitting(room.num_permits() - RESERVE);
        let now = Instant::now();
        let shares: Vec<Share> = draws
            .iter()
            .flat_map(|draw| &draw.shares)
            .map(|(subscription, up_to)| {
                let due_from = self.marks.entry(*subscription).or_default().due_from(now);
                Share { subscription: *subscription, up_to: rows(*up_to), due_from }
            })
            .collect();
        let taken = self.take(&shares, room.num_permits()).await;
        // Who was left something for want of room will ask for it.
        let more = taken.iter().flat_map(|taken| &taken.rows).any(|row| row.more);
        let mut came: IdMap<SubscriptionId, (i64, DateTime<Utc>)> = IdMap::default();
        for row in taken.iter().flat_map(|taken| &taken.rows) {
            let (count, last) =
                came.entry(SubscriptionId(row.subscription_id)).or_insert((0, row.was_due_at));
            (*count, *last) = (*count + 1, row.was_due_at);
        }
        let mut drained = Vec::new();
        if taken.is_ok() {
            for share in &shares {
                match came.get(&share.subscription) {
                    Some((count, last)) if more || *count >= share.up_to => {
                        self.marks.entry(share.subscription).or_default().took_up_to(*last);
                    }
                    None if more => {}
                    _ => {
                        self.marks.remove(&share.subscription);
                        drained.push(share.subscription);
                    }
                }
            }
        }
        // Answered in any case: a lane that waits for an answer asks for nothing more.
        let failed = match taken {
            Ok(taken) => {
                self.pass_on(taken, room);
                Ok(())
            }
            Err(error) => Err(error),
        };
        for draw in draws {
            let own =
                |subscription: &&SubscriptionId| draw.shares.iter().any(|(own, _)| own == *subscription);
            let drained = drained.iter().filter(own).copied().collect();
            let _stopped = self.claims.send(Claim::Drawn(Drawn { callback: draw.callback, drained }));
        }
        failed
    }

    async fn take(&self, shares: &[Share], room: usize) -> Result<Taken, Error> {
        let mut connection = self.pool.acquire().await?;
        let until = Instant::now() + self.settings.lease;
        let lease_ms = millis(self.settings.lease);
        let draw = queue::draw(&mut connection, self.settings.node, lease_ms, shares, Some(rows(room)));
        let rows = in_time(draw).await?;
        Ok(Taken { rows, until })
    }

    /// The draws that fit into the room together, at least one; that one is made to fit.
    fn fitting(&mut self, room: usize) -> Vec<Draw> {
        let mut left = room;
        let mut fits = 0;
        for draw in &self.asked {
            let size: usize = draw.shares.iter().map(|(_, up_to)| up_to).sum();
            if size > left {
                break;
            }
            (left, fits) = (left - size, fits + 1);
        }
        if fits > 0 {
            return self.asked.drain(..fits).collect();
        }
        let mut first: Vec<Draw> = self.asked.drain(..1).collect();
        for draw in &mut first {
            draw.shares.retain_mut(|(_, up_to)| {
                *up_to = left.min(*up_to);
                left -= *up_to;
                *up_to > 0
            });
        }
        first
    }

    /// Room for at least one row, and for a batch if there is twice as much: what is claimed must not look to the lanes as if there were no room at
    /// all. `None` when it is time to stop.
    async fn take_room(&self, stop: &watch::Receiver<bool>) -> Option<OwnedSemaphorePermit> {
        let mut stop = stop.clone();
        let first = u32::try_from(RESERVE + 1).ok()?;
        let mut room = tokio::select! {
            () = stopped(&mut stop) => return None,
            room = self.room.clone().acquire_many_owned(first) => room.ok()?,
        };
        let more = u32::try_from((self.room.available_permits() / 2).min(BATCH_MAX - 1)).ok()?;
        if let Ok(more) = self.room.clone().try_acquire_many_owned(more) {
            room.merge(more);
        }
        Some(room)
    }

    fn pass_on(&self, taken: Taken, mut room: OwnedSemaphorePermit) {
        for row in taken.rows {
            // All of it fits, unless it is the first alone.
            let Some(share) = room.split(row.room().min(room.num_permits())) else { return };
            self.pass_on_one(row, taken.until, share, None);
        }
    }

    fn pass_on_one(
        &self,
        row: Claimed,
        until: Instant,
        room: OwnedSemaphorePermit,
        alone: Option<OwnedSemaphorePermit>,
    ) {
        let (lease, event_is_there) = lease(row, until);
        let held = Held { lease, room, place: None, alone };
        if event_is_there {
            let _stopped = self.claims.send(Claim::Lease(held));
        } else {
            self.results.send(ended(held, Ending::Final(DeliveryState::Expired), Outcome::Expired));
        }
    }
}

fn rows(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
        draining: row.draining,
        crashes: row.crashes,
        until,
        batch: None,
        at: Whereabouts::Row(row.row_at),
        in_line: row.in_line,
    };
    (lease, event_is_there)
}
