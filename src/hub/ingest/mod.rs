//! Where events come into being: one writer that commits everything that waits, together.
//!
//! Dramatis personae. A *request*, to cancel a session or to publish events, waits for its answer. The *writer* takes all requests that wait (up to [`GROUP_MAX`], and no more deliveries than `fan_out` allows) and commits them in
//! one transaction; nobody waits for a timer, the group is whatever gathered while the last one was being committed. The writer owns the
//! commit: a client that hangs up does not undo what others commit with it. A *group* that fails is tried again one request at a time, so
//! that one bad request fails alone. What was born leased is handed to the engine, each caller is answered, in this order, and only after
//! the commit.

mod birth;
mod cancels;
mod fan_out;
mod group;
mod matching;
mod publications;
mod request;

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use self::fan_out::FanOut;
use self::group::Trouble;
use self::matching::KnownRoutes;
use super::handoff::Waited;
use super::once::{Answer, Once};
use super::open_sessions::OpenSessions;
use super::{Handoff, Hub};
use crate::domain::Error;
use crate::domain::caller::Caller;
use crate::domain::id::{DeliveryId, IdMap, NodeId};
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::RedirectSession;
use crate::own_thread;
use crate::store;
use crate::store::events::Stored;
use crate::store::sessions::{Watch, in_time};
use crate::telemetry::metrics::Origin;
use crate::telemetry::{Heartbeat, Metrics};

/// Requests committed together at most.
const GROUP_MAX: usize = 500;
/// Requests that may wait; beyond that callers wait to get in line.
const LINE_MAX: usize = 4_096;
/// One to write, and one to look up what became of a commit.
const CONNECTIONS_MAX: u32 = 2;
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

/// The lease that deliveries are born under.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTerms {
    pub node: NodeId,
    pub duration: Duration,
}

pub(super) use publications::Owned;
pub use publications::Receipt;
pub use request::{Cancel, Render};
pub(super) use request::{CancelRequest, PublishRequest, Request};

/// The line to the writer.
#[derive(Clone)]
pub(super) struct Ingest(mpsc::Sender<Request>);

impl Ingest {
    pub(super) fn start(
        pool: &PgPool,
        keys: KeyRing,
        open_sessions: OpenSessions,
        handoff: Handoff,
        lease: LeaseTerms,
        heartbeat: Heartbeat,
        metrics: Metrics,
    ) -> Self {
        let (sender, line) = mpsc::channel(LINE_MAX);
        let _ends_with_the_line = own_thread::spawn("ingest", pool, CONNECTIONS_MAX, async move |pool| {
            let (connection, no_room_before, fan_out) = (None, None, FanOut::default());
            let routes = KnownRoutes::default();
            let writer = Writer {
                pool,
                keys,
                open_sessions,
                routes,
                handoff,
                lease,
                metrics,
                connection,
                no_room_before,
                fan_out,
            };
            writer.run(line).await;
            drop(heartbeat);
        });
        Self(sender)
    }

    /// Gets in line with a request whose answer comes over the other end of `answer`.
    /// Errors: `Unavailable` while the server stops, and whatever the request comes to.
    pub(super) async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let stopping = || Error::unavailable("the server is stopping");
        self.0.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

impl Hub {
    /// Cancels a session of the caller: the state, the event and the means to deliver it are committed before the answer is given.
    /// Errors (rendered): `NotFound` of the session or its customer, `NotYours`, `VersionMismatch`, `Transition`.
    pub async fn cancel_session(
        &self,
        caller: &Caller,
        once: Option<Once>,
        command: Result<Cancel, Error>,
        render: impl Fn(Result<RedirectSession, Error>) -> Answer + Send + Sync + 'static,
    ) -> Result<Answer, Error> {
        let cancel = match command {
            Ok(cancel) => cancel,
            Err(error) => return Box::pin(self.refuse(caller, once, error, render)).await,
        };
        // Held until the answer is there, so that a repeat finds it and two of a kind are never in one group.
        let _turn = match &once {
            Some(once) => Some(self.requests.turn(caller.partner, once.request_id).await),
            None => None,
        };
        let (reply, answer) = oneshot::channel();
        let request =
            CancelRequest { partner: caller.partner, once, cancel, render: Box::new(render), reply };
        self.ingest.ask(Request::Cancel(request), answer).await
    }

    /// Answers a request whose command is wrong already, and remembers the answer.
    async fn refuse(
        &self,
        caller: &Caller,
        once: Option<Once>,
        error: Error,
        render: impl FnOnce(Result<RedirectSession, Error>) -> Answer,
    ) -> Result<Answer, Error> {
        match self.open(caller.partner, once).await? {
            super::once::Opening::Answered(answer) => Ok(answer),
            super::once::Opening::Fresh(turn) => turn.close(Err(error), render).await,
        }
    }
}

struct Writer {
    pool: PgPool,
    keys: KeyRing,
    open_sessions: OpenSessions,
    routes: KnownRoutes,
    handoff: Handoff,
    lease: LeaseTerms,
    metrics: Metrics,
    /// Kept between groups; dropped when anything goes wrong with it.
    connection: Option<Kept>,
    /// Until when room is not waited for, because none got free.
    no_room_before: Option<Instant>,
    fan_out: FanOut,
}

struct Kept {
    connection: PoolConnection<Postgres>,
    watch: Watch,
    used_at: Instant,
}

impl Writer {
    async fn run(mut self, mut line: mpsc::Receiver<Request>) {
        // If it fails, the first group tries again and says so.
        self.connection = self.connect().await.ok();
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        while line.recv_many(&mut waiting, GROUP_MAX).await > 0 {
            while !waiting.is_empty() {
                let rest = waiting.split_off(self.fan_out.group_size(&waiting));
                self.write(std::mem::replace(&mut waiting, rest)).await;
            }
        }
    }

