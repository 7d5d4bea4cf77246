//! `herald keys`: makes API keys, the first one before anybody has one that could, lists and revokes them, and changes the keys that encrypt at
//! rest.

mod list;
mod rotate;

use chrono::TimeDelta;
use serde_json::json;

use super::database::DatabaseArgs;
use crate::domain::id::{ApiKeyId, PartnerId, parse_uuid};
use crate::domain::partner_key::Scopes;
use crate::domain::time::{wire_time, wire_time_ms};
use crate::domain::{Error, Noun};
use crate::hub::partners;
use crate::store;

#[derive(clap::Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once
    Create(CreateArgs),
    /// Show which keys there are and what became of them, never a key itself
    List(list::ListArgs),
    /// Revoke a key, everywhere within a second
    Revoke(RevokeArgs),
    /// Encrypt again, with the first key of HERALD_SECRET_KEYS, what its other keys have encrypted
    ///
    /// May run while servers work, may be ended, and goes on where it was.
    Rotate(rotate::RotateArgs),
}

#[derive(clap::Args)]
pub struct CreateArgs {
    /// The id of the partner whose key it will be
    #[arg(long, value_name = "ID")]
    partner: String,
    /// What it may do: partner, producer, operator, separated by commas
    #[arg(long, value_name = "SCOPES", value_parser = Scopes::parse)]
    scope: Scopes,
    /// After how many days it ends [default: never]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expires_in_days: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(clap::Args)]
pub struct RevokeArgs {
    /// The key's id, as `herald keys list` shows it
    #[arg(value_name = "KEY_ID")]
    key: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(command: KeysCommand) -> Result<(), String> {
    match command {
        KeysCommand::Create(args) => create_and_print(args).await,
        KeysCommand::List(args) => list::run(args).await,
        KeysCommand::Revoke(args) => revoke(args).await,
        KeysCommand::Rotate(args) => rotate::run(args).await,
    }
}

async fn create_and_print(args: CreateArgs) -> Result<(), String> {
    let partner = parse_uuid(&args.partner).map_err(|complaint| format!("--partner {complaint}"))?;
    let pool = args.database.open().await?;
    let made = create(&pool, PartnerId(partner), args.scope, args.expires_in_days).await;
    let (new, expires_at) = made.map_err(|error| match error {
        Error::NotFound(Noun::Partner) => format!("there is no partner {partner}"),
        error => error.chain(),
    })?;
    let key = new.text.expose_str().unwrap_or_default();
    if args.json {
        let scopes: Vec<String> = args.scope.to_string().split(',').map(str::to_owned).collect();
        let created_at = wire_time_ms(new.created_at);
        let mut shown = json!({ "id": new.id.0, "key": key, "prefix": new.prefix, "scopes": scopes, "createdAt": created_at });
        if let Some(expires_at) = expires_at {
            shown["expiresAt"] = wire_time_ms(expires_at).into();
        }
        println!("{shown}");
    } else {
        println!("{key}");
    }
    Ok(())
}

async fn create(
    pool: &sqlx::PgPool,
    partner: PartnerId,
    scopes: Scopes,
    expires_in_days: Option<u32>,
) -> Result<(partners::NewKey, Option<chrono::DateTime<chrono::Utc>>), Error> {
    let now = store::now(&mut *pool.acquire().await?).await?;
    let expires_at = expires_in_days.map(|days| now + TimeDelta::days(days.into()));
    Ok((partners::create_key(pool, partner, scopes, expires_at).await?, expires_at))
}

/// A key that was revoked before stays so, since then.
async fn revoke(args: RevokeArgs) -> Result<(), String> {
    // Whoever has the key at hand may take it for its id, and it must not be shown.
    let id = parse_uuid(&args.key)
        .map_err(|complaint| format!("KEY_ID {complaint}, as `herald keys list` shows it"))?;
    let pool = args.database.open().await?;
    let mut connection = pool.acquire().await.map_err(|error| Error::from(error).chain())?;
    let since = store::api_keys::revoke_of_anyone(&mut connection, ApiKeyId(id)).await;
    match since.map_err(|error| error.chain())? {
        Some(since) => println!("revoked since {}", wire_time(since)),
        None => return Err(format!("there is no key {id}")),
    }
    Ok(())
}
