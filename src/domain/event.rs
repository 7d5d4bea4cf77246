//! Something that happened.

use chrono::{DateTime, Utc};

use super::id::{EventId, PartnerId};
use super::publication::{Attributes, OrderingKey};

/// The type of a test event, on every surface.
pub const TEST_EVENT_TYPE: &str = "HeraldTest";

/// An event about to be stored. `payload` is the event's data as it will be sent: bytes, never parsed again.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub id: EventId,
    pub partner: PartnerId,
    pub kind: String,
    pub source: String,
    pub payload: Vec<u8>,
    pub occurred_at: DateTime<Utc>,
    /// What filters may look at.
    pub attributes: Attributes,
    pub ordering_key: Option<OrderingKey>,
}

/// A stored event, as much of it as a delivery needs.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub kind: String,
    pub source: String,
    pub payload: Vec<u8>,
    pub occurred_at: DateTime<Utc>,
}
