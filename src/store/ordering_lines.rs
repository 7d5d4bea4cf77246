//! The lines that deliveries with an ordering key stand in. Publishing gets in line and a finish leaves it, within their own statements; here
//! is what looks after lines that both of them left alone.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::SubscriptionId;

/// The deliveries of one subscription with one ordering key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub subscription: SubscriptionId,
    /// The key's digest.
    pub line: i64,
}

/// A line in which nobody is first, as it was seen.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Stalled {
    subscription_id: Uuid,
    line: i64,
    last_place: i64,
    unfinished: i32,
}

impl Stalled {
    pub fn line(&self) -> Line {
        Line { subscription: SubscriptionId(self.subscription_id), line: self.line }
    }
}

/// Up to `limit` lines in which nobody is first.
pub async fn list_stalled(db: &mut PgConnection, limit: i64) -> Result<Vec<Stalled>, Error> {
    let rows = sqlx::query_as(include_str!("queries/ordering_lines/list_stalled.sql"))
        .bind(limit)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Makes the first of each of these lines due, unless it is out already; returns how many.
pub async fn let_out(db: &mut PgConnection, lines: &[Line]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(include_str!("queries/ordering_lines/let_out.sql"))
        .bind(lines.iter().map(|line| line.subscription.0).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.line).collect::<Vec<_>>())
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

/// Forgets those of these lines that nobody stands in; returns how many.
pub async fn forget_empty(db: &mut PgConnection, seen: &[Stalled]) -> Result<u64, Error> {
    let done = sqlx::query(include_str!("queries/ordering_lines/forget_empty.sql"))
        .bind(seen.iter().map(|one| one.subscription_id).collect::<Vec<_>>())
        .bind(seen.iter().map(|one| one.line).collect::<Vec<_>>())
        .bind(seen.iter().map(|one| one.last_place).collect::<Vec<_>>())
        .bind(seen.iter().map(|one| one.unfinished).collect::<Vec<_>>())
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}
