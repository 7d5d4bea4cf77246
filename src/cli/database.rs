//! The database that an administrative command works on, and how such a command ends.

use std::process::ExitCode;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};

use crate::store;

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
        // What the parser says could repeat the password.
        let options: PgConnectOptions = url.parse().map_err(|_| {
            "DATABASE_URL is not a PostgreSQL URL; write postgres://user:password@host:port/database"
                .to_owned()
        })?;
        let options = options.application_name("herald");
        // A pool would try for half a minute and then say only that the time is over.
        let first = options.connect().await;
        drop(first.map_err(|error| format!("the database cannot be used: {error}"))?);
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options);
        let migrated = store::migrate(&pool).await;
        migrated.map_err(|error| format!("the schema cannot be brought up to date: {error}"))?;
        Ok(pool)
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
