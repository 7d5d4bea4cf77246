//! What the notifications surface is made of: the published event types, names, filters, the status of a subscription, and the published
//! failures in their published order.

use super::{Error, Violations};
use crate::domain::subscription::SubscriptionState;

/// In characters, of a callback's or a subscription's name.
pub const NAME_CHARS_MAX: usize = 200;
pub const BATCH_SIZE_MAX: i64 = 200;
/// Filters of one subscription at most.
pub const FILTERS_MAX: usize = 100;
/// Campaign names in all filters of one subscription at most.
pub const CAMPAIGNS_MAX: usize = 1_000;
/// As long as an attribute's value may be.
pub const CAMPAIGN_CHARS_MAX: usize = 1_000;
/// What the filters of all of a partner's subscriptions may weigh, see [`weight_bytes`]: whoever matches an event has those of its type in memory.
pub const FILTERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a campaign's name weighs beside its bytes: about what it takes in memory beside them.
pub const CAMPAIGN_BYTES: usize = 24;
/// In characters.
pub const STATUS_REASON_CHARS_MAX: usize = 1_000;

/// Everything that can be subscribed to [published].
pub const EVENT_TYPES: [&str; 26] = [
    "EMAIL_BOUNCED",
    "EMAIL_FAILED",
    "EMAIL_SKIPPED",
    "EMAIL_CLICKED",
    "EMAIL_OPTOUT",
    "EMAIL_OPTIN",
    "EMAIL_COMPLAINT",
    "SMS_FAILED",
    "SMS_SKIPPED",
    "SMS_MO_FW_FAILED",
    "SMS_OPT_IN",
    "SMS_OPT_OUT",
    "SMS_RECEIPT",
    "MMS_SKIPPED",
    "MMS_FAILED",
    "PUSH_SKIPPED",
    "PUSH_FAILED",
    "PUSH_BOUNCED",
    "PUSH_OPT_IN",
    "PUSH_OPT_OUT",
    "WEBPUSH_FAILED",
    "WEBPUSH_SKIPPED",
    "WEBPUSH_BOUNCED",
    "WEBPUSH_CLOSED",
    "WEBPUSH_OPTIN",
    "WEBPUSH_OPTOUT",
];

/// What a partner calls a callback or a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// A name can be read, and be the last part of a URL, where clients take dots for places in a tree.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().count());
        if !fits || text.starts_with([' ', '.']) || text.chars().any(char::is_control) {
            return Err(
                "must have 1 to 200 characters, none a control character and the first no space or dot",
            );
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a partner sees of a subscription's state. One that Herald disabled is shown as paused, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    Paused,
}

impl Status {
    pub fn of(state: SubscriptionState) -> Self {
        match state {
            SubscriptionState::Active => Self::Active,
            SubscriptionState::Paused | SubscriptionState::Disabled | SubscriptionState::Deleted => {
                Self::Paused
            }
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Paused => "PAUSED",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Paused].into_iter().find(|status| status.as_str() == text)
    }
}

/// Lets only events of certain campaigns pass, of the event types that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub event_types: Vec<String>,
    /// Of each criterion, the names of its campaigns.
    pub campaign_names: Vec<Vec<String>>,
}

/// The campaigns whose events of this type pass; `None` when no filter names the type, so that all do.
pub fn passing_campaigns(filters: &[Filter], event_type: &str) -> Option<Vec<String>> {
    let naming: Vec<&Filter> =
        filters.iter().filter(|filter| filter.event_types.iter().any(|named| named == event_type)).collect();
    if naming.is_empty() {
        return None;
    }
    let mut campaigns: Vec<String> =
        naming.iter().flat_map(|filter| filter.campaign_names.iter().flatten().cloned()).collect();
    campaigns.sort_unstable();
    campaigns.dedup();
    Some(campaigns)
}

/// What filters count against [`FILTERS_BYTES_MAX`]: each campaign's name once for each type that it is given for.
pub fn weight_bytes(filters: &[Filter]) -> usize {
    let name = |name: &String| CAMPAIGN_BYTES + name.len();
    let names = |filter: &Filter| filter.campaign_names.iter().flatten().map(name).sum::<usize>();
    filters.iter().map(|filter| filter.event_types.len() * names(filter)).sum()
}

/// What a request wants a subscription to be, as it was said: in the published order, whether it makes sense is told only once the
/// subscription and its callback are known to exist.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub callback: String,
    /// An entry is `None` where there was a `null`.
    pub event_types: Vec<Option<String>>,
    /// Absent, `null`, or a text.
    pub status: Option<Option<String>>,
    /// Absent or, by a `null` or an empty text, taken back.
    pub status_reason: Option<Option<String>>,
    /// Absent ones stay as they are.
    pub filters: Option<Vec<Filter>>,
}

/// A wish that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    /// In the order in which they were asked for, each once.
    pub event_types: Vec<String>,
    pub status: Option<Status>,
    pub status_reason: Option<Option<String>>,
    pub filters: Option<Vec<Filter>>,
}

impl Wish {
    /// Errors: the first of the published failures that a request can show by itself.
    pub fn grant(self) -> Result<Granted, Refused> {
        let asked = self.event_types.iter().flatten().filter(|name| !name.trim().is_empty());
        let filtered = self.filters.iter().flatten().flat_map(|filter| &filter.event_types);
        if let Some(unknown) = asked.chain(filtered).find(|name| !EVENT_TYPES.contains(&name.as_str())) {
            return Err(Refused::UnsupportedEvent(unknown.clone()));
        }
        let named: Vec<String> =
            self.event_types.iter().flatten().filter(|name| !name.trim().is_empty()).cloned().collect();
        if named.is_empty() || named.len() < self.event_types.len() {
            return Err(Refused::NoEvents);
        }
        let status = match self.status {
            None => None,
            Some(None) => return Err(Refused::NoStatus),
            Some(Some(text)) if text.is_empty() => return Err(Refused::NoStatus),
            Some(Some(text)) => Some(Status::parse(&text).ok_or(Refused::OtherStatus)?),
        };
        let mut sorted: Vec<&String> = named.iter().collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Refused::EventTwice);
        }
        let status_reason = self.status_reason.map(|reason| reason.filter(|text| !text.is_empty()));
        Ok(Granted { event_types: named, status, status_reason, filters: self.filters })
    }
}

