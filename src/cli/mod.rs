//! The command line: which commands there are, and nothing of what they do. Each command is a module of its own.

pub mod listen;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tells partners' backends that something happened, reliably.
#[derive(Parser)]
#[command(name = "herald", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receive callbacks and print them, for developing and trying things out
    Listen(listen::ListenArgs),
}

impl Cli {
    pub async fn run(self) -> ExitCode {
        match self.command {
            Command::Listen(args) => listen::run(args).await,
        }
    }
}
