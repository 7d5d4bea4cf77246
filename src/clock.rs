//! The one place that reads the wall clock.
//!
//! Decisions take the time as an argument, and SQL asks `herald_now()`; whoever has neither asks here. This module does
//! not know what the time is for.

use chrono::{DateTime, Utc};

/// The time by this machine's clock. Never compare it with times that the database wrote: the two clocks may differ.
#[expect(clippy::disallowed_methods, reason = "this is the module that the rule sends everybody to")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
