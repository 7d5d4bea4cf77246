//! How a call ended: for operators in full, for partners in a few words.

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

/// How a call ended. The texts are for operators; partners are shown `Blocked` and `Unreachable` alike.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplyKind {
    Answered {
        /// 100 to 999, whatever the receiver chose.
        status: u16,
        /// The header as it came, unless it is absurdly long.
        retry_after: Option<String>,
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

impl ReplyKind {
    /// What the partner may know. Blocked, refused, filtered and unresolvable look alike, and so does whatever else
    /// happens before an answer is under way: told apart, they would make Herald a port scanner.
    pub fn partner_text(&self) -> String {
        match self {
            ReplyKind::Answered { status, .. } => format!("answered with status {status}"),
            ReplyKind::TimedOut { phase: Phase::FirstByte | Phase::Headers | Phase::Body { .. } } => {
                "did not answer in time".to_owned()
            }
            ReplyKind::TimedOut { phase: Phase::Dns | Phase::Connect | Phase::Tls }
            | ReplyKind::Unreachable { .. }
            | ReplyKind::Blocked { .. } => "could not be reached".to_owned(),
            ReplyKind::BadResponse { .. } => "did not answer with sound HTTP".to_owned(),
        }
    }

    /// All that is known, and nothing of the receiver's own words.
    pub fn operator_text(&self) -> String {
        match self {
            ReplyKind::Answered { .. } => self.partner_text(),
            ReplyKind::TimedOut { phase } => format!("timed out {phase}"),
            ReplyKind::Unreachable { reason } | ReplyKind::BadResponse { status: None, reason } => {
                reason.clone()
            }
            ReplyKind::Blocked { reason } => format!("blocked: {reason}"),
            ReplyKind::BadResponse { status: Some(status), reason } => {
                format!("status {status}, but {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_06_partners_cannot_tell_blocked_from_refused_or_unresolvable() {
        let address = std::net::IpAddr::from([10, 0, 0, 1]);
        let alike = [
            ReplyKind::Blocked { reason: Refusal::Address { address, why: "it is private" } },
            ReplyKind::Blocked { reason: Refusal::LoopbackName },
            ReplyKind::Unreachable { reason: "connecting to 10.0.0.1:443: refused".to_owned() },
            ReplyKind::Unreachable { reason: "partner.example cannot be resolved".to_owned() },
            ReplyKind::TimedOut { phase: Phase::Dns },
            ReplyKind::TimedOut { phase: Phase::Connect },
            ReplyKind::TimedOut { phase: Phase::Tls },
        ];
        let (mut partner, mut operator): (Vec<_>, Vec<_>) =
            alike.iter().map(|kind| (kind.partner_text(), kind.operator_text())).unzip();
        partner.dedup();
        operator.dedup();
        assert_eq!((partner.len(), operator.len()), (1, alike.len()));
    }
}
