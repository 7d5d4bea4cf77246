//! `herald partners`: makes the first partner, before anybody has a key that could.

use serde_json::json;

use super::database::DatabaseArgs;
use crate::domain::partner_name::PartnerName;
use crate::domain::time::wire_time_ms;
use crate::hub::partners;

#[derive(clap::Subcommand)]
pub enum PartnersCommand {
    /// Make a partner and print its id
    Create(CreateArgs),
}

#[derive(clap::Args)]
pub struct CreateArgs {
    /// For people to read
    #[arg(long, value_parser = PartnerName::parse)]
    name: PartnerName,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(command: PartnersCommand) -> Result<(), String> {
    let PartnersCommand::Create(args) = command;
    let name = args.name.as_str();
    let pool = args.database.open().await?;
    let (id, created_at) = partners::create_partner(&pool, name).await.map_err(|error| error.chain())?;
    if args.json {
        println!("{}", json!({ "id": id.0, "name": name, "createdAt": wire_time_ms(created_at) }));
    } else {
        println!("{id}");
    }
    Ok(())
}
