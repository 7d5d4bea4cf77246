//! The nodes that are at work, and the lock by which each shows that it lives.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::NodeId;

/// The channel on which nodes tell each other that something is due.
pub const HINTS: &str = "herald_due";

/// Tells the other nodes that something is due; the payload says who told it.
pub async fn hint(db: &mut PgConnection, node: NodeId) -> Result<(), Error> {
    sqlx::query("select pg_notify($1, $2)").bind(HINTS).bind(node.to_string()).execute(db).await?;
    Ok(())
}

/// Takes the lock of a node's name for the session of this connection, and only then lists the node. Errors: `Unavailable` when another
/// session still has the lock: the node's own earlier one, which PostgreSQL has not yet noticed to be gone.
pub async fn join(db: &mut PgConnection, node: NodeId, ring: &[String]) -> Result<(), Error> {
    let locked: bool = sqlx::query_scalar("select pg_try_advisory_lock(herald_node_lock($1))")
        .bind(node.0)
        .fetch_one(&mut *db)
        .await?;
    if !locked {
        return Err(Error::unavailable(
            "the lock of this node's name is still held by its earlier connection",
        ));
    }
    sqlx::query(
        "insert into nodes (id, ring) values ($1, $2)
         on conflict (id) do update set absent_since = null, joined_at = herald_now(), ring = excluded.ring",
    )
    .bind(node.0)
    .bind(ring)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether this very session holds the lock: behind a pooler that moves clients between sessions it soon would not. A node that holds it and was
/// struck off by mistake is listed again.
pub async fn is_joined(db: &mut PgConnection, node: NodeId, ring: &[String]) -> Result<bool, Error> {
    let held = sqlx::query_scalar(
        "with own as materialized (
             select exists (select from pg_locks
                 where locktype = 'advisory' and objsubid = 1 and granted and pid = pg_backend_pid()
                   and ((classid::bigint << 32) | objid::bigint) = herald_node_lock($1)) as held),
         listed as (insert into nodes (id, ring) select $1, $2 from own where held on conflict (id) do nothing)
         select held from own",
    )
    .bind(node.0)
    .bind(ring)
    .fetch_one(db)
    .await?;
    Ok(held)
}

/// A node at work and what it said of its key ring.
#[derive(sqlx::FromRow)]
pub struct Present {
    pub id: Uuid,
    /// Fingerprints, the key that encrypts first; `None` from a version that did not tell.
    pub ring: Option<Vec<String>>,
}

/// The nodes whose lock somebody holds at this moment.
pub async fn present(db: &mut PgConnection) -> Result<Vec<Present>, Error> {
    let nodes = sqlx::query_as("select id, ring from nodes_at_work order by id").fetch_all(db).await?;
    Ok(nodes)
}

/// Takes a node off the list: nobody looks for it any more.
pub async fn strike(db: &mut PgConnection, node: NodeId) -> Result<(), Error> {
    sqlx::query("delete from nodes where id = $1").bind(node.0).execute(db).await?;
    Ok(())
}

/// The nodes whose lock nobody has held for at least `grace_ms`, as looks found that are no more than `look_gap_ms` apart.
pub async fn call_roll(db: &mut PgConnection, grace_ms: i64, look_gap_ms: i64) -> Result<Vec<NodeId>, Error> {
    let gone: Vec<Uuid> = sqlx::query_scalar(include_str!("queries/nodes/call_roll.sql"))
        .bind(grace_ms as f64)
        .bind(look_gap_ms as f64)
        .fetch_all(db)
        .await?;
    Ok(gone.into_iter().map(NodeId).collect())
}
