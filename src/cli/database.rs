//! The database that a command works on: how it is reached, and how an administrative command ends.

use std::process::ExitCode;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};
use tokio::time::{Instant, sleep, timeout_at};

use crate::app::StartError;
use crate::store;

/// How long one connection may take. A firewall that drops everything would otherwise hold a command for minutes.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Which database.
#[derive(clap::Args)]
pub struct DatabaseArgs {
    /// The PostgreSQL to work on. Holds a password: prefer the variable
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

impl DatabaseArgs {
    /// Connects and brings the schema up to date. Errors: a sentence for whoever typed the command.
    pub async fn open(&self) -> Result<PgPool, String> {
        let url = self.database_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
        let url = url.ok_or("DATABASE_URL is not set: say which PostgreSQL to work on")?;
        let options = connect_options(url)?.application_name("herald");
        reach(&options, Duration::ZERO).await?;
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options);
        let waiting = |blockers: &str| {
            eprintln!("waiting for a lock that others hold, perhaps {blockers}; asking again");
        };
        store::migrate(&pool, waiting).await.map_err(|error| StartError::from(error).to_string())?;
        Ok(pool)
    }
}

/// Where a URL leads. Errors: what to write instead; what the parser says could repeat the password.
pub fn connect_options(url: &str) -> Result<PgConnectOptions, String> {
    url.parse().map_err(|_| {
        "DATABASE_URL is not a PostgreSQL URL; write postgres://user:password@host:port/database, \
         and in user and password %23 for #, %2F for /, %3A for :, %3F for ?, %40 for @ and %25 for %"
            .to_owned()
    })
}

/// Connects once, to find out whether that can be done; again for so long while the database is not there yet. Errors: the reason, which a pool
/// would not tell: it tries until its time is over, and says that.
pub async fn reach(database: &PgConnectOptions, patience: Duration) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let connected = match timeout_at(Instant::now() + CONNECTED_WITHIN, database.connect()).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        let connected = match connected {
            Ok(mut session) => store::sessions::check_takes_writes(&mut session).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(()) => return Ok(()),
            Err(error) if is_starting(&error) && began.elapsed() < patience => sleep(ASK_AGAIN_AFTER).await,
            Err(error) => return Err(StartError::Database(error).to_string()),
        }
    }
}

/// Whether it may be a database that comes up: nobody listens yet, or it says so itself (57P03).
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        error => error.as_database_error().and_then(|said| said.code()).is_some_and(|code| code == "57P03"),
    }
}

/// Says what went wrong, if anything did.
pub fn told(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
