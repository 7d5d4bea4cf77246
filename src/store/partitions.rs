//! The daily partitions of `events` and `attempts`.

use sqlx::PgConnection;

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
