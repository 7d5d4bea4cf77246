//! What is about to be written: a tree of values that no format has touched yet. Objects name their contract, which only XML asks for.

use chrono::{DateTime, NaiveTime, Timelike as _, Utc};

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Left out wherever it is a member.
    Null,
    Bool(bool),
    Number(i64),
    /// Also an enum's bare name.
    Text(String),
    Date(DateTime<Utc>),
    List(&'static Contract, Vec<Value>),
    /// Members in the order of their declaration.
    Object(&'static Contract, Vec<(String, Value)>),
}

/// What XML has to know of an object: its name and namespace, and whether its members stand in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub struct Contract {
    pub name: &'static str,
    pub namespace: &'static str,
    pub is_alphabetical: bool,
}

impl Value {
    pub fn object<const N: usize>(contract: &'static Contract, members: [(&str, Value); N]) -> Self {
        Self::Object(contract, members.map(|(name, value)| (name.to_owned(), value)).into())
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Null when there is none.
    pub fn optional(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }
}

/// Writes lists and objects as JSON and JSV both do; how what is in them is written, and the names of members, is each format's own.
pub(super) fn append(
    out: &mut String,
    value: &Value,
    leaf: fn(&mut String, &Value),
    name: fn(&mut String, &str),
) {
    match value {
        Value::List(_, items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                append(out, item, leaf, name);
            }
            out.push(']');
        }
        Value::Object(_, members) => {
            out.push('{');
            let mut first = true;
            for (member, value) in members.iter().filter(|(_, value)| *value != Value::Null) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                name(out, member);
                out.push(':');
                append(out, value, leaf, name);
            }
            out.push('}');
        }
        _ => leaf(out, value),
    }
}

/// A moment as JSV and XML write it, to 100 ns and no more digits than it needs: a fraction has seven in JSV, and in XML those up to the last
/// that is not 0.
pub(super) fn iso(moment: DateTime<Utc>) -> String {
    let seconds = moment.format("%Y-%m-%dT%H:%M:%S");
    match moment.nanosecond() % 1_000_000_000 / 100 {
        0 => format!("{seconds}Z"),
        fraction => format!("{seconds}.{fraction:07}Z"),
    }
}

pub(super) fn is_midnight(moment: DateTime<Utc>) -> bool {
    moment.time() == NaiveTime::MIN
}
