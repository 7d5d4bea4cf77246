//! The `herald` binary: reads the command line and runs it.

use std::process::ExitCode;

use clap::Parser;
use herald::cli::Cli;
use mimalloc::MiMalloc;

/// Requests and deliveries allocate in one thread and free in another, which the C library's allocator does slowly.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
