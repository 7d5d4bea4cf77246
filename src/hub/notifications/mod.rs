//! Callbacks that have names, and the subscriptions that share them: the notifications surface's use cases. Each change is one transaction,
//! and a partner's changes take turns.

mod callbacks;
mod subscriptions;

pub use callbacks::{ChangeCallback, CreateCallback};

/// Callbacks, and subscriptions, of one partner at most: so many that a list of them is still one answer.
pub const PER_PARTNER_MAX: i64 = 1_000;
