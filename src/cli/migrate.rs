//! `herald migrate`: the schema, and nothing else. The server does the same when it starts.

use super::database::DatabaseArgs;

#[derive(clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(args: MigrateArgs) -> Result<(), String> {
    args.database.open().await?;
    println!("The schema is up to date.");
    Ok(())
}
