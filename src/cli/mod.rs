//! The command line: which commands there are, and nothing of what they do. Each command is a module of its own.

mod bar;
pub mod bench;
mod database;
pub mod health;
pub mod keys;
pub mod listen;
pub mod migrate;
pub mod partners;
pub mod publish;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::RawConfig;

/// Tells partners' backends that something happened, reliably.
#[derive(Parser)]
#[command(name = "herald", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Without a command, `herald` is `herald serve`.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: RawConfig,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server with everything it needs
    Serve(Box<RawConfig>),
    /// Bring the schema of DATABASE_URL up to date
    Migrate(migrate::MigrateArgs),
    /// Make partners on DATABASE_URL
    #[command(subcommand)]
    Partners(partners::PartnersCommand),
    /// Make, list and revoke API keys, and change the keys that encrypt, on DATABASE_URL
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Receive callbacks and print them, for developing and trying things out
    Listen(listen::ListenArgs),
    /// Publish events from a file or standard input, one JSON object on each line
    Publish(publish::PublishArgs),
    /// Measure a server: throughput, latency, fairness, and whether everything arrived
    Bench(bench::BenchArgs),
    /// Ask the server on this machine whether it is ready; exits 0 if it is, 1 if not
    Health(health::HealthArgs),
}

impl Cli {
    pub async fn run(self) -> ExitCode {
        match self.command {
            None => serve::run(&self.settings).await,
            Some(Command::Serve(settings)) => serve::run(&settings).await,
            Some(Command::Migrate(args)) => database::told(migrate::run(args).await),
            Some(Command::Partners(command)) => database::told(partners::run(command).await),
            Some(Command::Keys(command)) => database::told(keys::run(command).await),
            Some(Command::Listen(args)) => listen::run(args).await,
            Some(Command::Publish(args)) => publish::run(args).await,
            Some(Command::Bench(args)) => bench::run(args).await,
            Some(Command::Health(args)) => health::run(args).await,
        }
    }
}
