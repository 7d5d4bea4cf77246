//! A standing wish to be told: which event types, to which callback, and in which state it is.

use chrono::{DateTime, Utc};

use super::id::{CallbackId, PartnerId, SubscriptionId};
use super::surface::Surface;
use super::version::Version;

/// The type of the event that tells a partner that one of its subscriptions was disabled (SECURITY rule 21).
pub const DISABLED_EVENT_TYPE: &str = "HeraldSubscriptionDisabled";

/// Active deliveries flow; paused (by its owner) and disabled (by us) ones are held until it is active again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionState {
    Active,
    Paused,
    Disabled,
    Deleted,
}

impl SubscriptionState {
    pub const ALL: [Self; 4] = [Self::Active, Self::Paused, Self::Disabled, Self::Deleted];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A subscription as its owner sees it. It has no secret in it, so that showing it cannot show one.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub partner: PartnerId,
    pub surface: Surface,
    /// The id or name that the surface publishes.
    pub external_key: String,
    pub callback: CallbackId,
    pub callback_url: String,
    pub event_types: Vec<String>,
    pub state: SubscriptionState,
    pub state_reason: Option<String>,
    pub version: Version,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// The event types that a redirect subscription may name [published].
pub const REDIRECT_EVENT_TYPES: [&str; 1] = [REDIRECT_SESSION_CANCELLED];
pub const REDIRECT_SESSION_CANCELLED: &str = "RedirectSessionCancelled";

/// The event types of a redirect subscription, sorted.
/// Errors: there are none, an unknown one, or one twice.
pub fn redirect_event_types(mut names: Vec<String>) -> Result<Vec<String>, String> {
    if names.is_empty() {
        return Err("must have at least one entry".to_owned());
    }
    if names.iter().any(|name| !REDIRECT_EVENT_TYPES.contains(&name.as_str())) {
        return Err(format!("each entry must be one of {}", REDIRECT_EVENT_TYPES.join(", ")));
    }
    names.sort();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("must not have the same entry twice".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_subscription_names_each_published_type_at_most_once() {
        let parse =
            |names: &[&str]| redirect_event_types(names.iter().map(|name| name.to_string()).collect());
        assert_eq!(parse(&[REDIRECT_SESSION_CANCELLED]).unwrap(), [REDIRECT_SESSION_CANCELLED]);
        let twice = [REDIRECT_SESSION_CANCELLED; 2];
        for bad in
            [&[][..], &twice, &["redirectSessionCancelled"], &[""], &[REDIRECT_SESSION_CANCELLED, "Other"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
