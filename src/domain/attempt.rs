//! One try at one delivery, and what came of it.

use chrono::{DateTime, Utc};

use super::id::AttemptId;

/// What came of an attempt, or what ended a delivery without one. Classified once, at the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver accepted it.
    Delivered,
    /// The receiver answered, with a status that its surface does not accept.
    Refused,
    /// No whole answer within the limits.
    TimedOut,
    /// No connection, or one that broke.
    Unreachable,
    /// The egress guard did not let it out.
    Blocked,
    /// The subscription was deleted before it was sent.
    Cancelled,
    /// Its event left the retention window before it was delivered.
    Expired,
    /// Sending it ended the process, again and again.
    Crashed,
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Delivered,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Blocked,
        Self::Cancelled,
        Self::Expired,
        Self::Crashed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Blocked => "blocked",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Crashed => "crashed",
        }
    }

    /// Whether something was sent, or would have been if it had got out: the others only end a delivery.
    pub fn is_of_an_attempt(self) -> bool {
        match self {
            Self::Delivered | Self::Refused | Self::TimedOut | Self::Unreachable | Self::Blocked => true,
            Self::Cancelled | Self::Expired | Self::Crashed => false,
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// An attempt as history keeps it.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: AttemptId,
    pub outcome: Outcome,
    pub status: Option<u16>,
    pub started_at: DateTime<Utc>,
    pub latency_ms: i32,
    /// At most the first 16 KiB of the answer's body, as bytes.
    pub response: Option<Vec<u8>>,
    /// For the operator: what exactly went wrong.
    pub detail: Option<String>,
    /// It came after its lease had passed to another: true, but it decided nothing.
    pub late: bool,
}
