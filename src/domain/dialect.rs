//! How a surface speaks to a callback: the one thing the engine asks of it.

use super::event::Event;
use super::id::DeliveryId;
use super::secret::Secret;

/// What a dialect may look at. `credentials` is the callback's secret as its surface stored it.
pub struct Outgoing<'a> {
    pub delivery: DeliveryId,
    pub event: &'a Event,
    pub credentials: Option<&'a Secret>,
}

/// A header to send. A sensitive value is never logged and never indexed on the wire.
pub struct OutgoingHeader {
    pub name: &'static str,
    pub value: Vec<u8>,
    pub sensitive: bool,
}

/// A request's own headers and its body. The engine adds the content length, the signature headers and `User-Agent`.
pub struct Rendered {
    pub headers: Vec<OutgoingHeader>,
    pub body: Vec<u8>,
}

/// Renders deliveries of one surface. Pure: the same delivery renders to the same bytes on every attempt.
pub trait Dialect: Send + Sync {
    fn render(&self, outgoing: &Outgoing<'_>) -> Rendered;

    /// Whether an answer's status means that the receiver has taken it. Any 2xx, unless a surface says otherwise.
    fn accepts(&self, status: u16) -> bool {
        (200..300).contains(&status)
    }
}
