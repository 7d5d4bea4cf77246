//! The checked configuration: what every part of the server may rely on without asking again.
//!
//! [`RawConfig`] is what flags and environment say; [`Config::check`] judges all of it and either gives a whole
//! [`Config`] or every problem at once. Development (no `DATABASE_URL`, unless `HERALD_MODE` says otherwise) is made to
//! start without any setting and listens on loopback only; outside it nothing insecure is a default. What the settings
//! are used for is not known here, and no file is opened but that of the authorities to trust.

mod authorities;
mod problem;
mod raw;
mod read;
#[cfg(test)]
mod tests;
mod together;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing_subscriber::EnvFilter;
use url::Url;

use crate::domain::egress::Nat64Prefix;
use crate::domain::egress_proxy::EgressProxy;
use crate::domain::key_ring::{KeyRing, KeyRingError};
use crate::domain::partner_key::PartnerKey;
use crate::domain::retry::RetryPolicy;
use crate::domain::secret::Secret;

pub use problem::{Problem, Problems};
pub use raw::RawConfig;
use read::{Reader, list, present, switch};

const OPERATOR_PORT: u16 = 8081;
const RETRY_DELAY_S_MAX: u64 = 7 * 86_400;
const RETRIES_MAX: usize = 50;
/// In a schedule that a subscription asks for.
const OWN_RETRIES_MAX: usize = 30;
/// What a partner may ask for at most where the operator sets no bound, and the highest bound that an operator can set.
pub const RATE_PER_S_MAX: u32 = 10_000;
/// SIGTERM ends the server within this, whatever is set.
const STOP_TIMEOUT_MS_MAX: u64 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Development,
    Production,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Every setting of the server, checked. Secrets are [`Secret`]s, so `Debug` shows none.
#[derive(Debug, Clone)]
pub struct Config {
    pub mode: Mode,
    pub listen: SocketAddr,
    pub operator_listen: SocketAddr,
    /// `http` or `https`, without query, fragment or user. Always there in production. `None`: where the API listens.
    pub public_url: Option<Url>,
    /// `None`: the private PostgreSQL.
    pub database_url: Option<Secret>,
    /// `None`: a place that the private PostgreSQL can be run from.
    pub data_dir: Option<PathBuf>,
    /// `None`: the usual places and `PATH` are searched.
    pub postgres_bin: Option<PathBuf>,
    /// Only in development. `None`: generated, and kept in the data folder.
    pub dev_api_key: Option<Secret>,
    /// Always there in production. `None`: generated, and kept in the data folder.
    pub secret_keys: Option<KeyRing>,
    /// Networks that callbacks may be in although they would be refused otherwise.
    pub egress_allow: Vec<IpNet>,
    /// `None`: what the mode's egress policy says.
    pub egress_ports: Option<Vec<u16>>,
    /// Whether callbacks may be plain http.
    pub egress_http: bool,
    pub nat64_prefix: Option<Nat64Prefix>,
    /// That callbacks' certificates may be signed by, beside the usual ones.
    pub egress_authorities: Vec<CertificateDer<'static>>,
    pub egress_proxy: Option<EgressProxy>,
    pub session_ttl_s: u64,
    pub request_timeout_ms: u64,
    pub body_bytes_max: usize,
    pub connections_max: usize,
    /// Requests of one partner; `None` for as many as it likes.
    pub partner_rate_per_s: Option<u32>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Total of one attempt; also the longest that a subscription may ask for.
    pub delivery_timeout_ms: u64,
    /// At least twice `delivery_timeout_ms`.
    pub lease_ms: u64,
    /// One delay per retry, before jitter.
    pub retry_delays_s: Vec<u64>,
    /// Of a schedule that a subscription asks for.
    pub retries_max: usize,
    pub retry_delay_max_s: u64,
    /// Of nothing but failures.
    pub disable_after_days: u64,
    pub in_flight_max: usize,
    /// At most `in_flight_max`.
    pub callback_in_flight_max: usize,
    /// Posts to one callback; `None` for as many as it takes. Also the most that a subscription may ask for.
    pub callback_rate_per_s: Option<u32>,
    /// Of a batch that is not full.
    pub batch_linger_ms: u64,
    pub stop_timeout_ms: u64,
    /// How long events and attempts are kept after their day.
    pub retention_days: i32,
    /// Unfinished deliveries beyond which nothing more is published.
    pub backlog_max: i64,
    /// Directives that [`EnvFilter`] parses.
    pub log: String,
    pub log_format: LogFormat,
}

impl Config {
    /// Judges all settings together.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn check(raw: &RawConfig) -> Result<Config, Problems> {
        let mut reader = Reader::default();
        let config = read(raw, &mut reader);
        together::check_listening(&config, &mut reader);
        together::check_production(&config, raw, &mut reader);
        together::check_limits(&config, &mut reader);
        if reader.problems.is_empty() { Ok(config) } else { Err(Problems(reader.problems)) }
    }
}

