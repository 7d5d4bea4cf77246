//! The `herald` binary: reads the command line and runs it.

use std::process::ExitCode;

use clap::Parser;
use herald::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
