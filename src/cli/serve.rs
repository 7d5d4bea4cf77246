//! `herald serve`: everything, from the command line to the last result written. What it did is said on standard output; what happens
//! afterwards goes to the log.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use url::Url;

use super::database::{self, reach};
use crate::app::{App, Fallen};
use crate::config::{Config, Mode, RawConfig};
use crate::domain::key_ring::KeyRing;
use crate::domain::partner_key::PartnerKey;
use crate::domain::secret::Secret;
use crate::embedded_postgres::{self, EmbeddedPostgres};
use crate::{descriptors, engine, listener, telemetry};

/// How long a database that is set may take to be there: both may be starting.
const DATABASE_WITHIN: Duration = Duration::from_secs(5);
/// Between tries at restarting a private PostgreSQL that ended by itself.
const RESTART_AFTER: Duration = Duration::from_millis(500);

pub async fn run(raw: &RawConfig) -> ExitCode {
    let config = match Config::check(raw) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Start(message)) => {
            telemetry::last_words(&format!("herald cannot start: {message}"));
            ExitCode::FAILURE
        }
        Err(Failure::Fallen(fallen)) => {
            telemetry::last_words(&format!(
                "herald stopped: {fallen}. Start it again; nothing that was accepted is lost. The log says what \
                 happened: please report it, for it is a defect."
            ));
            ExitCode::FAILURE
        }
    }
}

/// Why `herald serve` ended otherwise than by being asked to.
enum Failure {
    /// What to tell the operator.
    Start(String),
    Fallen(Fallen),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Start(message)
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    let _last_lines =
        telemetry::install(&config.log, config.log_format).map_err(|error| error.to_string())?;
    warn_of_what_is_odd(&config);
    let mut stop = stop_signal()?;
    descriptors::raise_limit(2 * config.connections_max + engine::connections_max(config.in_flight_max));
    let api = listener::bind(config.listen, "HERALD_LISTEN")?;
    let operator = listener::bind(config.operator_listen, "HERALD_OPERATOR_LISTEN")?;
    let api_address = api.local_addr().map_err(|error| error.to_string())?;
    let operator_address = operator.local_addr().map_err(|error| error.to_string())?;
    let public_url = match &config.public_url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{api_address}")).map_err(|error| error.to_string())?,
    };
    let folder = config.data_dir.clone().unwrap_or_else(embedded_postgres::default_data_dir);
    let Started { app, postgres } = tokio::select! {
        started = start(&config, &folder, public_url.clone()) => started?,
        // A start may take long, and nothing is under way yet. A private PostgreSQL ends with this process.
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let database = postgres.as_ref().map(|(postgres, _)| postgres.description());
    let key = open_mode(&app, &config, &folder).await?;
    let (mode, operator_at) = (config.mode, operator_address);
    println!("{}", Announcement { mode, public_url, api: api_address, operator: operator_at, database, key });
    let (over, is_over) = watch::channel(false);
    let postgres = postgres.map(|(postgres, settings)| tokio::spawn(supervise(postgres, settings, is_over)));
    let served = app.serve(api, operator, stop).await;
    let _nobody_watches = over.send(true);
    if let Some(postgres) = postgres
        && let Ok(Some(postgres)) = postgres.await
    {
        postgres.stop().await;
    }
    served.map_err(Failure::Fallen)
}

/// Nothing that would keep a server from starting.
fn warn_of_what_is_odd(config: &Config) {
    let environment = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for setting in super::unknown_settings(environment) {
        tracing::warn!(setting, "there is no such setting: is its name spelt as in the README?");
    }
    // With the most that chance adds to each.
    let retried_for_days = config.retry_delays_s.iter().sum::<u64>() as f64 * 1.2 / 86_400.0;
    if f64::from(config.retention_days) < retried_for_days {
        tracing::warn!(
            retention_days = config.retention_days,
            retried_for_days,
            "HERALD_RETENTION_DAYS is shorter than HERALD_RETRY_DELAYS_S takes: deliveries expire that would still be tried"
        );
    }
}

/// What a start comes to.
struct Started {
    app: App,
    postgres: Option<(EmbeddedPostgres, embedded_postgres::Settings)>,
}

async fn start(config: &Config, folder: &Path, public_url: Url) -> Result<Started, String> {
    let (database, postgres) = match &config.database_url {
        Some(url) => {
            let options = database::connect_options(url.expose_str().unwrap_or_default())?;
            reach(&options, DATABASE_WITHIN).await?;
            (options, None)
        }
        None => {
            let settings = embedded_postgres::Settings {
                data_dir: folder.to_owned(),
                bin_dir: config.postgres_bin.clone(),
            };
            let postgres =
                EmbeddedPostgres::start(settings.clone()).await.map_err(|error| error.to_string())?;
            (postgres.connect_options(), Some((postgres, settings)))
        }
    };
    let keys = key_ring(config, folder)?;
    let app =
        App::start(config.clone(), database, keys, public_url).await.map_err(|error| error.to_string())?;
    Ok(Started { app, postgres })
}

/// Sees to the key that opens everything in development and nothing in production; returns it, and where it comes from.
async fn open_mode(app: &App, config: &Config, folder: &Path) -> Result<Option<(Secret, String)>, String> {
    match config.mode {
        Mode::Development => development_key(app, config, folder).await.map(Some),
        Mode::Production => {
            let ended = app.hub().end_development().await.map_err(|error| error.chain())?;
            if ended > 0 {
                tracing::warn!(
                    "this database was used in development: the key that opened everything there is revoked"
                );
            }
            Ok(None)
        }
    }
}

