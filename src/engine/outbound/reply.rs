//! How a call ended, in full. What of it a partner may know is settled where it becomes an outcome (`engine::post`).

use std::fmt;
use std::time::Duration;

use crate::domain::egress::Refusal;

#[derive(Debug)]
pub struct Reply {
    pub result: ReplyKind,
    pub latency: Duration,
    /// Whether a TCP connection was had. When hardly any host is reached, the outage is probably our own.
    pub reached: bool,
}

/// How a call ended. The texts are for operators and hold nothing of the receiver's own words.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplyKind {
    Answered {
        /// 100 to 999, whatever the receiver chose.
        status: u16,
        /// The header as it came, unless it is absurdly long.
        retry_after: Option<String>,
        /// When the receiver's clock says that it answered (`Date`), as it came, where there is a `retry_after` that may be a date of that clock.
        answered_at: Option<String>,
        /// At most `response_body_bytes_max`, any bytes whatever, secrets blanked.
        body: Vec<u8>,
        /// False where the rest was left unread.
        body_complete: bool,
    },
    TimedOut {
        phase: Phase,
    },
    Unreachable {
        reason: String,
    },
    Blocked {
        reason: Refusal,
    },
    /// Something was reached that did not speak HTTP to the end.
    BadResponse {
        /// Known when it was the body that broke.
        status: Option<u16>,
        reason: String,
    },
}

/// Where the time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Dns,
    Connect,
    Tls,
    FirstByte,
    Headers,
    Body { status: u16 },
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Dns => write!(f, "while resolving the name"),
            Phase::Connect => write!(f, "while connecting"),
            Phase::Tls => write!(f, "during the TLS handshake"),
            Phase::FirstByte => write!(f, "before any answer"),
            Phase::Headers => write!(f, "while reading the answer's headers"),
            Phase::Body { status } => write!(f, "while reading the body of an answer with status {status}"),
        }
    }
}

impl Phase {
    /// Whether nothing had been asked of the receiver yet.
    pub fn is_before_the_request(self) -> bool {
        matches!(self, Phase::Dns | Phase::Connect | Phase::Tls)
    }
}
