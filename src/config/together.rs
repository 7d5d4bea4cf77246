//! What settings, each of which is right, must hold together.

use super::read::{Reader, present};
use super::{Config, Mode, RawConfig};
use crate::domain::key_ring::KeyRingError;

/// Development is open to whoever can connect, so only this machine may connect.
pub(super) fn check_listening(config: &Config, r: &mut Reader) {
    let (api, operator) = (config.listen, config.operator_listen);
    if config.mode == Mode::Development {
        for (setting, address) in [("HERALD_LISTEN", api), ("HERALD_OPERATOR_LISTEN", operator)] {
            if !address.ip().is_loopback() {
                let wrong = format!("is {address}, but development listens on loopback only");
                let instead = format!("127.0.0.1:{}, or HERALD_MODE=production", address.port());
                r.problem(setting, wrong, instead);
            }
        }
    }
    let overlap = api.ip() == operator.ip() || api.ip().is_unspecified() || operator.ip().is_unspecified();
    if overlap && api.port() == operator.port() && api.port() != 0 {
        let wrong = format!("is {operator}, which overlaps with HERALD_LISTEN, {api}");
        r.problem("HERALD_OPERATOR_LISTEN", wrong, "another port");
    }
}

/// What development makes up for itself has to be said outside it, and what opens everything there does not exist.
pub(super) fn check_production(config: &Config, raw: &RawConfig, r: &mut Reader) {
    if config.mode == Mode::Development {
        return;
    }
    if present(raw.public_url.as_deref()).is_none() {
        let instead = "the URL under which partners reach the API, such as https://herald.example.com";
        r.problem("HERALD_PUBLIC_URL", "is required outside development", instead);
    }
    if present(raw.secret_keys.as_deref()).is_none() {
        r.problem("HERALD_SECRET_KEYS", "is required outside development", KeyRingError::HINT);
    }
    if config.dev_api_key.is_some() {
        let wrong = "is set, but a key with every scope exists in development only";
        r.problem("HERALD_DEV_API_KEY", wrong, "leave it out and make keys with `herald keys create`");
    }
}

pub(super) fn check_limits(config: &Config, r: &mut Reader) {
    let (lease_ms, timeout_ms) = (config.lease_ms, config.delivery_timeout_ms);
    if lease_ms < 2 * timeout_ms {
        r.problem(
            "HERALD_LEASE_MS",
            format!("is {lease_ms}, less than twice HERALD_DELIVERY_TIMEOUT_MS, which is {timeout_ms}"),
            format!("at least {}, or a shorter HERALD_DELIVERY_TIMEOUT_MS", 2 * timeout_ms),
        );
    }
    let (callback, all) = (config.callback_in_flight_max, config.in_flight_max);
    if callback > all {
        r.problem(
            "HERALD_CALLBACK_IN_FLIGHT_MAX",
            format!("is {callback}, more than HERALD_IN_FLIGHT_MAX, which is {all}"),
            format!("at most {all}, or a greater HERALD_IN_FLIGHT_MAX"),
        );
    }
}
