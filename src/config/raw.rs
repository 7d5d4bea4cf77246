//! The settings as they come in: one flag and one environment variable each, all of them text, none of them judged.
//!
//! Everything is `Option<String>` so that reading never fails half-way: [`super::Config::check`] judges all settings
//! together and names every problem at once. A flag wins over its variable. No value is ever shown by `--help` or
//! `Debug`, because three of them are secrets.

use std::fmt;

/// Flags and environment variables of the server, unchecked.
#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Settings")]
pub struct RawConfig {
    /// development or production; development exactly when there is no DATABASE_URL, unless this says otherwise
    #[arg(long = "mode", value_name = "MODE", env = "HERALD_MODE", hide_env_values = true)]
    pub mode: Option<String>,

    /// Address of the API [default: 127.0.0.1:8080]
    #[arg(long = "listen", value_name = "ADDRESS:PORT", env = "HERALD_LISTEN", hide_env_values = true)]
    pub listen: Option<String>,

    /// Address of the operator side: health, metrics, partners [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS:PORT", env = "HERALD_OPERATOR_LISTEN", hide_env_values = true)]
    pub operator_listen: Option<String>,

    /// The URL under which partners reach the API, for links in answers
    #[arg(long, value_name = "URL", env = "HERALD_PUBLIC_URL", hide_env_values = true)]
    pub public_url: Option<String>,

    /// The PostgreSQL to use; without it Herald runs one of its own. Holds a password: prefer the variable
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Where Herald keeps what is its own: the private PostgreSQL, generated development keys
    #[arg(long, value_name = "FOLDER", env = "HERALD_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<String>,

    /// Folder with the binaries of the private PostgreSQL [default: searched for]
    #[arg(long, value_name = "FOLDER", env = "HERALD_POSTGRES_BIN", hide_env_values = true)]
    pub postgres_bin: Option<String>,

    /// API key of the development partner [default: generated and kept in the data folder]. Prefer the variable
    #[arg(long, value_name = "KEY", env = "HERALD_DEV_API_KEY", hide_env_values = true)]
    pub dev_api_key: Option<String>,

    /// Keys that encrypt at rest, `id:base64` separated by commas, the first encrypts. Prefer the variable
    #[arg(long, value_name = "KEYS", env = "HERALD_SECRET_KEYS", hide_env_values = true)]
    pub secret_keys: Option<String>,

    /// Networks, otherwise refused, that callbacks may be in: CIDRs separated by commas
    #[arg(long, value_name = "CIDRS", env = "HERALD_EGRESS_ALLOW", hide_env_values = true)]
    pub egress_allow: Option<String>,

    /// Ports that callbacks may have [default: 443,8443; in development any]
    #[arg(long, value_name = "PORTS", env = "HERALD_EGRESS_PORTS", hide_env_values = true)]
    pub egress_ports: Option<String>,

    /// Whether callbacks may be plain http [default: false; in development true]
    #[arg(long, value_name = "BOOL", env = "HERALD_EGRESS_HTTP", hide_env_values = true)]
    pub egress_http: Option<String>,

    /// IPv6 prefix of a NAT64 gateway, judged by the IPv4 address inside
    #[arg(long, value_name = "CIDR", env = "HERALD_NAT64_PREFIX", hide_env_values = true)]
    pub nat64_prefix: Option<String>,

    /// PEM file of further certificate authorities that callbacks may be signed by
    #[arg(long, value_name = "FILE", env = "HERALD_EGRESS_CA_FILE", hide_env_values = true)]
    pub egress_ca_file: Option<String>,

    /// HTTP proxy that every callback is called through (CONNECT); it has to refuse private addresses itself
    #[arg(long, value_name = "URL", env = "HERALD_EGRESS_PROXY", hide_env_values = true)]
    pub egress_proxy: Option<String>,

    /// How long a redirect session stays active, in seconds [default: 900]
    #[arg(long, value_name = "SECONDS", env = "HERALD_SESSION_TTL_S", hide_env_values = true)]
    pub session_ttl_s: Option<String>,

    /// How long the server works on one request [default: 10000]
    #[arg(long, value_name = "MS", env = "HERALD_REQUEST_TIMEOUT_MS", hide_env_values = true)]
    pub request_timeout_ms: Option<String>,

    /// Largest request body, but for `POST /events`, which has bounds of its own [default: 1048576]
    #[arg(long, value_name = "BYTES", env = "HERALD_BODY_BYTES_MAX", hide_env_values = true)]
    pub body_bytes_max: Option<String>,

