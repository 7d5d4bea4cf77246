//! Where log lines go and what they look like. Who writes them, and what must not be in them, is the callers' matter.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::LogFormat;

/// Sends log lines to standard error, from here on and for the whole process; standard output is left to what a command
/// has to say. Call it once: a second call changes nothing.
///
/// # Errors
/// `directives` are none. Those of a checked [`crate::config::Config`] are.
pub fn install(directives: &str, format: LogFormat) -> Result<(), ParseError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(directives)?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let first = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(error) = first {
        tracing::debug!(%error, "log lines already have a place to go");
    }
    Ok(())
}
