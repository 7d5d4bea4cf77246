//! One event on its way to one subscription, and the lease under which it is sent.

use std::sync::Arc;
use std::time::Instant;

use super::event::Event;
use super::id::{DeliveryId, PartnerId, SubscriptionId};

/// Where a delivery stands: its queue row, else its last final attempt. Nothing stores this twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Due now or later.
    Pending,
    /// Waiting for its subscription to become active again.
    Held,
    Delivered,
    /// Its retries are used up. Kept, listed, and can be queued again.
    Dead,
    /// Its subscription was deleted first.
    Cancelled,
    /// It left the retention window undelivered.
    Expired,
}

impl DeliveryState {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Held, Self::Delivered, Self::Dead, Self::Cancelled, Self::Expired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// The right of this process to send one delivery, until an instant.
///
/// A lease is for telling a dead sender from a slow one. It is not a lock on the callback, and it does not promise that nobody else ever
/// sends the same delivery: a process that stalls past its lease may. That is why every finish names the epoch it was leased under.
#[derive(Debug, Clone)]
pub struct Lease {
    pub partner: PartnerId,
    pub delivery: DeliveryId,
    pub subscription: SubscriptionId,
    pub event: Arc<Event>,
    /// Outcomes recorded in the present budget.
    pub attempts: i32,
    /// Rises with every change of owner; a finish under an older epoch changes nothing.
    pub epoch: i32,
    /// A test ping: tried once, whatever comes of it.
    pub probe: bool,
    /// How many leases of this delivery ended without a word.
    pub crashes: i16,
    /// Taken before the statement that granted the lease was sent, so that it never lies in our favour.
    pub until: Instant,
}
