//! The use cases that take more than one step, and the only place that begins transactions for requests. Reads no request and shapes no answer: a
//! surface hands in a checked command and a way to render the result, and gets an [`Answer`] back that is committed together with what it says.

pub mod admission;
pub mod changes;
pub mod deliveries;
pub mod handoff;
pub mod ingest;
mod known_keys;
mod known_partners;
pub mod notifications;
pub mod once;
mod open_sessions;
pub mod partners;
pub mod places;
pub mod probe;
pub mod publish;
mod rates;
pub mod replays;
pub mod ring_fit;
pub mod rotation;
pub mod sessions;
pub mod subscriptions;
pub mod tokens;
pub mod verifications;
pub mod webhooks;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres, Transaction};

use crate::domain::Error;
use crate::domain::key_ring::KeyRing;
use crate::telemetry::{Health, Metrics};

pub use handoff::{Handed, Handoff, SetAside};
pub use once::{Answer, Once};

/// What the use cases need to know that a request does not say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a redirect session stays active.
    pub session_ttl: Duration,
    /// The limits within which a partner may set the policy of a subscription.
    pub policy_limits: deliveries::PolicyLimits,
    /// Requests that a partner may send to this process in a second; `None` for as many as it likes.
    pub partner_rate_per_s: Option<u32>,
}

/// Answers in the making at once that are large.
const LARGE_ANSWERS_MAX: usize = 4;
/// Of one partner, so that it takes no more of the processors than one of them.
const LARGE_ANSWERS_OF_A_PARTNER_MAX: usize = 1;

/// The use cases, with what they stand on. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Parts>);

/// What every use case stands on.
pub struct Parts {
    pool: PgPool,
    keys: KeyRing,
    settings: Settings,
    handoff: Handoff,
    ingest: ingest::Ingest,
    requests: once::InFlight,
    known_keys: known_keys::KnownKeys,
    known_partners: known_partners::KnownPartners,
    open_sessions: open_sessions::OpenSessions,
    admission: admission::Admission,
    large_answers: places::Places,
}

impl Deref for Hub {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Hub {
    /// Starts the ingest writer, within a runtime; it ends when the last clone of the hub is gone.
    pub fn new(
        pool: PgPool,
        keys: KeyRing,
        settings: Settings,
        handoff: Handoff,
        lease: ingest::LeaseTerms,
        health: &Health,
        metrics: &Metrics,
    ) -> Self {
        let open_sessions = open_sessions::OpenSessions::default();
        let ingest = ingest::Ingest::start(
            &pool,
            keys.clone(),
            open_sessions.clone(),
            handoff.clone(),
            lease,
            health.worker("ingest"),
            metrics.clone(),
        );
        let admission = admission::Admission::new(settings.partner_rate_per_s);
        Self(Arc::new(Parts {
            pool,
            keys,
            settings,
            handoff,
            ingest,
            requests: once::InFlight::default(),
            known_keys: known_keys::KnownKeys::default(),
            known_partners: known_partners::KnownPartners::default(),
            open_sessions,
            admission,
            large_answers: places::Places::new(LARGE_ANSWERS_MAX, LARGE_ANSWERS_OF_A_PARTNER_MAX),
        }))
    }

    // What waits for a connection takes 2.5 kB, which every handler's future would otherwise hold and be moved with, needed or not: so it is boxed.

    /// A connection for a request that only reads. Errors: `Unavailable` when there is none to be had in time.
    pub async fn connection(&self) -> Result<PoolConnection<Postgres>, Error> {
        Ok(Box::pin(self.pool.acquire()).await?)
    }

    /// For a request that writes. Errors: as of a connection.
    async fn transaction(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(Box::pin(self.pool.begin()).await?)
    }

    /// For an answer that takes several reads: all of them see one moment.
    async fn snapshot(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(Box::pin(self.pool.begin_with("begin isolation level repeatable read, read only")).await?)
    }
}
