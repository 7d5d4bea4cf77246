//! Sessions of the database: how each is set up, and how those that do the same again and again have their statements planned. The queue is
//! what makes that matter: it is empty whenever somebody counts its rows, and the planner takes that to be the rule.

use std::io;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::timeout;

use crate::domain::Error;

/// Sessions of the shared pool at most.
const SHARED_MAX: u32 = 20;
/// How long a request waits for a session before it is told to come back.
const SESSION_WITHIN: Duration = Duration::from_secs(5);
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Reasons that are told apart.
const REASONS_MAX: usize = 8;

/// Of every session: statements are bounded, and a commit means that it is on disk.
const ANY: &str = "set synchronous_commit = on; set statement_timeout = '30s'; set lock_timeout = '10s';
    set idle_in_transaction_session_timeout = '30s'; set timezone = 'UTC'; set jit = off";
/// A plan costs as much as a group of rows, and left to itself PostgreSQL makes a new one each time, because it takes those that are made for
/// given arrays to be cheaper. One that is kept must not read all of a table, or of an index, because they were short when it was made.
const BY_KEY: &str =
    "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_mergejoin = off";
/// Who takes the first few of very many reads them in the order of an index. Left to itself PostgreSQL reads all there are and sorts them,
/// each time, because it takes them to be few.
const IN_INDEX_ORDER: &str =
    "set enable_bitmapscan = off; set enable_sort = off; set enable_incremental_sort = off";

/// Of what goes through all that there is.
const UNHURRIED: &str = "set statement_timeout = 0";
/// Locks of whole tables are waited for a little at a time: whoever comes later waits behind who waits.
const LOCKS_BRIEFLY: &str = "set lock_timeout = '3s'";

/// The pool that everybody shares.
pub async fn connect(database: PgConnectOptions) -> Result<PgPool, sqlx::Error> {
    set_up_by(&[ANY], SHARED_MAX).connect_with(database.application_name("herald")).await
}

/// A pool of up to `sessions_max` for those who take what comes first in the queue, however much is behind it. It connects when it is used.
pub fn in_index_order(like: &PgPool, sessions_max: u32) -> PgPool {
    set_up_by(&[ANY, BY_KEY, IN_INDEX_ORDER], sessions_max)
        .connect_lazy_with(like.connect_options().as_ref().clone())
}

/// A pool of up to `sessions_max` for those who must not wait until requests give theirs back. It connects when it is used.
pub fn apart(like: &PgPool, sessions_max: u32) -> PgPool {
    set_up_by(&[ANY], sessions_max).connect_lazy_with(like.connect_options().as_ref().clone())
}

/// A pool of one session whose statements take as long as they take.
pub fn unhurried(like: &PgPool) -> PgPool {
    set_up_by(&[ANY, UNHURRIED], 1).connect_lazy_with(like.connect_options().as_ref().clone())
}

/// The same for what changes the schema.
pub(super) fn patient(like: &PgPool) -> PgPool {
    set_up_by(&[ANY, UNHURRIED, LOCKS_BRIEFLY], 1).connect_lazy_with(like.connect_options().as_ref().clone())
}

/// Who has been in a transaction for long, and may have what somebody waits for: for an operator, who can end them.
pub(super) async fn in_the_way(pool: &PgPool) -> String {
    let others: Result<Vec<String>, _> = sqlx::query_scalar(
        "select format('process %s (%s, %s for %s s)', pid, coalesce(nullif(application_name, ''), usename), state,
                       extract(epoch from clock_timestamp() - xact_start)::bigint)
         from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and xact_start < clock_timestamp() - interval '1 second'
         order by xact_start limit 3",
    )
    .fetch_all(pool)
    .await;
    match others {
        Ok(others) if !others.is_empty() => others.join(", "),
        _ => "another process that brings the schema up to date".to_owned(),
    }
}

fn set_up_by(settings: &'static [&'static str], sessions_max: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(sessions_max)
        .acquire_timeout(SESSION_WITHIN)
        .after_connect(move |session, _| {
            Box::pin(async move { set_up(session, settings).await.inspect_err(complain) })
        })
        // Asked each time instead of a ping: a server that was a standby, or became one, must not keep sessions that can write nothing.
        .test_before_acquire(false)
        .before_acquire(|session, _| Box::pin(takes_writes(session)))
        // Work that was given up may have left a connection on which nothing comes any more. The pool's own look at what is given back would wait
        // for it for ever, and hold its place.
        .after_release(|session, _| {
            Box::pin(async move {
                match timeout(SESSION_WITHIN, session.ping()).await {
                    Ok(alive) => alive.map(|()| true),
                    Err(_elapsed) => Err(no_answer()),
                }
            })
        })
}

async fn set_up(session: &mut PgConnection, settings: &[&'static str]) -> Result<(), sqlx::Error> {
    for each in settings {
        sqlx::raw_sql(*each).execute(&mut *session).await?;
    }
    check_takes_writes(session).await
}

/// Why no session can be had, each reason now and then. A pool tries again at once for each who waits, who are only told that they waited in vain; what
/// it says itself each time is not among the lines that are asked for by default.
fn complain(error: &sqlx::Error) {
    static SAID: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());
    let (now, reason) = (Instant::now(), error.to_string());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.retain(|(_, at)| now.duration_since(*at) < COMPLAIN_EVERY);
    if said.len() < REASONS_MAX && said.iter().all(|(known, _)| *known != reason) {
        said.push((reason, now));
        tracing::warn!(%error, "no session of the database can be had; it is tried again");
    }
}

