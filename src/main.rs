//! The `herald` binary: reads the command line and runs it.

use std::process::ExitCode;

use clap::Parser;
use herald::cli::Cli;
use mimalloc::MiMalloc;

/// Requests and deliveries allocate in one thread and free in another, which the C library's allocator does slowly.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let command = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a new process threads and a poller");
    let code = runtime.block_on(command.run());
    // Not dropped: that would wait for names that are still being resolved, for as long as the resolver likes.
    runtime.shutdown_background();
    code
}
