//! `herald keys list`: which API keys there are, as a table for people or as JSON.

use std::io::{Write as _, stdout};

use serde_json::{Value, json};

use crate::cli::database::DatabaseArgs;
use crate::domain::id::{PartnerId, parse_uuid};
use crate::domain::time::{wire_time, wire_time_ms};
use crate::domain::{Error, Noun};
use crate::store;
use crate::store::api_keys::ListedKey;

#[derive(clap::Args)]
pub struct ListArgs {
    /// Only this partner's
    #[arg(long, value_name = "ID")]
    partner: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(args: ListArgs) -> Result<(), String> {
    let partner = args.partner.as_deref().map(parse_uuid).transpose();
    let partner = partner.map_err(|complaint| format!("--partner {complaint}"))?.map(PartnerId);
    let pool = args.database.open().await?;
    let keys = keys(&pool, partner).await.map_err(|error| match error {
        Error::NotFound(Noun::Partner) => "there is no such partner".to_owned(),
        error => error.chain(),
    })?;
    let text = match args.json {
        true => format!("{}\n", keys.iter().map(shown).collect::<Value>()),
        false => table(&keys),
    };
    // Whoever has seen enough of it, `head` say, closes the pipe.
    stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

/// Errors: `NotFound` when there is no such partner.
async fn keys(pool: &sqlx::PgPool, partner: Option<PartnerId>) -> Result<Vec<ListedKey>, Error> {
    let mut connection = pool.acquire().await?;
    if let Some(partner) = partner
        && !store::partners::exists(&mut connection, partner).await?
    {
        return Err(Error::NotFound(Noun::Partner));
    }
    store::api_keys::list(&mut connection, partner).await
}

fn shown(key: &ListedKey) -> Value {
    let mut shown = json!({
        "id": key.id,
        "partnerId": key.partner_id,
        "partnerName": key.partner_name,
        "scopes": key.scopes,
        "prefix": key.prefix,
        "createdAt": wire_time_ms(key.created_at),
        "usable": key.usable,
    });
    for (name, at) in [("expiresAt", key.expires_at), ("revokedAt", key.revoked_at)] {
        if let Some(at) = at {
            shown[name] = wire_time_ms(at).into();
        }
    }
    shown
}

/// The partner's name comes last, since it may hold blanks.
fn table(keys: &[ListedKey]) -> String {
    let line = |[id, partner, prefix, scopes, created, state, name]: [&str; 7]| {
        format!("{id:36}  {partner:36}  {prefix:12}  {scopes:25}  {created:20}  {state:28}  {name}\n")
    };
    let mut text = line(["KEY_ID", "PARTNER_ID", "PREFIX", "SCOPES", "CREATED", "STATE", "PARTNER"]);
    for key in keys {
        let [id, partner] = [key.id, key.partner_id].map(|id| id.to_string());
        let (scopes, created) = (key.scopes.join(","), wire_time(key.created_at));
        text += &line([&id, &partner, &key.prefix, &scopes, &created, &state(key), &key.partner_name]);
    }
    text
}

fn state(key: &ListedKey) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", wire_time(at)),
        (None, Some(at)) if key.usable => format!("ends {}", wire_time(at)),
        (None, Some(at)) => format!("expired {}", wire_time(at)),
        (None, None) => "works".to_owned(),
    }
}
