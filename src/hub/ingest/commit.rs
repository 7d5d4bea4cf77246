//! A session that commits groups, one after another: it is kept between them, made anew when it was lost, and a commit whose answer never came is
//! looked up before anybody is answered. Knows nothing of the line, nor of what becomes of a group that fails.

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::OwnedSemaphorePermit;

use super::super::Handoff;
use super::super::handoff::Waited;
use super::super::open_sessions::OpenSessions;
use super::fan_out::FanOut;
use super::group::Trouble;
use super::matching::KnownRoutes;
use super::{LeaseTerms, Request, birth, group};
use crate::domain::Error;
use crate::domain::id::{DeliveryId, IdMap};
use crate::domain::key_ring::KeyRing;
use crate::store;
use crate::store::events::Stored;
use crate::store::sessions::{Bounds, Watch, in_time};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Origin;

/// How long a statement may take, as of any session; locks are waited for as long as the one who commits can spare.
const STATEMENT_WITHIN: Duration = Duration::from_secs(30);
/// How long a group waits for room in memory at most, for each thousand that it needs or part of it, and how long none does after one did so in
/// vain.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(100);
const NO_WAIT_AFTER_VAIN: Duration = Duration::from_secs(1);
/// For so long after it was used a connection is taken to be good without a look: what may be remembered instead of read is remembered only then,
/// since a first statement that writes, on a connection that was lost long ago, leaves everybody in doubt.
const GOOD_FOR: Duration = Duration::from_millis(50);
/// How long a commit whose answer never came is looked up before its callers are told that we do not know.
const LOOK_UP_FOR: Duration = Duration::from_secs(10);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What every commit stands on.
#[derive(Clone)]
pub(super) struct Means {
    pub pool: PgPool,
    pub keys: KeyRing,
    pub open_sessions: OpenSessions,
    pub handoff: Handoff,
    pub lease: LeaseTerms,
    pub metrics: Metrics,
}

pub(super) struct Committer {
    means: Means,
    routes: KnownRoutes,
    pub fan_out: FanOut,
    /// How long somebody's lock is waited for.
    pub patience: Duration,
    /// Kept between groups; dropped when anything goes wrong with it.
    connection: Option<Kept>,
    /// Until when room is not waited for, because none got free.
    no_room_before: Option<Instant>,
}

struct Kept {
    connection: PoolConnection<Postgres>,
    watch: Watch,
    used_at: Instant,
    patience: Duration,
}

impl Committer {
    pub(super) fn new(means: Means, patience: Duration) -> Self {
        let (routes, fan_out) = (KnownRoutes::default(), FanOut::default());
        Self { means, routes, fan_out, patience, connection: None, no_room_before: None }
    }

    /// Has a session before anybody waits for it. If there is none, the first group tries again and says so.
    pub(super) async fn prepare(&mut self) {
        self.connection = self.connect().await.ok();
    }

    /// Gives the session back until there is something to commit again.
    pub(super) fn rest(&mut self) {
        self.connection = None;
    }

    /// A connection that was kept may have been lost while nobody looked, with the database's restart for instance: what comes of that is no
    /// answer to anybody as long as a new one can be had.
    pub(super) async fn commit(&mut self, group: &[Request]) -> Result<group::Written, Failure> {
        let kept = self.connection.is_some();
        match self.try_commit(group).await {
            Err(Failure::Undone(Error::Unavailable(_))) if kept && self.connection.is_none() => {
                self.try_commit(group).await
            }
            tried => tried,
        }
    }

    async fn try_commit(&mut self, group: &[Request]) -> Result<group::Written, Failure> {
        let mut kept = match self.connection.take() {
            Some(kept) => kept,
            None => self.connect().await.map_err(Failure::Undone)?,
        };
        if kept.patience != self.patience {
            let bounded = kept.watch.answered(bound(&mut kept.connection, self.patience)).await;
            bounded.map_err(|error| Failure::Undone(error.into()))?;
            kept.patience = self.patience;
        }
        let room = self.room_for(group).await;
        // Taken before anything is sent: a lease must never seem longer here than it is in the database.
        let until = Instant::now() + self.means.lease.duration;
        let birth = group::Birth {
            lease: self.means.lease,
            room: room.as_ref().map_or(0, |room| room.num_permits()),
            set_aside: self.means.handoff.set_aside(),
        };
        let mut ground = group::Ground {
            keys: &self.means.keys,
            open_sessions: &self.means.open_sessions,
            routes: &mut self.routes,
            remembers: kept.used_at.elapsed() < GOOD_FOR,
        };
        let written = match group::write(&mut kept.connection, &kept.watch, &mut ground, &birth, group).await
        {
            Ok(written) => {
                self.connection = Some(Kept { used_at: Instant::now(), ..kept });
                written
            }
            Err(Trouble::Undone(error)) => {
                self.keep_if_good(kept).await;
                return Err(Failure::Undone(error));
            }
            Err(Trouble::Held(error)) => {
                self.keep_if_good(kept).await;
                return Err(Failure::Held(error));
            }
            Err(Trouble::InDoubt(plan, error)) => {
                let Kept { mut connection, watch, .. } = kept;
                connection.close_on_drop();
                drop(connection);
                let stored = self.look_up(&plan, &watch, error).await?;
                plan.written(stored, &birth)
            }
        };
        self.fan_out.learn(written.events.len(), written.born.len(), written.room_wanted);
        birth::hand_over(&self.means.handoff, &written, room, until);
        self.means.metrics.events_accepted(Origin::Cancel, written.events.len() - written.published_count);
        self.means.metrics.events_accepted(Origin::Publish, written.published_count);
        Ok(written)
    }

