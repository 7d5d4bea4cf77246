//! Identities. Each noun has its own type, so that a delivery's id cannot be handed to something that wants an event's.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use foldhash::fast::RandomState;
use uuid::Uuid;

/// A map by ids that are made here. Nobody can choose them so that they collide, and so a quick hash will do; what others may choose is kept in
/// the standard library's maps.
pub type IdMap<Id, V> = HashMap<Id, V, RandomState>;
/// As [`IdMap`].
pub type IdSet<Id> = HashSet<Id, RandomState>;

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
    /// Deliveries that were leased together with their events.
    BundleId
    /// One try at one delivery.
    AttemptId
    /// A running Herald process; the owner of leases.
    NodeId
    /// Many finished deliveries that are sent again by one job.
    ReplayId
}

impl DeliveryId {
    /// A new id that shares the millisecond of its event: "all deliveries of this event" is then a short range of ids.
    pub fn beside(event: EventId) -> Self {
        Self(at_millisecond_of(event.0, Uuid::now_v7()))
    }

    /// When it was made, which is when its event was: that is stored nowhere else.
    pub fn moment(self) -> DateTime<Utc> {
        let ms = i64::try_from(self.0.as_u128() >> RANDOM_BITS).expect("48 bits fit");
        DateTime::from_timestamp_millis(ms).unwrap_or_default()
    }
}

impl AttemptId {
    /// The same id for another millisecond of the epoch.
    #[must_use]
    pub fn at(self, millisecond: i64) -> Self {
        let bits = u128::from(millisecond.max(0) as u64) << RANDOM_BITS;
        Self(at_millisecond_of(Uuid::from_u128(bits), self.0))
    }
}

/// The bits of a version 7 id that follow its millisecond.
const RANDOM_BITS: u32 = 80;

fn at_millisecond_of(time: Uuid, random: Uuid) -> Uuid {
    const RANDOM: u128 = (1 << RANDOM_BITS) - 1;
    Uuid::from_u128(time.as_u128() & !RANDOM | random.as_u128() & RANDOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_takes_the_millisecond_that_it_is_given_and_stays_a_version_7() {
        let event = EventId::new();
        let (one, another) = (DeliveryId::beside(event).0, DeliveryId::beside(event).0);
        assert_ne!(one, another);
        for delivery in [one, another] {
            assert_eq!(delivery.get_version_num(), 7);
            assert_eq!(delivery.as_bytes()[..6], event.0.as_bytes()[..6]);
        }
        let attempt = AttemptId::new();
        let moved = attempt.at(1).0;
        assert_eq!((moved.get_version_num(), moved.as_bytes()[..6].to_vec()), (7, vec![0, 0, 0, 0, 0, 1]));
        assert_eq!(moved.as_bytes()[6..], attempt.0.as_bytes()[6..]);
    }

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
