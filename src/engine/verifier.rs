//! Tries callbacks out for their owners: posts nothing at all, signed, by the way that every delivery takes, and tells whether a 2xx came
//! back. Nothing is kept of it, and nothing of a callback's breaker or lane is asked: its owner wants to know now.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::outbound::Outbound;
use super::post::send;
use super::targets::Targets;
use super::{Dialects, stopped};
use crate::domain::attempt::Outcome;
use crate::hub::verifications::Verification;

pub struct Verifier {
    targets: Targets,
    outbound: Outbound,
    dialects: Arc<Dialects>,
}

impl Verifier {
    pub(super) fn new(targets: Targets, outbound: Outbound, dialects: Arc<Dialects>) -> Self {
        Self { targets, outbound, dialects }
    }

    /// There are only so many at once as there are places. Whoever is still waiting when it stops is told nothing.
    pub(super) async fn run(self, mut wanted: mpsc::Receiver<Verification>, mut stop: watch::Receiver<bool>) {
        let verifier = Arc::new(self);
        let mut tries = JoinSet::new();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                Some(_) = tries.join_next() => {}
                Some(next) = wanted.recv() => {
                    let verifier = verifier.clone();
                    tries.spawn(async move { verifier.verify(next).await });
                }
            }
        }
    }

    async fn verify(&self, wanted: Verification) {
        match self.targets.read_callback(wanted.callback).await {
            Ok(Some(target)) => {
                let Some(dialect) = self.dialects.get(&target.surface) else { return };
                let posted = send(&self.outbound, dialect, &target, (Uuid::now_v7(), 0), &[]).await;
                let taken = posted.outcome == Outcome::Delivered;
                if !taken {
                    let (outcome, detail) = (posted.outcome, posted.detail);
                    tracing::info!(callback = %wanted.callback, ?outcome, status = posted.status, detail, "a callback did not verify");
                }
                drop(wanted.place);
                let _nobody_waits = wanted.reply.send(taken);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %error.chain(), "a callback cannot be read now"),
        }
    }
}
