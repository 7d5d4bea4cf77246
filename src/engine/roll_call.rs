//! Finds nodes that are gone and passes on what they had leased, seconds after their end and long before their leases'.
//!
//! Each node holds an advisory lock of its name on a connection of its own, beside the pool, and lists itself once it has it.
//! PostgreSQL lets go of the lock when the connection ends, so a listed node whose lock nobody holds is gone, or is about to
//! connect again: after a restart of the database nobody holds any lock, and everybody lives. That is what [`GRACE`] is for. A
//! node looks after its lock every [`CALL_EVERY`] and gives each step of that no more than [`STEP_WITHIN`], so a living node is
//! back within about three seconds of the database's return. It is called gone only if every look for five seconds found its
//! lock unheld. Time during which the database is away does not count: looks further apart than [`LOOK_GAP`] begin anew.
//!
//! Why a mistake does no harm beyond a duplicate: a lease that is ended here looks exactly like one that ran out. The claim that
//! follows raises the epoch, so the first holder's result comes late or not at all. A node that was struck off by mistake is
//! judged again only once it has its lock and lists itself, so one loss of its connection costs its deliveries one counted crash
//! at most.
//!
//! When this finds nothing although a node is gone, leases pass by time as they always did: a machine that lost its power without
//! a word (until TCP keep-alive notices), a node that never got its lock, one that died while it was stopping. A process that
//! hangs keeps its lock; that is what leases are for.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::{Notify, watch};

use super::stopped;
use crate::domain::Error;
use crate::domain::id::NodeId;
use crate::store::sessions::within;
use crate::store::{self, bundles, nodes, queue};
use crate::telemetry::Pulse;

const CALL_EVERY: Duration = Duration::from_secs(1);
/// How long connecting or one look may take before the connection counts as broken.
const STEP_WITHIN: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(5);
/// Looks further apart than this did not see what was in between.
const LOOK_GAP: Duration = Duration::from_secs(3);
/// Leases a statement ends at most.
const CHUNK: u64 = 1_000;
/// And gives rows, unless a single bundle has more.
const MEMBERS: i64 = 1_000;

/// What a node says of itself while it is there.
#[derive(Clone)]
pub struct Own {
    pub node: NodeId,
    /// Fingerprints of its key ring.
    pub ring: Vec<String>,
}

pub async fn run(pool: PgPool, own: Own, due: Arc<Notify>, pulse: Pulse, mut stop: watch::Receiver<bool>) {
    let mut present = None;
    loop {
        present = match attend(&pool, &own, present.take()).await {
            Ok(mut connection) => match call(&mut connection, &due).await {
                Ok(()) => {
                    pulse.well();
                    Some(connection)
                }
                Err(error) => {
                    pulse.failed(&error, "this node cannot look who else is there");
                    None
                }
            },
            Err(error) => {
                pulse.failed(&error, "this node cannot show that it is there");
                None
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = tokio::time::sleep(CALL_EVERY) => {}
        }
    }
    // What is still under way is released by the stop itself, or passes by time.
    if let Some(mut connection) = present {
        let struck = within(STEP_WITHIN, nodes::strike(&mut connection, own.node)).await;
        if let Err(error) = struck {
            tracing::debug!(error = %error.chain(), "this node could not be taken off the list");
        }
        let _closed_anyway = connection.close().await;
    }
}

/// Sees to it that this node's lock is held, on the connection that held it or on a new one.
async fn attend(pool: &PgPool, own: &Own, present: Option<PgConnection>) -> Result<PgConnection, Error> {
    if let Some(mut connection) = present
        && let Ok(true) = within(STEP_WITHIN, nodes::is_joined(&mut connection, own.node, &own.ring)).await
    {
        return Ok(connection);
    }
    let options = pool.connect_options();
    let mut connection = within(STEP_WITHIN, PgConnection::connect_with(&options)).await?;
    within(STEP_WITHIN, async {
        // A machine that vanishes must not keep its lock for the hours that TCP would wait.
        let settings = "set statement_timeout = '5s'; set lock_timeout = '1s'; set timezone = 'UTC';
             set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3";
        sqlx::raw_sql(settings).execute(&mut connection).await?;
        nodes::join(&mut connection, own.node, &own.ring).await
    })
    .await?;
    Ok(connection)
}

/// Looks who is there, and passes on the leases of those who are gone.
async fn call(db: &mut PgConnection, due: &Notify) -> Result<(), Error> {
    let ms = |time: Duration| i64::try_from(time.as_millis()).map_err(Error::internal);
    for gone in within(STEP_WITHIN, nodes::call_roll(db, ms(GRACE)?, ms(LOOK_GAP)?)).await? {
        // No further than now: should the node live after all, it has new ones all the time.
        let now = within(STEP_WITHIN, store::now(db)).await?;
        while within(STEP_WITHIN, bundles::take_apart_of(db, gone, now, MEMBERS)).await? > 0 {}
        let mut leases = 0;
        loop {
            let limit = i64::try_from(CHUNK).map_err(Error::internal)?;
            let ended = within(STEP_WITHIN, queue::end_leases(db, gone, limit)).await?;
            leases += ended;
            if ended < CHUNK {
                break;
            }
        }
        within(STEP_WITHIN, nodes::strike(db, gone)).await?;
        tracing::warn!(node = %gone, leases, "a node is gone; its leases are passed on");
        due.notify_one();
    }
    Ok(())
}
