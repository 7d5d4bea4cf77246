//! What drainer and janitor do with the queue, one step of it.

use herald::store::queue::{self, Resumed};
use sqlx::PgConnection;

/// Brings back what was held for whoever is active.
pub async fn resume(db: &mut PgConnection, limit: i64) -> Resumed {
    let active = queue::held_of_active(db).await.unwrap();
    queue::resume(db, &active, limit).await.unwrap()
}

/// Cancels what is left for whoever is deleted, up to `limit` of each.
pub async fn cancel_deleted(db: &mut PgConnection, limit: i64) -> u64 {
    let mut cancelled = 0;
    for deleted in queue::unfinished_of_deleted(db).await.unwrap() {
        cancelled += queue::cancel_deleted(db, deleted, limit).await.unwrap();
    }
    cancelled
}