    /// Commits a group; if it fails, each of its requests alone.
    async fn write(&mut self, group: Vec<Request>) {
        match self.commit(&group).await {
            Ok(written) => answer_each(group, written),
            Err(Failure::Undone(error)) if group.len() > 1 => {
                tracing::warn!(error = %error.chain(), requests = group.len(), "a group commit failed; trying each request alone");
                for request in group {
                    match self.commit(std::slice::from_ref(&request)).await {
                        Ok(written) => answer_each(vec![request], written),
                        Err(failure) => fail_each(vec![request], failure.into()),
                    }
                }
            }
            Err(failure) => fail_each(group, failure.into()),
        }
    }

    /// A connection that was kept may have been lost while nobody looked, with the database's restart for instance: what comes of that is no
    /// answer to anybody as long as a new one can be had.
    async fn commit(&mut self, group: &[Request]) -> Result<group::Written, Failure> {
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
        let room = self.room_for(group).await;
        // Taken before anything is sent: a lease must never seem longer here than it is in the database.
        let until = Instant::now() + self.lease.duration;
        let birth = group::Birth {
            lease: self.lease,
            room: room.as_ref().map_or(0, |room| room.num_permits()),
            set_aside: self.handoff.set_aside(),
        };
        let mut ground = group::Ground {
            keys: &self.keys,
            open_sessions: &self.open_sessions,
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
            Err(Trouble::InDoubt(plan, error)) => {
                let Kept { mut connection, watch, .. } = kept;
                connection.close_on_drop();
                drop(connection);
                let stored = self.look_up(&plan, &watch, error).await?;
                plan.written(stored, &birth)
            }
        };
        self.fan_out.learn(written.events.len(), written.born.len(), written.room_wanted);
        birth::hand_over(&self.handoff, &written, room, until);
        self.metrics.events_accepted(Origin::Cancel, written.events.len() - written.published_count);
        self.metrics.events_accepted(Origin::Publish, written.published_count);
        Ok(written)
    }

    /// Room in memory for a group. While there is more to send than can be sent, it is better that callers wait a moment than that the rows go
    /// through the database once more. Nobody waits for room that does not get free.
    async fn room_for(&mut self, group: &[Request]) -> Option<OwnedSemaphorePermit> {
        let waits = self.no_room_before.is_none_or(|moment| Instant::now() >= moment);
        let wanted = self.fan_out.room(group.iter().map(Request::weight).sum());
        let needed = if waits { wanted.min(group::ROOM_WANTED) } else { 0 };
        let patience = WAIT_FOR_ROOM * needed.div_ceil(1_000) as u32;
        let (room, waited) = self.handoff.reserve_soon(needed, group::ROOM_WANTED, patience).await;
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
            let mut connection = self.pool.acquire().await?;
            store::sessions::plan_once_by_key(&mut connection).await?;
            group::plan_ahead(&mut connection, self.lease).await?;
            let watch = Watch::over(&mut connection, &self.pool).await?;
            Ok::<_, Error>(Kept { connection, watch, used_at: Instant::now() })
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
        let mut connection = self.pool.acquire().await?;
        let is_gone = store::sessions::is_gone(&mut connection, watch.backend()).await?;
        let found = store::events::find_inserted(&mut connection, &plan.events, self.lease.node).await?;
        Ok((found, is_gone))
    }
}

/// Why a group has no answers.
enum Failure {
    /// Nothing of it happened.
    Undone(Error),
    /// It may have been committed and cannot be looked up; trying again could take our own work for somebody else's.
    Unknown(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Undone(error) | Failure::Unknown(error) => error,
        }
    }
}

fn answer_each(group: Vec<Request>, written: group::Written) {
    let (mut cancelled, mut published) = (written.cancelled.into_iter(), written.published.into_iter());
    for request in group {
        // Each kind has an answer for each of its requests, in their order.
        let unanswered = || Error::internal("a request was committed and not answered");
        match request {
            Request::Cancel(request) => {
                let _hung_up = request.reply.send(cancelled.next().ok_or_else(unanswered));
            }
            Request::Publish(request) => {
                let _hung_up = request.reply.send(published.next().unwrap_or_else(|| Err(unanswered())));
            }
        }
    }
}

fn fail_each(group: Vec<Request>, error: Error) {
    let passing = matches!(error, Error::Unavailable(_));
    let chain = error.chain();
    for request in group {
        request.fail(if passing {
            Error::unavailable(chain.clone())
        } else {
            Error::internal(chain.clone())
        });
    }
}
