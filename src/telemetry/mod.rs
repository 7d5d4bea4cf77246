//! How the process tells how it is doing: log lines, metrics, and whether its workers live.
//!
//! The engine, the surfaces and the operator side all report here; this module knows none of them, only the domain's words.

pub mod health;
mod log_writer;
mod logging;
pub mod metrics;
mod pulse;

pub use health::{Health, Heartbeat};
pub use log_writer::last_words;
pub use logging::install;
pub use metrics::Metrics;
pub use pulse::Pulse;
