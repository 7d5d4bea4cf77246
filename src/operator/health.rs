//! What the database says about our health, beside what the workers do; asked with little patience, because whoever watches has none.

use std::time::Duration;

use serde::Serialize;

use crate::domain::Error;
use crate::hub::Hub;
use crate::store;
use crate::telemetry::Health;
use crate::telemetry::metrics::QueueDepth;

const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Counting a long queue takes its time, and a scrape may wait for it.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Checks by name, as they are shown.
#[derive(Debug, Serialize)]
pub struct Report {
    status: Status,
    checks: Vec<Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Failing,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Report {
    pub fn is_ok(&self) -> bool {
        self.status == Status::Ok
    }

    fn of(checks: Vec<Check>) -> Self {
        let ok = checks.iter().all(|check| check.status == Status::Ok);
        Self { status: if ok { Status::Ok } else { Status::Failing }, checks }
    }
}

impl Check {
    fn new(name: &'static str, trouble: Option<String>) -> Self {
        let status = if trouble.is_none() { Status::Ok } else { Status::Failing };
        Self { name, status, detail: trouble }
    }
}

/// Everything that has to be well for this process to want traffic.
pub async fn report(hub: &Hub, health: &Health) -> Report {
    let mut checks = vec![Check::new("database", database_trouble(hub).await)];
    checks.extend(health.checks().into_iter().map(|check| Check::new(check.name, check.trouble)));
    Report::of(checks)
}

/// What is wrong goes into the log; the answer needs no key and says only that something is.
async fn database_trouble(hub: &Hub) -> Option<String> {
    let asked = async { store::now(&mut *hub.connection().await?).await };
    match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = %error.chain(), "the database does not answer the readiness check");
            Some("does not answer".to_owned())
        }
        Err(_elapsed) => Some(format!("did not answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// How much waits in the database, unless it does not say so in time.
pub async fn queue_depth(hub: &Hub) -> Option<QueueDepth> {
    let asked = async {
        let mut connection = hub.connection().await?;
        let (pending, held, oldest_due_age_s) = store::queue::depth(&mut connection).await?;
        Ok::<_, Error>(QueueDepth { pending, held, oldest_due_age_s })
    };
    tokio::time::timeout(DEPTH_TIMEOUT, asked).await.ok()?.ok()
}