/// Why the notifications surface does not do what was asked. In an update, the first in the order of the first eight wins.
#[derive(Debug)]
pub enum Refused {
    /// An update of a subscription that is not there.
    UnknownSubscription(String),
    /// The subscription of this name was to use a callback that is not there.
    UnknownCallback {
        subscription: String,
    },
    UnsupportedEvent(String),
    NoEvents,
    NoStatus,
    OtherStatus,
    EventTwice,
    /// By another active subscription of the same partner.
    EventTaken(String),
    SubscriptionNameTaken,
    /// A reading or a deletion of a subscription that is not there.
    NoSubscription(String),
    NoCallback(String),
    CallbackNameTaken(String),
    CallbackInUse,
    /// By its URL.
    CallbackUnreachable(String),
    Other(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Violations> for Refused {
    fn from(violations: Violations) -> Self {
        Self::Other(violations.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(event_types: &[&str]) -> Wish {
        let event_types = event_types.iter().map(|name| Some(name.to_string())).collect();
        Wish { callback: "c".to_owned(), event_types, ..Wish::default() }
    }

    fn filter(event_types: &[&str], campaigns: &[&[&str]]) -> Filter {
        let texts = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        Filter {
            event_types: texts(event_types),
            campaign_names: campaigns.iter().map(|list| texts(list)).collect(),
        }
    }

    #[test]
    fn the_first_failure_in_the_published_order_is_told() {
        let told = |wish: Wish| match wish.grant() {
            Ok(_) => "granted".to_owned(),
            Err(refused) => format!("{refused:?}"),
        };
        let status = |status: Option<&str>| Some(status.map(str::to_owned));
        let twice = ["SMS_FAILED", "SMS_FAILED"];
        for (wish, expected) in [
            (wish(&["SMS_FAILED"]), "granted"),
            (Wish { status: status(Some("PAUSED")), ..wish(&["SMS_FAILED"]) }, "granted"),
            (wish(&["SMS_FAILED1", "SMS_FAILED"]), "UnsupportedEvent(\"SMS_FAILED1\")"),
            (wish(&["", "sms_failed"]), "UnsupportedEvent(\"sms_failed\")"),
            (
                Wish { filters: Some(vec![filter(&["X"], &[&["c"]])]), ..wish(&["SMS_FAILED"]) },
                "UnsupportedEvent(\"X\")",
            ),
            (Wish { status: status(None), ..wish(&["X"]) }, "UnsupportedEvent(\"X\")"),
            (wish(&[]), "NoEvents"),
            (wish(&[""]), "NoEvents"),
            (Wish { event_types: vec![None], ..wish(&[]) }, "NoEvents"),
            (Wish { event_types: vec![Some("SMS_FAILED".to_owned()), None], ..wish(&[]) }, "NoEvents"),
            (Wish { status: status(Some("")), ..wish(&[]) }, "NoEvents"),
            (Wish { status: status(None), ..wish(&twice) }, "NoStatus"),
            (Wish { status: status(Some("")), ..wish(&twice) }, "NoStatus"),
            (Wish { status: status(Some("active")), ..wish(&twice) }, "OtherStatus"),
            (Wish { status: status(Some("ACTIVE ")), ..wish(&twice) }, "OtherStatus"),
            (Wish { status: status(Some("ACTIVE")), ..wish(&twice) }, "EventTwice"),
        ] {
            assert_eq!(told(wish.clone()), expected, "{wish:?}");
        }
    }

    #[test]
    fn an_event_passes_if_no_filter_names_its_type_or_one_that_does_lists_its_campaign() {
        let filters = [
            filter(&["EMAIL_FAILED", "SMS_FAILED"], &[&["a"], &["b", "c"]]),
            filter(&["SMS_FAILED"], &[&["d", "a"]]),
        ];
        let passing = |kind: &str| passing_campaigns(&filters, kind);
        assert_eq!(passing("EMAIL_BOUNCED"), None);
        assert_eq!(passing("EMAIL_FAILED").unwrap(), ["a", "b", "c"]);
        assert_eq!(passing("SMS_FAILED").unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(passing_campaigns(&[], "EMAIL_FAILED"), None);
    }

    #[test]
    fn a_filter_weighs_its_names_once_for_each_of_its_types() {
        assert_eq!(weight_bytes(&[]), 0);
        assert_eq!(weight_bytes(&[filter(&["X"], &[&["é"]])]), CAMPAIGN_BYTES + 2);
        let two = [filter(&["X", "Y"], &[&["a", "bc"], &["d"]]), filter(&["X"], &[&["a"]])];
        assert_eq!(weight_bytes(&two), 2 * (3 * CAMPAIGN_BYTES + 4) + CAMPAIGN_BYTES + 1);
    }

    #[test]
    fn a_name_can_be_read_and_be_part_of_a_url() {
        let longest = "é".repeat(NAME_CHARS_MAX);
        for good in ["a", "Email Callback", "a/b?c#d", "%2F", "a.", longest.as_str()] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        let too_long = "x".repeat(NAME_CHARS_MAX + 1);
        for bad in ["", " ", " a", ".", "..", "a\n", "a\0", "\u{85}", too_long.as_str()] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }
}
