//! Sessions of the database: how each is set up, and how those that do the same again and again have their statements planned. The queue is
//! what makes that matter: it is empty whenever somebody counts its rows, and the planner takes that to be the rule.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool};

/// Sessions of the shared pool at most.
const SHARED_MAX: u32 = 24;
/// How long a request waits for a session before it is told to come back.
const SESSION_WITHIN: Duration = Duration::from_secs(5);

/// Of every session: statements are bounded, and a commit means that it is on disk.
const ANY: &str = "set synchronous_commit = on; set statement_timeout = '30s'; set lock_timeout = '10s';
    set idle_in_transaction_session_timeout = '30s'; set timezone = 'UTC'; set jit = off";
/// A plan costs as much as a group of rows, and left to itself PostgreSQL makes a new one each time, because it takes those that are made for
/// given arrays to be cheaper. One that is kept must not read all of a table, or of an index, because they were short when it was made.
const BY_KEY: &str =
    "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_mergejoin = off";
/// Who takes the first few of very many reads them in the order of an index. Left to itself PostgreSQL reads all there are and sorts them,
/// each time, because it takes them to be few.
const IN_INDEX_ORDER: &str = "set enable_bitmapscan = off; set enable_sort = off";

const PATIENT: &str = "set statement_timeout = 0; set lock_timeout = 0";

/// The pool that everybody shares.
pub async fn connect(database: PgConnectOptions) -> Result<PgPool, sqlx::Error> {
    set_up_by(&[ANY], SHARED_MAX).connect_with(database.application_name("herald")).await
}

/// A pool of up to `sessions_max` for those who take what comes first in the queue, however much is behind it. It connects when it is used.
pub fn in_index_order(like: &PgPool, sessions_max: u32) -> PgPool {
    set_up_by(&[ANY, BY_KEY, IN_INDEX_ORDER], sessions_max)
        .connect_lazy_with(like.connect_options().as_ref().clone())
}

/// A pool of one session whose statements take as long as they take.
pub(super) fn patient(like: &PgPool) -> PgPool {
    set_up_by(&[ANY, PATIENT], 1).connect_lazy_with(like.connect_options().as_ref().clone())
}

fn set_up_by(settings: &'static [&'static str], sessions_max: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(sessions_max).acquire_timeout(SESSION_WITHIN).after_connect(
        move |session, _| {
            Box::pin(async move {
                for each in settings {
                    sqlx::raw_sql(*each).execute(&mut *session).await?;
                }
                Ok(())
            })
        },
    )
}

/// Has a session plan each of its statements once, and find rows by their keys alone: for whoever does the same again and again to rows whose
/// keys it knows.
pub async fn plan_once_by_key(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(BY_KEY).execute(db).await?;
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
