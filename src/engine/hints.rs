//! Tells the other nodes that something is due which nobody has leased, and hears it from them.
//!
//! A hint and no more: what it speaks of is committed already, every node looks for what is due at least once a second, and a hint that is
//! lost, to a broken connection or to a pooler that does not pass LISTEN on, delays by that second at most. Whatever was said while one hint
//! is on its way is said by the next, so a burst of commits costs a few. NOTIFY takes a lock at commit that all of the database shares: that
//! is why hints go out after the commits that they speak of, and why nothing is said of deliveries that are born leased.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};

use super::stopped;
use crate::domain::Error;
use crate::domain::id::NodeId;
use crate::hub::handoff::Bells;
use crate::store::nodes;
use crate::store::sessions::in_time;

/// Between tries at listening.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A connection on which nothing was heard for so long is made anew: it may be one of those that end without a word.
const SILENT_MAX: Duration = Duration::from_secs(60);

pub async fn run(pool: PgPool, node: NodeId, bells: Bells, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = stopped(&mut stop) => {}
        () = hear(&pool, node, &bells) => {}
        () = tell(&pool, node, &bells.tell) => {}
    }
}

async fn hear(pool: &PgPool, node: NodeId, bells: &Bells) {
    loop {
        match listen(pool, node, bells).await {
            Ok(()) => tracing::debug!("nothing was heard from other nodes for a while; listening anew"),
            Err(error) => {
                tracing::debug!(error = %error.chain(), "this node cannot hear others now; trying again");
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        }
        // Something may have been said meanwhile.
        bells.ring_here();
    }
}

/// Listens until there has been silence for long, or until it is no longer possible.
async fn listen(pool: &PgPool, node: NodeId, bells: &Bells) -> Result<(), Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(nodes::HINTS).await?;
    while let Ok(heard) = tokio::time::timeout(SILENT_MAX, listener.try_recv()).await {
        match heard? {
            Some(hint) if hint.payload() == node.to_string() => {}
            // None is a connection that was lost; the next call makes it anew.
            Some(_) | None => bells.ring_here(),
        }
    }
    Ok(())
}

async fn tell(pool: &PgPool, node: NodeId, bell: &Notify) {
    loop {
        bell.notified().await;
        let told = in_time(async { nodes::hint(&mut *pool.acquire().await?, node).await });
        if let Err(error) = told.await {
            tracing::debug!(error = %error.chain(), "other nodes could not be told; they will look");
        }
    }
}
