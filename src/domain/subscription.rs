//! A standing wish to be told: which event types, to which callback, and in which state it is.

use chrono::{DateTime, Utc};

use super::id::{CallbackId, PartnerId, SubscriptionId};
use super::surface::Surface;
use super::version::Version;

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