    /// Room in memory for a group. While there is more to send than can be sent, it is better that callers wait a moment than that the rows go
    /// through the database once more. Nobody waits for room that does not get free.
    async fn room_for(&mut self, group: &[Request]) -> Option<OwnedSemaphorePermit> {
        let waits = self.no_room_before.is_none_or(|moment| Instant::now() >= moment);
        let wanted = self.fan_out.room(group.iter().map(Request::weight).sum());
        let needed = if waits { wanted.min(group::ROOM_WANTED) } else { 0 };
        let patience = WAIT_FOR_ROOM * needed.div_ceil(1_000) as u32;
        let (room, waited) = self.means.handoff.reserve_soon(needed, group::ROOM_WANTED, patience).await;
        self.no_room_before = (waited == Waited::InVain)
            .then(|| Instant::now() + NO_WAIT_AFTER_VAIN)
            .or(self.no_room_before.filter(|_| !waits));
        room
    }

    /// What is remembered of routes goes with the session that it was read in: the database behind the next one may be a standby that has lost the
    /// last commits, and counts versions from there.
    async fn connect(&mut self) -> Result<Kept, Error> {
        self.routes = KnownRoutes::default();
        in_time(async {
            let mut connection = self.means.pool.acquire().await?;
            store::sessions::plan_once_by_key(&mut connection).await?;
            bound(&mut connection, self.patience).await?;
            group::plan_ahead(&mut connection, self.means.lease).await?;
            let watch = Watch::over(&mut connection, &self.means.pool).await?;
            Ok::<_, Error>(Kept { connection, watch, used_at: Instant::now(), patience: self.patience })
        })
        .await
    }

    /// After a group that failed, whose connection may have been the reason.
    async fn keep_if_good(&mut self, mut kept: Kept) {
        match kept.watch.answered(kept.connection.ping()).await {
            Ok(()) => self.connection = Some(Kept { used_at: Instant::now(), ..kept }),
            Err(_) => kept.connection.close_on_drop(),
        }
    }

    /// The answer to a commit never came: whether it happened, and what came of it, is written in the database. Nothing that is not there yet comes
    /// once the backend that was to write it is gone; then it is certain that nothing happened.
    async fn look_up(
        &self,
        plan: &group::Plan,
        watch: &Watch,
        error: sqlx::Error,
    ) -> Result<IdMap<DeliveryId, Stored>, Failure> {
        if plan.events.is_empty() {
            return Err(Failure::Unknown(error.into()));
        }
        let give_up = Instant::now() + LOOK_UP_FOR;
        loop {
            let looked = tokio::time::timeout_at(give_up.into(), self.look(plan, watch)).await;
            match looked.unwrap_or_else(|_elapsed| Err(Error::unavailable("the database did not answer"))) {
                Ok((Some(stored), _)) => return Ok(stored),
                Ok((None, true)) => return Err(Failure::Undone(error.into())),
                Ok((None, false)) | Err(_) if Instant::now() < give_up => {
                    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                }
                Ok((None, false)) | Err(_) => return Err(Failure::Unknown(error.into())),
            }
        }
    }

    /// What was stored, and whether the backend was gone before that was looked at.
    async fn look(
        &self,
        plan: &group::Plan,
        watch: &Watch,
    ) -> Result<(Option<IdMap<DeliveryId, Stored>>, bool), Error> {
        let mut connection = self.means.pool.acquire().await?;
        let is_gone = store::sessions::is_gone(&mut connection, watch.backend()).await?;
        let found =
            store::events::find_inserted(&mut connection, &plan.events, self.means.lease.node).await?;
        Ok((found, is_gone))
    }
}

async fn bound(session: &mut PgConnection, patience: Duration) -> Result<(), sqlx::Error> {
    store::sessions::bound(session, Bounds { statement: STATEMENT_WITHIN, lock: patience }).await
}

/// Why a group has no answers.
pub(super) enum Failure {
    /// Nothing of it happened.
    Undone(Error),
    /// Nothing of it happened, for somebody has a lock that it needs.
    Held(Error),
    /// It may have been committed and cannot be looked up; trying again could take our own work for somebody else's.
    Unknown(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Undone(error) | Failure::Held(error) | Failure::Unknown(error) => error,
        }
    }
}
