//! Identities. Each noun has its own type, so that a delivery's id cannot be handed to something that wants an event's.

use uuid::Uuid;

/// Reads an id that a partner chose: a uuid in its hyphenated form, in whichever case. Braces, URNs and bare digits are no published form.
pub fn parse_uuid(text: &str) -> Result<Uuid, &'static str> {
    const HYPHENATED_BYTES: usize = 36;
    let parsed = (text.len() == HYPHENATED_BYTES).then(|| Uuid::try_parse(text).ok()).flatten();
    parsed.ok_or("must be a uuid in its hyphenated form")
}

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
    /// Several deliveries that are sent together; the `webhook-id` of everything sent for them.
    BatchId
    /// One try at one delivery.
    AttemptId
    /// A running Herald process; the owner of leases.
    NodeId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_a_uuid() {
        let id = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";
        assert_eq!(parse_uuid(id).map(|id| id.to_string()).as_deref(), Ok(id));
        assert_eq!(parse_uuid(&id.to_uppercase()), parse_uuid(id));
        let braced = format!("{{{id}}}");
        let urn = format!("urn:uuid:{id}");
        for bad in [
            "",
            "1",
            &id.replace('-', ""),
            &braced,
            &urn,
            &id[..35],
            &id.replace('d', "g"),
            &format!("{id} "),
        ] {
            assert!(parse_uuid(bad).is_err(), "{bad}");
        }
    }
}
