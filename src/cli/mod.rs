//! The command line: which commands there are, and nothing of what they do. Each command is a module of its own.

pub mod health;
pub mod listen;
pub mod partners;
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
    Serve(RawConfig),
    /// Receive callbacks and print them, for developing and trying things out
    Listen(listen::ListenArgs),
    /// Ask the server on this machine whether it is ready; exits 0 if it is, 1 if not
    Health(health::HealthArgs),
    /// Make partners in the database
    #[command(subcommand)]
    Partners(partners::PartnersCommand),
    /// Make API keys in the database
    #[command(subcommand)]
    Keys(partners::KeysCommand),
}

impl Cli {
    pub async fn run(self) -> ExitCode {
        match self.command {
            None => serve::run(&self.settings).await,
            Some(Command::Serve(settings)) => serve::run(&settings).await,
            Some(Command::Listen(args)) => listen::run(args).await,
            Some(Command::Health(args)) => health::run(args).await,
            Some(Command::Partners(command)) => partners::partners(command).await,
            Some(Command::Keys(command)) => partners::keys(command).await,
        }
    }
}