/// The operator listener's address, for those who need no other setting.
///
/// # Errors
/// What is wrong with the setting.
pub fn operator_listen(raw: Option<&str>) -> Result<SocketAddr, Problems> {
    let mut reader = Reader::default();
    let address = reader.listen("HERALD_OPERATOR_LISTEN", raw, OPERATOR_PORT);
    if reader.problems.is_empty() { Ok(address) } else { Err(Problems(reader.problems)) }
}

/// Each setting by itself.
fn read(raw: &RawConfig, r: &mut Reader) -> Config {
    let mode = mode(raw, r);
    let path = |raw: &Option<String>| present(raw.as_deref()).map(PathBuf::from);
    Config {
        mode,
        listen: r.listen("HERALD_LISTEN", raw.listen.as_deref(), 8080),
        operator_listen: r.listen("HERALD_OPERATOR_LISTEN", raw.operator_listen.as_deref(), OPERATOR_PORT),
        public_url: public_url(raw, r),
        database_url: database_url(raw, r),
        data_dir: path(&raw.data_dir),
        postgres_bin: path(&raw.postgres_bin),
        dev_api_key: dev_api_key(raw, r),
        secret_keys: secret_keys(raw, r),
        egress_allow: r.networks("HERALD_EGRESS_ALLOW", raw.egress_allow.as_deref()),
        egress_ports: egress_ports(raw, r),
        egress_http: r
            .value("HERALD_EGRESS_HTTP", raw.egress_http.as_deref(), "true or false", switch)
            .unwrap_or(mode == Mode::Development),
        nat64_prefix: r.value(
            "HERALD_NAT64_PREFIX",
            raw.nat64_prefix.as_deref(),
            "an IPv6 prefix of 96 bits, such as 64:ff9b::/96",
            |text| Nat64Prefix::parse(text).ok(),
        ),
        egress_authorities: authorities::authorities(raw.egress_ca_file.as_deref(), r),
        egress_proxy: egress_proxy(raw, r),
        session_ttl_s: r.number("HERALD_SESSION_TTL_S", raw.session_ttl_s.as_deref(), (1, 900, 604_800)),
        request_timeout_ms: r.number(
            "HERALD_REQUEST_TIMEOUT_MS",
            raw.request_timeout_ms.as_deref(),
            (100, 10_000, 300_000),
        ),
        body_bytes_max: r.number(
            "HERALD_BODY_BYTES_MAX",
            raw.body_bytes_max.as_deref(),
            (1_024, 1_048_576, 67_108_864),
        ),
        connections_max: r.number(
            "HERALD_CONNECTIONS_MAX",
            raw.connections_max.as_deref(),
            (1, 4_096, 1_000_000),
        ),
        partner_rate_per_s: r.optional_number(
            "HERALD_PARTNER_RATE_PER_S",
            raw.partner_rate_per_s.as_deref(),
            (1, 1_000_000),
        ),
        trusted_proxies: r.networks("HERALD_TRUSTED_PROXIES", raw.trusted_proxies.as_deref()),
        delivery_timeout_ms: r.number(
            "HERALD_DELIVERY_TIMEOUT_MS",
            raw.delivery_timeout_ms.as_deref(),
            (100, 15_000, 300_000),
        ),
        lease_ms: r.number("HERALD_LEASE_MS", raw.lease_ms.as_deref(), (200, 30_000, 3_600_000)),
        retry_delays_s: retry_delays_s(raw, r),
        retries_max: r.number(
            "HERALD_RETRIES_MAX",
            raw.retries_max.as_deref(),
            (0, OWN_RETRIES_MAX, OWN_RETRIES_MAX),
        ),
        retry_delay_max_s: r.number(
            "HERALD_RETRY_DELAY_MAX_S",
            raw.retry_delay_max_s.as_deref(),
            (1, RETRY_DELAY_S_MAX, RETRY_DELAY_S_MAX),
        ),
        disable_after_days: r.number(
            "HERALD_DISABLE_AFTER_DAYS",
            raw.disable_after_days.as_deref(),
            (1, 5, 3_650),
        ),
        in_flight_max: r.number("HERALD_IN_FLIGHT_MAX", raw.in_flight_max.as_deref(), (1, 512, 65_536)),
        callback_in_flight_max: r.number(
            "HERALD_CALLBACK_IN_FLIGHT_MAX",
            raw.callback_in_flight_max.as_deref(),
            (1, 4, 65_536),
        ),
        callback_rate_per_s: r.optional_number(
            "HERALD_CALLBACK_RATE_PER_S",
            raw.callback_rate_per_s.as_deref(),
            (1, RATE_PER_S_MAX),
        ),
        batch_linger_ms: r.number("HERALD_BATCH_LINGER_MS", raw.batch_linger_ms.as_deref(), (0, 50, 60_000)),
        stop_timeout_ms: r.number(
            "HERALD_STOP_TIMEOUT_MS",
            raw.stop_timeout_ms.as_deref(),
            (0, 15_000, STOP_TIMEOUT_MS_MAX),
        ),
        retention_days: r.number("HERALD_RETENTION_DAYS", raw.retention_days.as_deref(), (1, 30, 3_650)),
        backlog_max: r.number(
            "HERALD_BACKLOG_MAX",
            raw.backlog_max.as_deref(),
            (1, 5_000_000, 1_000_000_000),
        ),
        log: log(raw, r),
        log_format: log_format(raw, r),
    }
}

