//! `herald partners create` and `herald keys create`: how the first partner and the first key come into a database, when
//! there is no key yet to ask the operator's API with. What is made goes to standard output alone on its line, for
//! scripts; everything about it to standard error.

use std::io::{self, Write as _};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::domain::id::{PartnerId, parse_uuid};
use crate::domain::partner_key::Scopes;
use crate::domain::partner_name::PartnerName;
use crate::domain::secret::Secret;
use crate::{hub, store};

#[derive(clap::Args)]
pub struct Database {
    /// The PostgreSQL to use. Holds a password: prefer the variable
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    database_url: Secret,
}

#[derive(Subcommand)]
pub enum PartnersCommand {
    /// Make a partner and print its id
    Create {
        #[command(flatten)]
        database: Database,
        /// What people call it: 1 to 100 characters
        #[arg(long, value_parser = PartnerName::parse)]
        name: PartnerName,
    },
}

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make an API key for a partner and print it, this once
    Create {
        #[command(flatten)]
        database: Database,
        /// Id of the partner
        #[arg(long, value_name = "ID", value_parser = partner_id)]
        partner: PartnerId,
        /// partner, producer, operator, or several separated by commas
        #[arg(long, default_value = "partner", value_parser = Scopes::parse)]
        scopes: Scopes,
        /// When the key stops working, such as 2030-12-31T23:59:59Z [default: never]
        #[arg(long, value_name = "TIME", value_parser = moment)]
        expires_at: Option<DateTime<Utc>>,
    },
}

pub async fn partners(command: PartnersCommand) -> ExitCode {
    let PartnersCommand::Create { database, name } = command;
    end(create_partner(&database, &name).await)
}

pub async fn keys(command: KeysCommand) -> ExitCode {
    let KeysCommand::Create { database, partner, scopes, expires_at } = command;
    end(create_key(&database, partner, scopes, expires_at).await)
}

async fn create_partner(database: &Database, name: &PartnerName) -> Result<(), String> {
    let pool = connect(database).await?;
    let mut connection = pool.acquire().await.map_err(|error| error.to_string())?;
    let id = PartnerId::new();
    let made = store::partners::insert(&mut connection, id, name.as_str()).await;
    made.map_err(|error| error.chain())?;
    say(&id.to_string(), &format!("made the partner {:?}", name.as_str()))
}

async fn create_key(
    database: &Database,
    partner: PartnerId,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(), String> {
    let pool = connect(database).await?;
    let mut transaction = pool.begin().await.map_err(|error| error.to_string())?;
    let made = hub::partners::create_key(&mut transaction, partner, scopes, expires_at).await;
    let key = made.map_err(|error| error.chain())?;
    transaction.commit().await.map_err(|error| error.to_string())?;
    say(
        key.text.expose_str().unwrap_or_default(),
        &format!("made a key with the scopes {scopes}; it is shown this once"),
    )
}

/// Connects, and brings the schema up to date: these commands may well run before the server's first start.
async fn connect(database: &Database) -> Result<PgPool, String> {
    // What the parser says could repeat the password.
    let options: PgConnectOptions = database
        .database_url
        .expose_str()
        .and_then(|text| text.parse().ok())
        .ok_or("DATABASE_URL is not a PostgreSQL URL; write postgres://user:password@host/database")?;
    let options = options.application_name("herald");
    // A pool would try for half a minute and then say only that the time is over.
    let first = options.connect().await.map_err(|error| format!("the database cannot be used: {error}"))?;
    drop(first);
    let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options);
    store::migrate(&pool)
        .await
        .map_err(|error| format!("the database's schema cannot be brought up to date: {error}"))?;
    Ok(pool)
}

fn say(made: &str, about: &str) -> Result<(), String> {
    // Who asks for a key and closes the door has to know that it is lost.
    writeln!(io::stdout(), "{made}")
        .map_err(|error| format!("{about}, but it cannot be printed: {error}"))?;
    let _nobody_reads = writeln!(io::stderr(), "herald: {about}");
    Ok(())
}

fn end(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _nobody_reads = writeln!(io::stderr(), "herald: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn partner_id(text: &str) -> Result<PartnerId, &'static str> {
    parse_uuid(text).map(PartnerId)
}

fn moment(text: &str) -> Result<DateTime<Utc>, &'static str> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed.map(|moment| moment.to_utc()).map_err(|_| "not a date and time such as 2030-12-31T23:59:59Z")
}
