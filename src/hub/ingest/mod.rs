//! Where events come into being: one writer that commits everything that waits, together.
//!
//! Dramatis personae. A *request* waits for its answer. The *writer* takes all requests that wait (up to [`GROUP_MAX`]) and commits them in
//! one transaction; nobody waits for a timer, the group is whatever gathered while the last one was being committed. The writer owns the
//! commit: a client that hangs up does not undo what others commit with it. A *group* that fails is tried again one request at a time, so
//! that one bad request fails alone. What was born leased is handed to the engine, each caller is answered, in this order, and only after
//! the commit.

mod group;

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::once::{Answer, Once};
use super::{Handoff, Hub};
use crate::domain::Error;
use crate::domain::caller::Caller;
use crate::domain::event::NewEvent;
use crate::domain::id::{NodeId, PartnerId};
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::RedirectSession;
use crate::domain::version::IfMatch;
use crate::store;
use crate::telemetry::Heartbeat;

/// Requests committed together at most.
const GROUP_MAX: usize = 500;
/// Requests that may wait; beyond that callers wait to get in line.
const LINE_MAX: usize = 4_096;
/// How long a commit whose answer never came is looked up before its callers are told that we do not know.
const LOOK_UP_FOR: Duration = Duration::from_secs(10);

/// The lease that deliveries are born under.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTerms {
    pub node: NodeId,
    pub duration: Duration,
}

/// Cancel a redirect session, and tell whoever wants to know.
#[derive(Clone)]
pub struct Cancel {
    pub session: Uuid,
    pub condition: IfMatch,
    /// Makes the event of a session that was just cancelled; the surface knows what it looks like.
    pub announce: fn(&RedirectSession) -> NewEvent,
}

/// Renders a result into an answer; called again when a group has to be tried again.
pub type Render = Box<dyn Fn(Result<RedirectSession, Error>) -> Answer + Send + Sync>;

/// A cancel in line.
pub(super) struct Request {
    pub partner: PartnerId,
    pub once: Option<Once>,
    pub cancel: Cancel,
    pub render: Render,
    pub reply: oneshot::Sender<Result<Answer, Error>>,
}

/// The line to the writer.
#[derive(Clone)]
pub(super) struct Ingest(mpsc::Sender<Request>);

impl Ingest {
    pub(super) fn start(
        pool: PgPool,
        keys: KeyRing,
        handoff: Handoff,
        lease: LeaseTerms,
        heartbeat: Heartbeat,
    ) -> Self {
        let (sender, line) = mpsc::channel(LINE_MAX);
        let writer = Writer { pool, keys, handoff, lease, connection: None };
        tokio::spawn(async move {
            writer.run(line).await;
            drop(heartbeat);
        });
        Self(sender)
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
            Err(error) => return self.refuse(caller, once, error, render).await,
        };
        // Held until the answer is there, so that a repeat finds it and two of a kind are never in one group.
        let _turn = match &once {
            Some(once) => Some(self.requests.turn(caller.partner, once.request_id).await),
            None => None,
        };
        let (reply, answer) = oneshot::channel();
        let request = Request { partner: caller.partner, once, cancel, render: Box::new(render), reply };
        let stopping = || Error::unavailable("the server is stopping");
        self.ingest.0.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
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
    handoff: Handoff,
    lease: LeaseTerms,
    /// Kept between groups; dropped when anything goes wrong with it.
    connection: Option<PoolConnection<Postgres>>,
}

impl Writer {
    async fn run(mut self, mut line: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        while line.recv_many(&mut waiting, GROUP_MAX).await > 0 {
            self.write(std::mem::take(&mut waiting)).await;
        }
    }

    /// Commits a group; if it fails, each of its requests alone.
    async fn write(&mut self, group: Vec<Request>) {
        match self.commit(&group).await {
            Ok(answers) => answer_each(group, answers),
            Err(Failure::Undone(error)) if group.len() > 1 => {
                tracing::warn!(error = %error.chain(), requests = group.len(), "a group commit failed; trying each request alone");
                for request in group {
                    match self.commit(std::slice::from_ref(&request)).await {
                        Ok(answers) => answer_each(vec![request], answers),
                        Err(failure) => fail_each(vec![request], failure.into()),
                    }
                }
            }
            Err(failure) => fail_each(group, failure.into()),
        }
    }

    async fn commit(&mut self, group: &[Request]) -> Result<Vec<Answer>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await.map_err(|error| Failure::Undone(error.into()))?,
        };
        let room = self.handoff.reserve(group::ROOM_WANTED);
        // Taken before anything is sent: a lease must never seem longer here than it is in the database.
        let until = Instant::now() + self.lease.duration;
        let written = group::write(
            &mut connection,
            &self.keys,
            self.lease,
            room.as_ref().map_or(0, |room| room.num_permits()),
            group,
        )
        .await;
        let written = match written {
            Ok(written) => written,
            Err(error) => return Err(Failure::Undone(self.undo(connection, error).await)),
        };
        match sqlx::query("commit").execute(&mut *connection).await {
            Ok(_) => self.connection = Some(connection),
            Err(error) => {
                connection.close_on_drop();
                drop(connection);
                self.look_up(&written, error).await.map_err(Failure::Unknown)?;
            }
        }
        group::hand_over(&self.handoff, &written, room, until);
        Ok(written.answers)
    }

    /// Rolls back, or drops a connection that cannot even do that.
    async fn undo(&mut self, mut connection: PoolConnection<Postgres>, error: Error) -> Error {
        match sqlx::query("rollback").execute(&mut *connection).await {
            Ok(_) => self.connection = Some(connection),
            Err(_) => connection.close_on_drop(),
        }
        error
    }

    /// The answer to COMMIT never came: whether it happened is written in the database.
    async fn look_up(&self, written: &group::Written, error: sqlx::Error) -> Result<(), Error> {
        let Some(witness) = written.events.first() else { return Err(error.into()) };
        let give_up = Instant::now() + LOOK_UP_FOR;
        loop {
            let found = match self.pool.acquire().await {
                Ok(mut connection) => store::events::stored(&mut connection, &[witness.id]).await,
                Err(error) => Err(error.into()),
            };
            match found {
                Ok(found) if !found.is_empty() => return Ok(()),
                Ok(_) => return Err(error.into()),
                Err(_) if Instant::now() < give_up => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(_) => return Err(error.into()),
            }
        }
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

fn answer_each(group: Vec<Request>, answers: Vec<Answer>) {
    for (request, answer) in group.into_iter().zip(answers) {
        let _hung_up = request.reply.send(Ok(answer));
    }
}

fn fail_each(group: Vec<Request>, error: Error) {
    let passing = matches!(error, Error::Unavailable(_));
    let chain = error.chain();
    for request in group {
        let error = if passing { Error::unavailable(chain.clone()) } else { Error::internal(chain.clone()) };
        let _hung_up = request.reply.send(Err(error));
    }
}
