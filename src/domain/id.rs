//! Identities. Each noun has its own type, so that a delivery's id cannot be handed to something that wants an event's.

use uuid::Uuid;

macro_rules! identity {
    ($($(#[$about:meta])* $name:ident)*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new, time-ordered id (version 7).
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}

identity! {
    /// The tenant that owns subscriptions, callbacks, sessions and events.
    PartnerId
    /// A partner's API key.
    ApiKeyId
    /// Somebody that a redirect session speaks of.
    CustomerId
    /// Where deliveries are sent.
    CallbackId
    /// A subscription, inside; what a surface publishes is its external key.
    SubscriptionId
    /// Something that happened.
    EventId
    /// One event on its way to one subscription; the `webhook-id` of everything sent for it.
    DeliveryId
    /// One try at one delivery.
    AttemptId
    /// A running Herald process; the owner of leases.
    NodeId
}