/// Errors: this server takes no writes, or does not say.
pub async fn check_takes_writes(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    match takes_writes(session).await? {
        true => Ok(()),
        false => Err(sqlx::Error::Io(io::Error::new(
            io::ErrorKind::ReadOnlyFilesystem,
            "this server of the database takes no writes: it is a standby, or was made read-only",
        ))),
    }
}

async fn takes_writes(session: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let read_only: String = sqlx::query_scalar("show transaction_read_only").fetch_one(session).await?;
    Ok(read_only == "off")
}

/// A connection on which nothing comes any more, as far as anybody can tell.
fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer"))
}

/// More than any statement may take, by the server's own bound.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// How long an answer is waited for before it is looked whether one can still come.
const LOOK_AFTER: Duration = Duration::from_secs(2);
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// Bounds a piece of work with the database by what its statements may take. Errors: as of [`within`].
pub async fn in_time<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    within(ANSWER_WITHIN, work).await
}

/// Bounds a piece of work with the database. A connection that was lost without a word, with its machine or by a firewall that forgot it, never
/// answers and never fails: the server's bounds end nothing then.
/// Errors: `Unavailable` when there was no answer, and those of the work.
pub async fn within<T, E>(bound: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    match timeout(bound, work).await {
        Ok(done) => Ok(done?),
        Err(_elapsed) => Err(no_answer().into()),
    }
}

/// Looks after one session, for those whom everybody waits for: that nothing comes any more is noticed within seconds.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Has another session to look from.
    pool: PgPool,
    backend: Backend,
}

impl Watch {
    /// Of the session at hand.
    pub async fn over(db: &mut PgConnection, pool: &PgPool) -> Result<Watch, sqlx::Error> {
        Ok(Watch { pool: pool.clone(), backend: backend(db).await? })
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Does something with the session, whose connection is lost if there is no answer (an `Io` error).
    pub async fn answered<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E>
    where
        E: From<sqlx::Error>,
    {
        let mut work = pin!(work);
        let give_up = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < give_up {
            if let Ok(done) = timeout(LOOK_AFTER, &mut work).await {
                return done;
            }
            // Where nobody can look, it may just be slow.
            if let Ok(Ok(true)) = timeout(LOOK_AFTER, self.has_said_all()).await {
                break;
            }
        }
        // What came while somebody looked is an answer.
        timeout(LAST_MOMENT, work).await.unwrap_or_else(|_elapsed| Err(no_answer().into()))
    }

    /// Whether the backend is gone, or has had nothing to do for a while: whatever it had to say, it has said.
    async fn has_said_all(&self) -> Result<bool, sqlx::Error> {
        let mut other = self.pool.acquire().await?;
        sqlx::query_scalar(
            "select not exists (
                select from pg_stat_activity
                where pid = $1 and backend_start = $2
                    and (coalesce(state, 'active') not like 'idle%' or state_change > clock_timestamp() - interval '1 second'))",
        )
        .bind(self.backend.pid)
        .bind(self.backend.backend_start)
        .fetch_one(&mut *other)
        .await
    }
}

/// Has a session plan each of its statements once, and find rows by their keys alone: for whoever does the same again and again to rows whose
/// keys it knows.
pub async fn plan_once_by_key(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(BY_KEY).execute(db).await?;
    Ok(())
}

/// The same until the transaction ends, with rows read in the order of an index: for answers from the history. It has a partition for each day, and
/// to plan for all of them takes many times as long as the answer.
pub async fn plan_once_here(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; set local enable_mergejoin = off;
         set local enable_bitmapscan = off; set local enable_sort = off; set local enable_incremental_sort = off",
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How long a session's statements may take, and wait for somebody's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub statement: Duration,
    pub lock: Duration,
}

/// Gives a session bounds of its own.
pub async fn bound(db: &mut PgConnection, bounds: Bounds) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select set_config('statement_timeout', $1::text, false), set_config('lock_timeout', $2::text, false)",
    )
    .bind(bounds.statement.as_millis().to_string())
    .bind(bounds.lock.as_millis().to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// The process at the other end of a session, by which others can tell whether it still is at work.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Backend {
    pid: i32,
    /// Numbers of processes are used again.
    backend_start: DateTime<Utc>,
}

/// Who is at the other end of this session.
pub async fn backend(db: &mut PgConnection) -> Result<Backend, sqlx::Error> {
    sqlx::query_as("select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()")
        .fetch_one(db)
        .await
}

/// Whether a backend is gone: whatever it did not commit, it never will. One that is still there is asked to go.
pub async fn is_gone(db: &mut PgConnection, backend: &Backend) -> Result<bool, sqlx::Error> {
    let asked: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start = $2",
    )
    .bind(backend.pid)
    .bind(backend.backend_start)
    .fetch_all(db)
    .await?;
    Ok(asked.is_empty())
}