fn mode(raw: &RawConfig, r: &mut Reader) -> Mode {
    let said = r.value("HERALD_MODE", raw.mode.as_deref(), "development or production", |text| match text {
        "development" => Some(Mode::Development),
        "production" => Some(Mode::Production),
        _ => None,
    });
    match (said, &raw.database_url) {
        (Some(mode), _) => mode,
        (None, None) => Mode::Development,
        // An empty DATABASE_URL is a variable that somebody forgot to fill. It must not open the development mode.
        (None, Some(url)) => {
            if url.trim().is_empty() {
                r.problem(
                    "DATABASE_URL",
                    "is set but empty",
                    "postgres://…, or HERALD_MODE beside it to say that Herald's own PostgreSQL is meant",
                );
            }
            Mode::Production
        }
    }
}

/// The value holds a password, so no problem repeats it.
fn database_url(raw: &RawConfig, r: &mut Reader) -> Option<Secret> {
    let text = present(raw.database_url.as_deref())?;
    let known = Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql"));
    if !known {
        r.problem(
            "DATABASE_URL",
            "is not the URL of a PostgreSQL database",
            "postgres://user:password@host/database, with special characters in the password percent-encoded",
        );
    }
    Some(Secret::new(text))
}

/// May hold a password by mistake, so no problem repeats it.
fn public_url(raw: &RawConfig, r: &mut Reader) -> Option<Url> {
    let text = present(raw.public_url.as_deref())?;
    let plain = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let url = Url::parse(text).ok().filter(plain);
    if url.is_none() {
        let wrong = "is not an http or https URL without user, query and fragment";
        r.problem("HERALD_PUBLIC_URL", wrong, "a URL such as https://herald.example.com");
    }
    url
}

fn dev_api_key(raw: &RawConfig, r: &mut Reader) -> Option<Secret> {
    let text = present(raw.dev_api_key.as_deref())?;
    if let Err(error) = PartnerKey::parse(text) {
        let instead = "16 to 128 printable ASCII characters, or leave it out to have a key generated";
        r.problem("HERALD_DEV_API_KEY", format!("cannot be used: {error}"), instead);
    }
    Some(Secret::new(text))
}

fn secret_keys(raw: &RawConfig, r: &mut Reader) -> Option<KeyRing> {
    let parsed = KeyRing::parse(present(raw.secret_keys.as_deref())?);
    parsed
        .map_err(|error| {
            r.problem("HERALD_SECRET_KEYS", format!("cannot be used: {error}"), KeyRingError::HINT)
        })
        .ok()
}

/// May hold a password by mistake, so no problem repeats it.
fn egress_proxy(raw: &RawConfig, r: &mut Reader) -> Option<EgressProxy> {
    let proxy = EgressProxy::parse(present(raw.egress_proxy.as_deref())?);
    if proxy.is_none() {
        let instead = "a URL such as http://proxy.internal:3128, without user and path";
        r.problem("HERALD_EGRESS_PROXY", "is not the URL of an HTTP proxy", instead);
    }
    proxy
}

fn egress_ports(raw: &RawConfig, r: &mut Reader) -> Option<Vec<u16>> {
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
    let instead = "ports from 1 to 65535 separated by commas, such as 443,8443";
    r.value("HERALD_EGRESS_PORTS", raw.egress_ports.as_deref(), instead, |text| list(text, port))
}

fn retry_delays_s(raw: &RawConfig, r: &mut Reader) -> Vec<u64> {
    let instead =
        format!("1 to {RETRIES_MAX} whole seconds separated by commas, none above {RETRY_DELAY_S_MAX}");
    let delay = |text: &str| text.parse().ok().filter(|delay_s: &u64| *delay_s <= RETRY_DELAY_S_MAX);
    r.value("HERALD_RETRY_DELAYS_S", raw.retry_delays_s.as_deref(), &instead, |text| {
        list(text, delay).filter(|delays| delays.len() <= RETRIES_MAX)
    })
    .unwrap_or_else(|| RetryPolicy::default().delays.iter().map(Duration::as_secs).collect())
}

fn log(raw: &RawConfig, r: &mut Reader) -> String {
    let instead = "error, warn, info, debug or trace, or directives such as info,herald=debug";
    r.value("HERALD_LOG", raw.log.as_deref(), instead, |text| {
        EnvFilter::try_new(text).is_ok().then(|| text.to_owned())
    })
    .unwrap_or_else(|| "info,sqlx=warn,sqlx_core::pool=off".to_owned())
}

fn log_format(raw: &RawConfig, r: &mut Reader) -> LogFormat {
    r.value("HERALD_LOG_FORMAT", raw.log_format.as_deref(), "text or json", |text| match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    })
    .unwrap_or(LogFormat::Text)
}