/// Whether whoever started this process wants it to outlive its terminal, as `nohup` does. Only Linux says.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The signal's number is 1, and its bit the first.
    ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & 1 == 1)
}

/// Resolves to true on SIGINT or SIGTERM, and on SIGHUP: there is nothing that could be read anew, and a terminal that was closed must not be
/// the end of what is under way.
fn stop_signal() -> Result<watch::Receiver<bool>, String> {
    let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be listened for: {error}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hang_up = (!ignores_hang_up()).then(|| listen(SignalKind::hangup())).transpose()?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = async {
                match &mut hang_up {
                    Some(hang_up) => drop(hang_up.recv().await),
                    None => std::future::pending().await,
                }
            } => {}
        }
        tracing::info!("stopping: what is under way is finished first");
        let _nobody_listens = sender.send(true);
        // The sender stays: a channel without one would look like a second signal.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

/// Brings the private PostgreSQL back when it ends by itself, until nobody needs it any more; then there may be none.
async fn supervise(
    mut postgres: EmbeddedPostgres,
    settings: embedded_postgres::Settings,
    mut is_over: watch::Receiver<bool>,
) -> Option<EmbeddedPostgres> {
    loop {
        tokio::select! {
            _ = is_over.wait_for(|over| *over) => return Some(postgres),
            () = postgres.exited() => {}
        }
        tracing::error!("the private PostgreSQL ended by itself; starting it again");
        drop(postgres);
        postgres = tokio::select! {
            _ = is_over.wait_for(|over| *over) => return None,
            postgres = start_again(&settings) => postgres,
        };
    }
}

async fn start_again(settings: &embedded_postgres::Settings) -> EmbeddedPostgres {
    loop {
        match EmbeddedPostgres::start(settings.clone()).await {
            Ok(postgres) => return postgres,
            Err(error) => tracing::error!(%error, "the private PostgreSQL does not start"),
        }
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

/// The configured ring, or in development one of our own that is kept in the data folder.
fn key_ring(config: &Config, folder: &Path) -> Result<KeyRing, String> {
    if let Some(keys) = &config.secret_keys {
        return Ok(keys.clone());
    }
    let kept = keep(folder, "secret-keys", || KeyRing::generate().1)?;
    let text = kept.expose_str().unwrap_or_default();
    KeyRing::parse(text.trim()).map_err(|error| format!("{}: {error}", folder.join("secret-keys").display()))
}

/// Sees to the development partner and its key; returns the key and where it comes from.
async fn development_key(app: &App, config: &Config, folder: &Path) -> Result<(Secret, String), String> {
    let (text, origin) = match &config.dev_api_key {
        Some(text) => (text.clone(), "HERALD_DEV_API_KEY".to_owned()),
        None => {
            let kept = keep(folder, "dev-api-key", PartnerKey::generate_for_development)?;
            (kept, format!("kept in {}", folder.join("dev-api-key").display()))
        }
    };
    let key = text.expose_str().map(str::trim).unwrap_or_default();
    let parsed = PartnerKey::parse(key)
        .map_err(|error| format!("the development key ({origin}) cannot be used: {error}"))?;
    app.hub().ensure_development_partner(&parsed).await.map_err(|error| error.chain())?;
    Ok((Secret::new(key.as_bytes()), origin))
}

/// Reads a secret from the data folder; makes it on the first start, readable to nobody else.
fn keep(folder: &Path, name: &str, make: impl FnOnce() -> Secret) -> Result<Secret, String> {
    let path: PathBuf = folder.join(name);
    let said = |error: std::io::Error| {
        format!("{}: {error}; set HERALD_DATA_DIR to a folder that can be written", path.display())
    };
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Secret::new(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder).map_err(said)?;
            let secret = make();
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(said)?;
            file.write_all(secret.expose()).and_then(|()| file.sync_all()).map_err(said)?;
            Ok(secret)
        }
        Err(error) => Err(said(error)),
    }
}

const EXAMPLE: &str = r#"{"callbackUrl":"http://127.0.0.1:9090/","apiKey":"callback-key","eventTypes":["RedirectSessionCancelled"]}"#;

/// What a start says: what runs where, and what to try next.
struct Announcement {
    mode: Mode,
    public_url: Url,
    api: std::net::SocketAddr,
    operator: std::net::SocketAddr,
    database: Option<String>,
    key: Option<(Secret, String)>,
}

impl std::fmt::Display for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let api = self.public_url.as_str().trim_end_matches('/');
        let mode = match self.mode {
            Mode::Development => "development: callbacks may be plain http, on loopback and on any port",
            Mode::Production => "production",
        };
        writeln!(f, "Herald {} ({mode})", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  database  {}", self.database.as_deref().unwrap_or("from DATABASE_URL"))?;
        let listens = format!("http://{}", self.api);
        match listens == api {
            true => writeln!(f, "  API       {api}")?,
            false => writeln!(f, "  API       {api} (at {listens})")?,
        }
        write!(f, "  operator  http://{}", self.operator)?;
        if let Some((key, origin)) = &self.key {
            let key = key.expose_str().unwrap_or_default();
            writeln!(f, "\n  API key   {key} ({origin})\n")?;
            writeln!(
                f,
                "Subscribe to cancelled redirect sessions (and run `herald listen` to see them arrive):"
            )?;
            writeln!(
                f,
                "  curl -X POST {api}/redirect-session-events/subscriptions -H 'x-api-key: {key}' \\"
            )?;
            writeln!(f, "    -H 'content-type: application/json' \\")?;
            write!(f, "    -d '{EXAMPLE}'")?;
        }
        Ok(())
    }
}
