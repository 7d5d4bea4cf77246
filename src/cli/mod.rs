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

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{Arg, CommandFactory as _, Parser, Subcommand};

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

/// Variables of the environment that look like settings and are none. Kubernetes makes some for a service of that name.
fn unknown_settings(environment: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut commands = vec![Cli::command()];
    while let Some(command) = commands.pop() {
        known.extend(command.get_arguments().filter_map(Arg::get_env).map(OsStr::to_os_string));
        commands.extend(command.get_subcommands().cloned());
    }
    let of_a_service = |name: &str| {
        name == "HERALD_PORT" || name.starts_with("HERALD_PORT_") || name.starts_with("HERALD_SERVICE_")
    };
    let is_unknown = |name: &String| {
        name.starts_with("HERALD_") && !of_a_service(name) && !known.contains(OsStr::new(name))
    };
    environment.filter(is_unknown).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_no_setting_is_noticed() {
        let environment = [
            "HERALD_LISTEN",
            "HERALD_LISTN",
            "HERALD_API_KEY",
            "HERALD_OPERATOR_URL",
            "PATH",
            "HERALD_",
            "HERALD_PORT_8080_TCP",
        ];
        assert_eq!(unknown_settings(environment.map(str::to_owned).into_iter()), ["HERALD_LISTN", "HERALD_"]);
    }
}
