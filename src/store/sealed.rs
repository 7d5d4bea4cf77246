//! Every column that the key ring has sealed, for who has to find what an old key sealed. What is sealed for a short while only (answers by
//! request id, which are forgotten after a day) is looked at and left to its end.
//!
//! Which columns there are is compared with the schema by a test: a new one is either in here or said to hold nothing sealed.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::domain::Error;

/// A sealed column, and how its rows are told apart. All of these are parts of statements, never anybody's input.
#[derive(Debug, Clone, Copy)]
pub struct SealedColumn {
    pub table: &'static str,
    pub column: &'static str,
    /// Two columns, by an index on which the rows can be walked.
    key: (&'static str, &'static str),
    /// What a value is bound to, as `hub` says it.
    identity: &'static str,
}

/// In the order in which they are to be walked: a signing key may become a superseded one meanwhile, never the other way round.
pub const SEALED_COLUMNS: [SealedColumn; 4] = [
    SealedColumn {
        table: "callbacks",
        column: "credentials",
        key: ("id", "id"),
        identity: "'callbacks/' || id || '/credentials'",
    },
    SealedColumn {
        table: "callbacks",
        column: "signing_key",
        key: ("id", "id"),
        identity: "'callbacks/' || id || '/signing_key'",
    },
    SealedColumn {
        table: "superseded_signing_keys",
        column: "signing_key",
        key: ("callback_id", "id"),
        identity: "'callbacks/' || callback_id || '/signing_key'",
    },
    SealedColumn {
        table: "redirect_session_contents",
        column: "token",
        key: ("partner_id", "id"),
        identity: "'redirect_sessions/' || partner_id || '/' || id || '/token'",
    },
];

/// Where a walk over a column stands.
pub type Place = (Uuid, Uuid);

/// A value as it was read, and where.
#[derive(sqlx::FromRow)]
pub struct SealedValue {
    first: Uuid,
    second: Uuid,
    pub identity: String,
    pub sealed: Vec<u8>,
}

impl SealedValue {
    pub fn place(&self) -> Place {
        (self.first, self.second)
    }
}

/// The headers of what is sealed in a column by other keys than that of `header`, and how many values begin with each.
pub async fn stale_headers(
    db: &mut PgConnection,
    of: SealedColumn,
    header: &[u8],
) -> Result<Vec<(Vec<u8>, i64)>, Error> {
    let SealedColumn { table, column, .. } = of;
    // The second byte is the length of the key's id; what is too short to have one shows as it is.
    let rows = sqlx::query_as(AssertSqlSafe(format!(
        "select case when length({column}) > 1 then substring({column} from 1 for 2 + get_byte({column}, 1)) else {column} end, count(*)
         from {table} where {column} is not null and substring({column} from 1 for length($1)) <> $1 group by 1 order by 1"
    )))
    .bind(header)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// The next values after a place that another key than that of `header` has sealed.
pub async fn list_stale(
    db: &mut PgConnection,
    of: SealedColumn,
    header: &[u8],
    after: Option<Place>,
    limit: i64,
) -> Result<Vec<SealedValue>, Error> {
    let SealedColumn { table, column, key: (first, second), identity } = of;
    let after = after.unwrap_or((Uuid::nil(), Uuid::nil()));
    let rows = sqlx::query_as(AssertSqlSafe(format!(
        "select {first} as first, {second} as second, {identity} as identity, {column} as sealed from {table}
         where ({first}, {second}) > ($2, $3) and {column} is not null
           and substring({column} from 1 for length($1)) <> $1
         order by {first}, {second} limit $4"
    )))
    .bind(header)
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// A few values of a column, the last by their keys. There may be none among very many rows, and only some of those are looked at.
pub async fn list_some(
    db: &mut PgConnection,
    of: SealedColumn,
    limit: i64,
) -> Result<Vec<SealedValue>, Error> {
    let SealedColumn { table, column, key: (first, second), identity } = of;
    let rows = sqlx::query_as(AssertSqlSafe(format!(
        "select {first} as first, {second} as second, {identity} as identity, {column} as sealed
         from (select * from {table} order by {first} desc, {second} desc limit 1000) last
         where {column} is not null limit $1"
    )))
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Puts new values in the place of those that were read; a row that has changed since keeps what it has. Returns how many were replaced.
/// Rows are locked in the order of their keys, so that this waits for others and nobody for each other.
pub async fn replace(
    db: &mut PgConnection,
    of: SealedColumn,
    values: &[(SealedValue, Vec<u8>)],
) -> Result<u64, Error> {
    let SealedColumn { table, column, key: (first, second), .. } = of;
    let done = sqlx::query(AssertSqlSafe(format!(
        "with fresh as (
             select * from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[]) as fresh (first, second, was, becomes)
         ), locked as materialized (
             select fresh.* from {table} t join fresh on t.{first} = fresh.first and t.{second} = fresh.second
             where t.{column} = fresh.was order by t.{first}, t.{second} for no key update of t
         )
         update {table} t set {column} = locked.becomes from locked
         where t.{first} = locked.first and t.{second} = locked.second and t.{column} = locked.was"
    )))
    .bind(values.iter().map(|(old, _)| old.first).collect::<Vec<_>>())
    .bind(values.iter().map(|(old, _)| old.second).collect::<Vec<_>>())
    .bind(values.iter().map(|(old, _)| old.sealed.as_slice()).collect::<Vec<_>>())
    .bind(values.iter().map(|(_, new)| new.as_slice()).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// How many remembered answers another key than that of `header` has sealed, and when the last of them is forgotten.
pub async fn stale_answers(
    db: &mut PgConnection,
    header: &[u8],
) -> Result<(i64, Option<DateTime<Utc>>), Error> {
    let row = sqlx::query_as(
        "select count(*), max(created_at) + interval '24 hours' from idempotency
         where created_at > herald_now() - interval '24 hours'
           and substring(fingerprint from 1 for length($1)) <> $1",
    )
    .bind(header)
    .fetch_one(db)
    .await?;
    Ok(row)
}
