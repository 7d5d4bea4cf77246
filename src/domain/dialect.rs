//! How a surface speaks to a callback: the one thing the engine asks of it.

use uuid::Uuid;

use super::event::Event;
use super::secret::Secret;

/// What a dialect may look at: one delivery, or a batch of them, under one id.
pub struct Outgoing<'a> {
    /// What the receiver sees as the `webhook-id`, the same on every attempt: of a single delivery the delivery's id, of a batch the batch's.
    pub id: Uuid,
    /// Of one subscription, in the order in which they are to be read. More than one only where the callback asked for batches, none only
    /// where such a callback is tried out.
    pub events: &'a [&'a Event],
    /// The callback's secret as its surface stored it.
    pub credentials: Option<&'a Secret>,
}

impl<'a> Outgoing<'a> {
    /// The event of a surface whose callbacks take one at a time.
    pub fn only(&self) -> &'a Event {
        self.events
            .first()
            .expect("nothing is sent without an event, and only callbacks that ask for batches get them")
    }
}

/// A header to send. A sensitive value is never logged and never indexed on the wire.
pub struct OutgoingHeader {
    pub name: &'static str,
    pub value: Vec<u8>,
    pub sensitive: bool,
}

impl OutgoingHeader {
    pub fn plain(name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        Self { name, value: value.into(), sensitive: false }
    }

    pub fn sensitive(name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        Self { name, value: value.into(), sensitive: true }
    }
}

/// A request's own headers and its body. The engine adds the content length, the signature headers and `User-Agent`.
pub struct Rendered {
    pub headers: Vec<OutgoingHeader>,
    pub body: Vec<u8>,
}

/// Renders deliveries of one surface. Pure: the same delivery renders to the same bytes on every attempt.
pub trait Dialect: Send + Sync {
    fn render(&self, outgoing: &Outgoing<'_>) -> Rendered;

    /// Every form in which a receiver could say the credentials back to us: blanked in what is kept of its answer.
    fn spellings(&self, credentials: &Secret) -> Vec<Secret> {
        vec![credentials.clone()]
    }

    /// Whether an answer's status means that the receiver has taken it. Any 2xx, unless a surface says otherwise.
    fn accepts(&self, status: u16) -> bool {
        (200..300).contains(&status)
    }
}