    /// Most connections that clients may have open at once to each listener [default: 4096]
    #[arg(long, value_name = "COUNT", env = "HERALD_CONNECTIONS_MAX", hide_env_values = true)]
    pub connections_max: Option<String>,

    /// Requests that one partner may send to one process in a second [default: any number]
    #[arg(long, value_name = "COUNT", env = "HERALD_PARTNER_RATE_PER_S", hide_env_values = true)]
    pub partner_rate_per_s: Option<String>,

    /// Proxies in front whose X-Forwarded-For says who the client is: CIDRs separated by commas
    #[arg(long, value_name = "CIDRS", env = "HERALD_TRUSTED_PROXIES", hide_env_values = true)]
    pub trusted_proxies: Option<String>,

    /// Total time of one delivery attempt, the answer's body included [default: 15000]
    #[arg(long, value_name = "MS", env = "HERALD_DELIVERY_TIMEOUT_MS", hide_env_values = true)]
    pub delivery_timeout_ms: Option<String>,

    /// How long a node owns a delivery; at least twice the delivery timeout [default: 30000]
    #[arg(long, value_name = "MS", env = "HERALD_LEASE_MS", hide_env_values = true)]
    pub lease_ms: Option<String>,

    /// Delays before each retry, in seconds [default: 5,30,120,600,3600,10800,21600,43200,86400,86400]
    #[arg(long, value_name = "SECONDS", env = "HERALD_RETRY_DELAYS_S", hide_env_values = true)]
    pub retry_delays_s: Option<String>,

    /// Most retries that a subscription may ask for in a schedule of its own; at most 30 [default: 30]
    #[arg(long, value_name = "COUNT", env = "HERALD_RETRIES_MAX", hide_env_values = true)]
    pub retries_max: Option<String>,

    /// Longest delay that a subscription may ask for in a schedule of its own, in seconds; at most 604800 [default: 604800]
    #[arg(long, value_name = "SECONDS", env = "HERALD_RETRY_DELAY_MAX_S", hide_env_values = true)]
    pub retry_delay_max_s: Option<String>,

    /// Disable a subscription whose deliveries have all failed for this long [default: 5]
    #[arg(long, value_name = "DAYS", env = "HERALD_DISABLE_AFTER_DAYS", hide_env_values = true)]
    pub disable_after_days: Option<String>,

    /// Deliveries in flight at once [default: 512]
    #[arg(long, value_name = "COUNT", env = "HERALD_IN_FLIGHT_MAX", hide_env_values = true)]
    pub in_flight_max: Option<String>,

    /// Deliveries in flight at once to one callback [default: 4]
    #[arg(long, value_name = "COUNT", env = "HERALD_CALLBACK_IN_FLIGHT_MAX", hide_env_values = true)]
    pub callback_in_flight_max: Option<String>,

    /// Posts that one process sends to one callback in a second at most [default: any number]
    #[arg(long, value_name = "COUNT", env = "HERALD_CALLBACK_RATE_PER_S", hide_env_values = true)]
    pub callback_rate_per_s: Option<String>,

    /// How long a batch that is not full waits for more events [default: 50]
    #[arg(long, value_name = "MS", env = "HERALD_BATCH_LINGER_MS", hide_env_values = true)]
    pub batch_linger_ms: Option<String>,

    /// How long stopping may take; what is not delivered by then is given back, not lost; at most 20000 [default: 15000]
    #[arg(long, value_name = "MS", env = "HERALD_STOP_TIMEOUT_MS", hide_env_values = true)]
    pub stop_timeout_ms: Option<String>,

    /// How long events and the history of their deliveries are kept, in days [default: 30]
    #[arg(long, value_name = "DAYS", env = "HERALD_RETENTION_DAYS", hide_env_values = true)]
    pub retention_days: Option<String>,

    /// Unfinished deliveries beyond which publishing is answered 429 [default: 5000000]
    #[arg(long, value_name = "COUNT", env = "HERALD_BACKLOG_MAX", hide_env_values = true)]
    pub backlog_max: Option<String>,

    /// What to log: a level, or directives such as `info,herald=debug` [default: info,sqlx=warn,sqlx_core::pool=off]
    #[arg(long, value_name = "DIRECTIVES", env = "HERALD_LOG", hide_env_values = true)]
    pub log: Option<String>,

    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "HERALD_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<String>,
}

impl fmt::Debug for RawConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawConfig([not shown: it may hold secrets])")
    }
}
