//! The daily partitions of `events` and `attempts`: made ahead of their day, removed when the last day that may need them is over.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::domain::Error;

/// How many days ahead partitions are made: long enough that a fortnight without a janitor loses nothing.
const DAYS_AHEAD: i32 = 14;

/// Makes the partitions from yesterday (a node whose clock is behind makes ids of yesterday) to a fortnight ahead, by database time and,
/// should they differ, by `herald_now()`.
pub async fn make_ahead(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select herald_make_day(day) from (
             select distinct (moment at time zone 'UTC')::date + days as day
             from (select herald_now() union select statement_timestamp()) as moments (moment), generate_series(-1, $1) as days
             order by day) as due",
    )
    .bind(DAYS_AHEAD)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether an insert failed because its day's partition is missing (23514 without a constraint's name: no partition found for the row).
pub fn is_missing(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|database| {
        database.code().as_deref() == Some("23514") && database.constraint().is_none()
    })
}

/// As [`is_missing`], of an error that a store function has made its own.
pub fn is_missing_behind(error: &Error) -> bool {
    matches!(error, Error::Internal(cause) if cause.downcast_ref::<sqlx::Error>().is_some_and(is_missing))
}

/// How far the removal of a daily table has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    NotBegun,
    /// Marked as leaving, and no longer read; somebody went away before it had left.
    HalfDetached,
    /// A table by itself.
    Detached,
}

/// A daily table whose day has been over for longer than the retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    pub name: String,
    parent: String,
    removal: Removal,
}

impl Over {
    /// Whether it holds what unfinished deliveries send.
    pub fn holds_events(&self) -> bool {
        self.parent == "events"
    }
}

/// Lets one session at a time remove tables: true for the one. It keeps the right until its connection is closed, which is what the caller
/// does in the end. Waits for locks are short from now on: an old report that still reads must not make inserts queue up behind us.
pub async fn begin_removal(db: &mut PgConnection) -> Result<bool, Error> {
    let ours = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('herald_retention', 0))")
        .fetch_one(&mut *db)
        .await?;
    sqlx::raw_sql("set lock_timeout = '2s'").execute(db).await?;
    Ok(ours)
}

/// Notes the day by which is looked now, and says how many days that is behind the clock. One that is more than two days from the last look (a
/// weekend without a process is nothing) is followed a day an hour, however many processes there are and however often each looks. For
/// whoever [may remove](begin_removal).
pub async fn days_behind(db: &mut PgConnection) -> Result<i32, Error> {
    let behind = sqlx::query_scalar(include_str!("queries/partitions/days_behind.sql")).fetch_one(db).await?;
    Ok(behind)
}

/// Daily tables of days that have been over for longer than `retention_days`; those that were left half removed come first.
pub async fn list_over(db: &mut PgConnection, retention_days: i32) -> Result<Vec<Over>, Error> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as(include_str!("queries/partitions/list_over.sql"))
            .bind(retention_days)
            .fetch_all(db)
            .await?;
    let over = |(name, parent, state): (String, String, String)| Over {
        name,
        parent,
        removal: match state.as_str() {
            "attached" => Removal::NotBegun,
            "detaching" => Removal::HalfDetached,
            _ => Removal::Detached,
        },
    };
    Ok(rows.into_iter().map(over).collect())
}

/// Removes a daily table, from wherever an earlier try left it. Must not be called within a transaction: a detach that does not stop
/// inserts into the other days takes two of its own. One that meets a long reader gives up with `Unavailable`, and the next try goes on.
pub async fn remove(db: &mut PgConnection, over: &Over) -> Result<(), Error> {
    let Over { name, parent, removal } = over;
    let detach = match removal {
        Removal::NotBegun => Some("concurrently"),
        Removal::HalfDetached => Some("finalize"),
        Removal::Detached => None,
    };
    // Names come from the catalogue and are letters, digits and an underscore.
    if let Some(how) = detach {
        let sql = format!("alter table {parent} detach partition {name} {how}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *db).await?;
    }
    sqlx::raw_sql(AssertSqlSafe(format!("drop table {name}"))).execute(db).await?;
    Ok(())
}
