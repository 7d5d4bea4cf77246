//! One event on its way to one subscription, and the lease under which it is sent, alone or with others.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::event::Event;
use super::id::{BatchId, BundleId, DeliveryId, PartnerId, SubscriptionId};
use super::row_hint::RowHint;

/// Where a delivery stands: its queue row or its place in a bundle, else its last final attempt. Nothing stores this twice.
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

/// The right of this process to send one delivery, or a batch of them, until an instant.
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
    /// Held until now, and not tried since.
    pub draining: bool,
    /// How many leases of this delivery ended without a word.
    pub crashes: i16,
    /// Taken before the statement that granted the lease was sent, so that it never lies in our favour.
    pub until: Instant,
    /// What is sent together with it. A batch of one is a batch, too: its id is what the receiver knows.
    pub batch: Option<Box<Batch>>,
    pub at: Whereabouts,
    /// Whether others may wait for it to end, since it has an ordering key. Of a batch that is not known.
    pub in_line: bool,
}

/// Where the store has a delivery that is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// A row of its own; last seen there.
    Row(RowHint),
    /// In one row with others, from its birth on, unless it was given a row of its own meanwhile.
    Bundle(Bundle),
}

/// Deliveries that were leased by the statement that stored their events, in one row for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bundle {
    pub id: BundleId,
    /// How many deliveries it began with.
    pub size: usize,
}

/// Deliveries of one subscription that are sent together, whole or not at all, under an id of their own. The first of them is the lease's own.
#[derive(Debug, Clone)]
pub struct Batch {
    pub id: BatchId,
    /// In their order, without the first.
    pub others: Vec<Member>,
}

/// One delivery of a lease.
#[derive(Debug, Clone)]
pub struct Member {
    pub delivery: DeliveryId,
    pub event: Arc<Event>,
    pub epoch: i32,
}

impl Lease {
    /// Whether it was leased before, and given back or tried. So is whatever is sent again, redelivered or replayed.
    pub fn was_given_back(&self) -> bool {
        // One from its birth, or from its first claim, is of the epoch 0 or 1.
        self.epoch > 1
    }

    /// What the receiver knows it by, on every attempt.
    pub fn webhook_id(&self) -> Uuid {
        self.batch.as_ref().map_or(self.delivery.0, |batch| batch.id.0)
    }

    /// How many deliveries are sent under it.
    pub fn size(&self) -> usize {
        1 + self.others().len()
    }

    /// The deliveries that are sent with the first.
    pub fn others(&self) -> &[Member] {
        self.batch.as_ref().map_or(&[], |batch| &batch.others)
    }

    /// What is sent, in its order.
    pub fn events(&self) -> Vec<&Event> {
        std::iter::once(&*self.event).chain(self.others().iter().map(|other| &*other.event)).collect()
    }
}
