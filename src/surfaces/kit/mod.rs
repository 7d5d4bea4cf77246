//! The mechanics that every HTTP surface needs and that know none of their dialects: who asks, what the body holds, which request this is,
//! and how trouble reaches a surface's own error shape.

pub mod access_log;
pub mod authorize;
pub mod body;
pub mod conversation;
pub mod cursor;
pub mod fields;
pub mod guard;
pub mod path;
pub mod presented_key;
pub mod problem;
pub mod refusal;
pub mod routes;
#[cfg(test)]
pub mod tests;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::domain::egress::EgressPolicy;
use crate::domain::key_ring::KeyRing;
use crate::domain::retry::RetryPolicy;
use crate::hub::Hub;

/// What handlers stand on. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub hub: Hub,
    pub settings: Arc<ApiSettings>,
}

impl Api {
    /// How long a request may take. One that waits for somebody else's server may for as long as an attempt may take besides.
    pub fn request_timeout(&self, waits: bool) -> Duration {
        let own = self.settings.request_timeout;
        if waits { own + self.hub.test_patience() } else { own }
    }
}

pub struct ApiSettings {
    pub egress: Arc<EgressPolicy>,
    /// Where partners reach this server, for links that it hands out.
    pub public_url: Url,
    pub body_bytes_max: usize,
    /// How long a whole request may take, its body included.
    pub request_timeout: Duration,
    /// Authenticates cursors.
    pub keys: KeyRing,
    /// What a subscription without a policy of its own gets.
    pub default_policy: DefaultPolicy,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
}

/// The delivery policy that the operator sets for everybody.
#[derive(Debug, Clone)]
pub struct DefaultPolicy {
    pub retry: RetryPolicy,
    /// Of one whole attempt.
    pub timeout: Duration,
    /// Posts a second that any callback may have, if there is a bound.
    pub rate_per_s: Option<u32>,
}

impl Default for DefaultPolicy {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), timeout: Duration::from_secs(15), rate_per_s: None }
    }
}
