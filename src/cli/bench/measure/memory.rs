//! What the server holds in memory: when it has just started, for each callback to which it keeps a connection, and under load. Read from
//! outside, of a server of the bench's own; PostgreSQL's memory is not looked at.

use std::time::Duration;

use super::{Job, Measure};
use crate::cli::bench::report::Figure;
use crate::cli::bench::usage::resident_bytes;

const EVERY: Duration = Duration::from_millis(50);
/// A server is idle when what it began is over, and nothing says when that is. Far shorter than its idle connections live.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// A server that has nothing to do.
pub(super) struct Idle {
    /// Just started: it knows of all callbacks from its database only.
    started_bytes: u64,
    /// After one event to each callback.
    connected_bytes: u64,
    /// Connections that were open then.
    connections: u64,
    callbacks: u16,
}

impl Idle {
    pub fn figures(&self) -> Vec<Figure> {
        let more = self.connected_bytes as f64 - self.started_bytes as f64;
        vec![
            Figure::new("memory_idle", "MB", self.started_bytes as f64 / 1e6),
            Figure::new("idle_bytes_per_callback", "bytes", more / f64::from(self.callbacks)),
            Figure::new("idle_connections", "", self.connections as f64),
        ]
    }
}

pub(super) fn figure(name: &'static str, bytes: Option<u64>) -> Option<Figure> {
    bytes.map(|bytes| Figure::new(name, "MB", bytes as f64 / 1e6))
}

impl Measure<'_> {
    /// Leaves a server behind that has just started again, so that what follows does not depend on this.
    pub(super) async fn idle(&mut self) -> Result<Option<Idle>, String> {
        let Some(started_bytes) = self.restarted_bytes().await? else { return Ok(None) };
        let callbacks = self.scenario.callbacks;
        let ledger = self.open_sessions(usize::from(callbacks)).await?;
        self.drive(Job::Cancel, &ledger).await?;
        self.settle(&ledger).await?;
        self.aside = self.aside + ledger.tally();
        let Some(connected_bytes) = self.idle_bytes("a connection to each callback").await else {
            return Ok(None);
        };
        let connections = self.stage.receivers.connections_open();
        self.restarted_bytes().await?;
        Ok(Some(Idle { started_bytes, connected_bytes, connections, callbacks }))
    }

    async fn restarted_bytes(&mut self) -> Result<Option<u64>, String> {
        if !self.stage.server.is_ours() {
            return Ok(None);
        }
        self.say("starting the server again");
        self.stage.server.halt().await?;
        self.stage.server.resume().await?;
        Ok(self.idle_bytes("an idle server").await)
    }

    async fn idle_bytes(&self, what: &str) -> Option<u64> {
        self.progress.wait(IDLE_AFTER, &self.title, what).await;
        self.stage.server.pid().and_then(resident_bytes)
    }
}

/// Runs the work, and meanwhile notes the most memory that the process takes.
pub(super) async fn with_memory<T>(pid: Option<u32>, work: impl Future<Output = T>) -> (T, Option<u64>) {
    tokio::pin!(work);
    let (mut most, mut every) = (None, tokio::time::interval(EVERY));
    loop {
        tokio::select! {
            done = &mut work => return (done, most),
            _ = every.tick() => most = most.max(pid.and_then(resident_bytes)),
        }
    }
}
