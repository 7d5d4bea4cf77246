//! An event as a producer hands it in, checked: its type, its data byte for byte, what filters may look at, and the id that makes a repeat
//! recognisable. Knows neither JSON nor where the event goes.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256, digest};

use super::id::PartnerId;

/// In characters, of a type, an ordering key and a chosen id alike.
pub const NAME_CHARS_MAX: usize = 200;
pub const ATTRIBUTES_MAX: usize = 50;
pub const ATTRIBUTE_NAME_CHARS_MAX: usize = 100;
pub const ATTRIBUTE_VALUE_CHARS_MAX: usize = 1_000;

/// Something that a producer says has happened.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The line of the batch that it stands on, if it came in one: complaints name it.
    pub line: Option<usize>,
    /// Whose event it is; of whoever publishes it when absent.
    pub partner: Option<PartnerId>,
    pub kind: EventType,
    /// JSON text as it was sent.
    pub data: Vec<u8>,
    pub attributes: Attributes,
    pub ordering_key: Option<OrderingKey>,
    pub key: Option<EventKey>,
}

impl Publication {
    /// What complaints about a field call it.
    pub fn field(&self, name: &str) -> String {
        field(self.line, name)
    }

    /// Tells the same content from other content under the same chosen id. Parts are counted before they are hashed, so that none can
    /// pass for the end of another.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(self.kind.as_str().as_bytes());
        part(&self.data);
        part(self.ordering_key.as_ref().map_or("", OrderingKey::as_str).as_bytes());
        for (name, value) in self.attributes.iter() {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

/// A field's name in complaints, with the line of the batch before it.
pub fn field(line: Option<usize>, name: &str) -> String {
    line.map_or_else(|| name.to_owned(), |line| format!("line {line}: {name}"))
}

/// A name for what happened. One namespace serves all surfaces; a type that nobody subscribes to is a type, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType(String);

impl EventType {
    pub fn parse(text: String) -> Result<Self, &'static str> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        let matches = (1..=NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(known);
        if matches { Ok(Self(text)) } else { Err("must match ^[A-Za-z0-9._:/-]{1,200}$") }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Events with the same key are meant to arrive in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderingKey(String);

impl OrderingKey {
    pub fn parse(text: String) -> Result<Self, &'static str> {
        name(text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for it where it must be narrow. Two keys that share one are kept in one order, which costs speed and nothing else.
    pub fn digest(&self) -> i64 {
        let digest = digest(&SHA256, self.0.as_bytes());
        digest.as_ref().iter().take(8).fold(0, |number, byte| (number << 8) | i64::from(*byte))
    }
}

/// An id that the producer chose. Within a partner the same id is the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey(String);

impl EventKey {
    pub fn parse(text: String) -> Result<Self, &'static str> {
        name(text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn name(text: String) -> Result<String, &'static str> {
    let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains('\0');
    if fits { Ok(text) } else { Err("must be 1 to 200 characters long") }
}

/// What filters may look at: texts by name, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// Errors: which name is wrong (none for their number), and how.
    pub fn add(&mut self, name: &str, value: String) -> Result<(), &'static str> {
        if self.0.len() == ATTRIBUTES_MAX {
            return Err("is one attribute too many; at most 50 are allowed");
        }
        if !(1..=ATTRIBUTE_NAME_CHARS_MAX).contains(&name.chars().count()) || name.contains('\0') {
            return Err("must have a name of 1 to 100 characters");
        }
        if value.chars().count() > ATTRIBUTE_VALUE_CHARS_MAX {
            return Err("must be at most 1000 characters long");
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication() -> Publication {
        let mut attributes = Attributes::default();
        attributes.add("a", "b".to_owned()).unwrap();
        Publication {
            line: None,
            partner: None,
            kind: EventType::parse("order.paid".to_owned()).unwrap(),
            data: b"{}".to_vec(),
            attributes,
            ordering_key: OrderingKey::parse("k".to_owned()).ok(),
            key: EventKey::parse("1".to_owned()).ok(),
        }
    }

    #[test]
    fn a_type_is_of_few_characters() {
        let longest = "x".repeat(200);
        for good in ["a", "RedirectSessionCancelled", "com.example/order:paid-2_0", &longest] {
            assert!(EventType::parse(good.to_owned()).is_ok(), "{good}");
        }
        let too_long = "x".repeat(201);
        for bad in ["", " ", "a b", "a\n", "é", "a\0", "a\"", &too_long] {
            assert!(EventType::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_counted_in_characters() {
        assert!(EventKey::parse("é".repeat(200)).is_ok());
        for bad in [String::new(), "é".repeat(201), "a\0".to_owned()] {
            assert!(EventKey::parse(bad.clone()).is_err(), "{bad:?}");
            assert!(OrderingKey::parse(bad).is_err());
        }
    }

    #[test]
    fn attributes_are_bounded() {
        let mut attributes = Attributes::default();
        assert!(attributes.add("", "x".to_owned()).is_err());
        assert!(attributes.add("a\0", "x".to_owned()).is_err());
        assert!(attributes.add(&"n".repeat(101), "x".to_owned()).is_err());
        assert!(attributes.add("n", "v".repeat(1_001)).is_err());
        assert!(attributes.is_empty());
        for number in 0..ATTRIBUTES_MAX {
            attributes.add(&format!("n{number}"), "v".repeat(1_000)).unwrap();
        }
        assert!(attributes.add("more", "x".to_owned()).is_err());
    }

    #[test]
    fn every_part_of_the_content_counts_and_nothing_else() {
        let same = Publication { line: Some(3), key: None, ..publication() };
        assert_eq!(same.content_hash(), publication().content_hash());
        let mut other_attributes = Attributes::default();
        other_attributes.add("ab", String::new()).unwrap();
        for other in [
            Publication { kind: EventType("order.paid{}".to_owned()), data: Vec::new(), ..publication() },
            Publication { data: b"{ }".to_vec(), ..publication() },
            Publication { ordering_key: None, ..publication() },
            Publication { attributes: Attributes::default(), ..publication() },
            Publication { attributes: other_attributes, ..publication() },
        ] {
            assert_ne!(other.content_hash(), publication().content_hash(), "{other:?}");
        }
    }

    #[test]
    fn a_complaint_names_the_line_if_there_is_one() {
        assert_eq!(publication().field("data"), "data");
        assert_eq!(Publication { line: Some(17), ..publication() }.field("data"), "line 17: data");
    }
}
