//! Where events come into being: one writer that commits everything that waits, together.
//!
//! Dramatis personae. A *request*, to cancel a session or to publish events, waits for its answer. The *writer* takes all requests that wait (up to [`GROUP_MAX`], and no more deliveries than `fan_out` allows) and commits them in
//! one transaction; nobody waits for a timer, the group is whatever gathered while the last one was being committed. The writer owns the
//! commit: a client that hangs up does not undo what others commit with it. A *group* that fails is tried again beside the writer (`beside`), so
//! that one bad request fails alone, and one that waits for somebody's lock waits alone. What was born leased is handed to the engine, each caller is answered, in this order, and only after
//! the commit.

mod beside;
mod birth;
mod cancels;
mod commit;
mod fan_out;
mod group;
mod held;
mod matching;
mod publications;
mod request;

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use self::beside::Beside;
use self::commit::{Committer, Failure, Means};
use super::once::{Answer, Once};
use super::open_sessions::OpenSessions;
use super::{Handoff, Hub};
use crate::domain::Error;
use crate::domain::caller::Caller;
use crate::domain::id::NodeId;
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::RedirectSession;
use crate::own_thread;
use crate::telemetry::{Heartbeat, Metrics};

/// Requests committed together at most.
const GROUP_MAX: usize = 500;
/// Requests that may wait; beyond that callers wait to get in line.
const LINE_MAX: usize = 4_096;
/// One to write, one to try beside it what was not written, and one to look up what became of a commit.
const CONNECTIONS_MAX: u32 = 3;
/// How long the writer, whom everybody waits for, waits for somebody's lock.
const PATIENCE: Duration = Duration::from_secs(1);

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
            let means = Means { pool, keys, open_sessions, handoff, lease, metrics };
            let (beside, side) = beside::beside(means.clone());
            let writer = Writer { commits: Committer::new(means, PATIENCE), beside };
            tokio::join!(writer.run(line), side.run());
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
    commits: Committer,
    beside: Beside,
}

impl Writer {
    async fn run(mut self, mut line: mpsc::Receiver<Request>) {
        self.commits.prepare().await;
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        while line.recv_many(&mut waiting, GROUP_MAX).await > 0 {
            while !waiting.is_empty() {
                self.beside.divert(&mut waiting);
                let rest = waiting.split_off(self.commits.fan_out.group_size(&waiting).min(waiting.len()));
                self.write(std::mem::replace(&mut waiting, rest)).await;
            }
        }
    }

    /// Commits a group; if it fails, its requests are tried again beside, and others need not wait for that.
    async fn write(&mut self, group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        match self.commits.commit(&group).await {
            Ok(written) => answer_each(group, written),
            Err(Failure::Undone(error)) if group.len() > 1 => {
                tracing::warn!(error = %error.chain(), requests = group.len(), "a group commit failed; its requests are tried again beside");
                self.beside.try_again(group).await;
            }
            Err(Failure::Held(error)) => {
                tracing::warn!(error = %error.chain(), requests = group.len(), "somebody has what a group needs; its requests are tried again beside");
                self.beside.try_again(group).await;
            }
            Err(failure) => fail_each(group, failure.into()),
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
