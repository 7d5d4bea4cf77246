//! What a webhook subscription is made of, besides what all subscriptions have: one event, a secret of its owner's choosing, an account.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::attempt::Outcome;
use super::id::{AttemptId, EventId};
use super::recipient_key::RecipientKey;
use super::secret::Secret;
use super::subscription::Subscription;

const EVENT_CHARS: std::ops::RangeInclusive<usize> = 4..=100;
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 8..=512;
const NAME_CHARS_MAX: usize = 100;
const ACCOUNT_CHARS_MAX: usize = 100;

/// The only content type that deliveries may have.
pub const CONTENT_TYPE: &str = "application/json";
/// What history shows of one subscription.
const HISTORY_MAX: i64 = 100;
/// Of each where more than [`MANY`] are shown together: a thousand whole histories would be a hundred thousand attempts.
const HISTORY_OF_MANY_MAX: i64 = 10;
const MANY: usize = 100;

/// A subscription to one event, as its owner sees it. The secret is not in it.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub subscription: Subscription,
    pub name: Option<String>,
    /// Where the secret is encrypted to before it is shown; without one it is not shown at all.
    pub recipient: Option<RecipientKey>,
}

impl Webhook {
    pub fn event(&self) -> &str {
        self.subscription.event_types.first().map(String::as_str).unwrap_or_default()
    }
}

/// One attempt as a webhook's history shows it.
#[derive(Debug, Clone)]
pub struct Tried {
    pub id: AttemptId,
    pub event: EventId,
    pub attempted_at: DateTime<Utc>,
    pub outcome: Outcome,
    pub status: Option<u16>,
}

/// An event's name: `^[\d\w\-_]{4,100}$`, as published; of ASCII, because it goes into a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventName(String);

impl EventName {
    pub fn parse(text: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let matches = EVENT_CHARS.contains(&text.len()) && text.bytes().all(known);
        matches.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The secret that signs deliveries and proves who owns the subscription: base64 text, whose characters themselves are the key.
#[derive(Debug, Clone)]
pub struct WebhookSecret(Secret);

impl WebhookSecret {
    /// `None` unless it is padded base64 of 8 to 512 characters.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches('=');
        let padding = text.len() - digits.len();
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        let is_base64 = text.len().is_multiple_of(4) && padding <= 2 && digits.bytes().all(known);
        (is_base64 && SECRET_CHARS.contains(&text.len())).then(|| Self(Secret::new(text)))
    }

    /// What the store kept.
    pub fn from_stored(secret: Secret) -> Self {
        Self(secret)
    }

    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// Whether this is the secret. Takes the same time for every wrong one, whatever its length.
    pub fn is(&self, presented: &Secret) -> bool {
        let own = digest(&SHA256, self.0.expose());
        let other = digest(&SHA256, presented.expose());
        verify_slices_are_equal(own.as_ref(), other.as_ref()).is_ok()
    }
}

/// The account that a subscription is for. Within it an event may be subscribed to once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountId(String);

impl AccountId {
    pub fn parse(text: &str) -> Option<Self> {
        printable(text, ACCOUNT_CHARS_MAX).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest that stands for the account in an index; no account is an account of its own.
    pub fn digest_of(account: Option<&Self>) -> [u8; 32] {
        let text = account.map_or("", Self::as_str);
        digest(&SHA256, text.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }
}

/// How many attempts history shows of each of so many subscriptions.
pub fn history_max(subscriptions: usize) -> i64 {
    if subscriptions > MANY { HISTORY_OF_MANY_MAX } else { HISTORY_MAX }
}

/// A subscription's name, if it is one: printable and not too long.
pub fn name(text: &str) -> Option<String> {
    printable(text, NAME_CHARS_MAX).then(|| text.to_owned())
}

fn printable(text: &str, chars_max: usize) -> bool {
    (1..=chars_max).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// A GUID in one of the forms in which the published library takes it: with or without hyphens, with or without braces.
pub fn guid(text: &str) -> Option<Uuid> {
    let inner = text.strip_prefix('{').map_or(Some(text), |rest| rest.strip_suffix('}'))?;
    // The parser would also take URNs.
    matches!(inner.len(), 32 | 36).then(|| Uuid::try_parse(inner).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_names_follow_the_published_expression() {
        let longest = "e".repeat(100);
        for good in ["abcd", "Order_paid-2", "____", "2030", longest.as_str()] {
            assert!(EventName::parse(good).is_some(), "{good}");
        }
        let too_long = "e".repeat(101);
        for bad in ["", "abc", "order.paid", "order paid", "abcd\n", "ordér", "a:bcd", too_long.as_str()] {
            assert!(EventName::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn secrets_are_base64_of_eight_or_more_characters() {
        let longest = "QUJD".repeat(128);
        for good in ["c2VjcmV0", "c2VjcmU=", "c2VjcmVjcg==", "+/+/+/+/", longest.as_str()] {
            assert!(WebhookSecret::parse(good).is_some(), "{good}");
        }
        let too_long = "QUJD".repeat(129);
        for bad in [
            "",
            "QUJD",
            "c2VjcmV",
            "c2VjcmV0=",
            "c2Vjc===",
            "c2=jcmV0",
            "c2Vj-mV0",
            "c2Vj mV0",
            "c2VjcmV0\n",
            "geheimé",
            too_long.as_str(),
        ] {
            assert!(WebhookSecret::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_is_only_itself_and_says_nothing() {
        let secret = WebhookSecret::parse("c2VjcmV0").unwrap();
        assert!(secret.is(&Secret::new("c2VjcmV0")));
        for other in ["", "c2VjcmV", "c2VjcmV1", "c2VjcmV0c2VjcmV0", "C2VjcmV0"] {
            assert!(!secret.is(&Secret::new(other)), "{other}");
        }
        assert!(!format!("{secret:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn guids_come_in_the_forms_of_the_published_expression() {
        let id = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";
        let plain = id.replace('-', "");
        for good in
            [id.to_owned(), id.to_uppercase(), plain.clone(), format!("{{{id}}}"), format!("{{{plain}}}")]
        {
            assert_eq!(guid(&good).map(|id| id.to_string()).as_deref(), Some(id), "{good}");
        }
        let urn = format!("urn:uuid:{id}");
        let open = format!("{{{id}");
        for bad in ["", "1", "String", &urn, &open, &id[1..], &format!("{id} "), &id.replace('d', "g")] {
            assert!(guid(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_and_accounts_are_short_and_printable() {
        assert!(name("Orders, paid").is_some() && AccountId::parse(&"é".repeat(100)).is_some());
        for bad in [String::new(), "é".repeat(101), "a\0".to_owned(), "a\nb".to_owned()] {
            assert!(name(&bad).is_none() && AccountId::parse(&bad).is_none(), "{bad:?}");
        }
        assert_ne!(AccountId::digest_of(None), AccountId::digest_of(AccountId::parse("1").as_ref()));
    }
}
