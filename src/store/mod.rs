//! All SQL. A module for each noun, mostly a table; every function takes a connection, begins no transaction and decides nothing. Long statements live in
//! `queries/<table>/<verb>.sql`.

pub mod access_tokens;
pub mod api_keys;
pub mod attempts;
pub mod batches;
pub mod bundles;
pub mod callbacks;
pub mod customers;
pub mod deliveries;
pub mod event_keys;
pub mod events;
pub mod fanouts;
pub mod idempotency;
pub mod named_callbacks;
pub mod nodes;
pub mod notices;
pub mod notifications;
pub mod ordering_lines;
pub mod partitions;
pub mod partners;
pub mod queue;
pub mod redirect_ids;
pub mod redirect_sessions;
pub mod replays;
pub mod routes;
mod row_hint;
pub mod sealed;
mod sections;
pub mod sessions;
pub mod subscriptions;
pub mod targets;
pub mod webhooks;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::MigrateError;
use sqlx::{PgConnection, PgPool};

use crate::domain::Error;

/// Brings the schema up to date and makes the partitions of the days ahead. Safe to call from several nodes at once. What is there already may have
/// to be written anew, or another node's doing that to be waited for: that takes as long as it takes. While somebody's lock is in the way, it is
/// asked for again and again, so that nobody is kept from their work for long, and `waiting` is told who that may be.
pub async fn migrate(pool: &PgPool, waiting: impl Fn(&str)) -> Result<(), MigrateError> {
    let patient = sessions::patient(pool);
    while let Err(error) = sqlx::migrate!().run(&patient).await {
        let (MigrateError::Execute(why) | MigrateError::ExecuteMigration(why, _)) = &error else {
            return Err(error);
        };
        if !sqlstate_is_of(why, &[LOCK_NOT_HAD]) {
            return Err(error);
        }
        waiting(&sessions::in_the_way(&patient).await);
        tokio::time::sleep(LOCK_AGAIN_AFTER).await;
    }
    patient.close().await;
    let mut connection = pool.acquire().await?;
    partitions::make_ahead(&mut connection).await?;
    Ok(())
}

/// The database's time, the only one that decides anything.
pub async fn now(db: &mut PgConnection) -> Result<DateTime<Utc>, Error> {
    Ok(sqlx::query_scalar("select herald_now()").fetch_one(db).await?)
}

/// A lock was not to be had in time.
const LOCK_NOT_HAD: &str = "55P03";
/// Those who waited behind have their turn.
const LOCK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A database that is away, busy or restarting is a passing trouble; anything else is ours.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let passing = match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
            _ => is_connection_lost(&error) || sqlstate_is_of(&error, PASSING),
        };
        if passing { Error::unavailable(error) } else { Error::internal(error) }
    }
}

/// Connection trouble (08), not enough resources (53), operator intervention such as a restart or a bound on time (57), trouble of the machine
/// below (58), what a lost race for locks looks like (40, 55P03), a session that was ended because it did nothing (25P03), and what a failover
/// shows for a while: a server that takes no writes yet (25006), that knows no such user (28) or no such database (3D).
const PASSING: &[&str] = &["08", "25006", "25P03", "28", "3D", "40", "53", "55P03", "57", "58"];

fn sqlstate_is_of(error: &sqlx::Error, classes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|database| database.code());
    code.is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
}

fn is_connection_lost(error: &sqlx::Error) -> bool {
    use sqlx::Error::{Io, Protocol, Tls, WorkerCrashed};
    matches!(error, Io(_) | Tls(_) | Protocol(_) | WorkerCrashed)
}

/// Whether a statement undid itself because something was not as it had been read any more (`herald_expect`), or lost a race for locks.
pub fn is_overtaken(error: &sqlx::Error) -> bool {
    sqlstate_is_of(error, &["40"])
}

/// Whether somebody had a lock for longer than the statement would wait for it.
pub fn is_locked(error: &sqlx::Error) -> bool {
    sqlstate_is_of(error, &[LOCK_NOT_HAD])
}

/// Whether a statement that is a transaction by itself may have been committed although it failed: its answer never came, or the session was
/// ended, which can happen after the commit.
pub fn is_in_doubt(error: &sqlx::Error) -> bool {
    is_connection_lost(error) || sqlstate_is_of(error, &["08", "57P"])
}

/// Whether it is a statement that failed, and not its session: a lock that was not to be had, a bound on time, a lost race, a disk that is full, a page
/// that cannot be read.
pub fn is_of_the_statement(error: &sqlx::Error) -> bool {
    sqlstate_is_of(error, &["22", "23", "40", "55P03", "53100", "57014", "58030", "P0", "XX001", "XX002"])
}

/// The name of the constraint that refused a row, if that is what went wrong.
pub(crate) fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|database| database.constraint())
}

/// A stored word that the code does not know: the schema's CHECKs and the code have drifted apart.
pub(crate) fn unknown_word(column: &str, word: &str) -> Error {
    Error::internal(format!("the database holds an unknown {column}: {word}"))
}
