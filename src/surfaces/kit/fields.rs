//! A JSON object read field by field, so that every complaint names its field and all of them come at once (SECURITY rule 15).
//!
//! The body is taken apart one level at a time and each value is kept as raw text until somebody asks for it: a number that no type can
//! hold, a lone surrogate or a nested duplicate then has a name when it fails. What nobody asks for is ignored.

mod shape;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::Violations;

pub use shape::{Nullable, Shape};

/// Arrays and objects within each other at most.
const DEPTH_MAX: usize = 64;
/// Members of one object that is read field by field; of what is kept raw there may be any number.
const MEMBERS_MAX: usize = 1_000;
/// Members that are compared with each other, because that costs less than a set of their names. A batch may have thousands of larger objects.
const FEW: usize = 16;

/// Characters of a name of the client's own that complaints show. An answer that is remembered must not grow with the request.
const SHOWN_CHARS_MAX: usize = 100;

/// A name of the client's own, cut to what complaints show of it.
pub fn shown(name: &str) -> &str {
    name.char_indices().nth(SHOWN_CHARS_MAX).map_or(name, |(end, _)| &name[..end])
}

/// An object's fields, still raw, and what is wrong with them so far.
pub struct Fields<'a> {
    /// Where this object stands: `""` for the body, `transactionData.` for a member of it.
    prefix: String,
    values: Vec<(String, &'a RawValue)>,
    pub violations: Violations,
}

impl<'a> Fields<'a> {
    /// Takes a body apart. `whole` is the name that complaints about the body itself use.
    /// Errors: it is no JSON object, or nested too deeply.
    pub fn parse(body: &'a [u8], whole: &str) -> Result<Self, Violations> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(Violations::one(whole, "must not be empty; send a JSON object"));
        }
        let text = std::str::from_utf8(body).map_err(|_| Violations::one(whole, "must be UTF-8"))?;
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|error| Violations::one(whole, format!("is not valid JSON: {error}")))?;
        Self::of(raw, String::new(), whole)
    }

    fn of(raw: &'a RawValue, prefix: String, whole: &str) -> Result<Self, Violations> {
        if !raw.get().starts_with('{') {
            return Err(Violations::one(whole, "must be a JSON object"));
        }
        let members: Members<'a> = serde_json::from_str(raw.get())
            .map_err(|error| Violations::one(whole, format!("is not valid JSON: {error}")))?;
        if members.0.len() > MEMBERS_MAX {
            return Err(Violations::one(whole, format!("must have at most {MEMBERS_MAX} fields")));
        }
        let repeated = repeated(&members.0);
        let values = Vec::with_capacity(members.0.len());
        let mut fields = Self { prefix, values, violations: Violations::default() };
        for (place, (name, value)) in members.0.into_iter().enumerate() {
            if depth(value.get()) > DEPTH_MAX {
                fields.refuse(&name, "is nested too deeply");
            } else if repeated.contains(&place) {
                fields.refuse(&name, "is given twice");
            } else {
                fields.values.push((name, value));
            }
        }
        Ok(fields)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.violations.is_empty()
    }

    pub fn refuse(&mut self, name: &str, message: impl Into<String>) {
        self.violations.add(format!("{}{}", self.prefix, shown(name)), message);
    }

    /// The fields themselves, in their order, for who has types of their own.
    pub fn into_raw(self) -> (Vec<(String, &'a RawValue)>, Violations) {
        (self.values, self.violations)
    }

    /// Takes all fields, in their order, for who knows none of their names; each is then [`Self::checked`].
    pub fn take_all(&mut self) -> Vec<(String, &'a RawValue)> {
        std::mem::take(&mut self.values)
    }

    /// The field's raw value; `null` counts as a value.
    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Whether the object names the field, `null` included.
    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// A field that may be absent, read and checked. `null` is refused: an absent field says "nothing" already.
    pub fn optional<T, R, E>(&mut self, name: &str, check: impl FnOnce(T) -> Result<R, E>) -> Option<R>
    where
        T: Shape<'a>,
        E: fmt::Display,
    {
        let raw = self.raw(name)?;
        self.checked(name, raw, check)
    }

    /// A field's value, read and checked.
    pub fn checked<T, R, E>(
        &mut self,
        name: &str,
        raw: &'a RawValue,
        check: impl FnOnce(T) -> Result<R, E>,
    ) -> Option<R>
    where
        T: Shape<'a>,
        E: fmt::Display,
    {
        let checked = T::read(raw).and_then(|value| check(value).map_err(|error| error.to_string()));
        match checked {
            Ok(value) => Some(value),
            Err(message) => {
                self.refuse(name, message);
                None
            }
        }
    }

    /// A field that must be there.
    pub fn required<T, R, E>(&mut self, name: &str, check: impl FnOnce(T) -> Result<R, E>) -> Option<R>
    where
        T: Shape<'a>,
        E: fmt::Display,
    {
        if !self.has(name) {
            self.refuse(name, "is required");
            return None;
        }
        self.optional(name, check)
    }

    /// A member that is itself an object; `read` takes its fields, and their complaints carry its name.
    pub fn object<R>(&mut self, name: &str, read: impl FnOnce(&mut Fields<'a>) -> Option<R>) -> Option<R> {
        let raw = self.raw(name)?;
        let path = format!("{}{name}", self.prefix);
        self.within(raw, &path, read)
    }

    /// What `read` takes of an object, whose complaints carry its path.
    fn within<R>(
        &mut self,
        raw: &'a RawValue,
        path: &str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<R>,
    ) -> Option<R> {
        let mut inner = Self::of(raw, format!("{path}."), path)
            .map_err(|violations| self.violations.extend(violations))
            .ok()?;
        let value = read(&mut inner);
        self.violations.extend(inner.violations);
        value
    }

    /// A member that is an array of at most so many objects; `read` takes the fields of each, whose complaints carry its place:
    /// `filters[0].values`. `None` when it is not there, when it is no such array, or when `read` gave none for any of them.
    pub fn objects<R>(
        &mut self,
        name: &str,
        entries_max: usize,
        mut read: impl FnMut(&mut Fields<'a>) -> Option<R>,
    ) -> Option<Vec<R>> {
        let items = self.optional(name, |items: Vec<&'a RawValue>| {
            if items.len() > entries_max {
                return Err(format!("must have at most {entries_max} entries"));
            }
            Ok(items)
        })?;
        let mut values = Some(Vec::new());
        for (place, raw) in items.into_iter().enumerate() {
            if self.violations.has_more() {
                return None;
            }
            let path = format!("{}{name}[{place}]", self.prefix);
            let value = self.within(raw, &path, &mut read);
            values = values.zip(value).map(|(mut values, value)| {
                values.push(value);
                values
            });
        }
        values
    }
}

/// The places of the members that are named like one before them.
fn repeated(members: &[(String, &RawValue)]) -> HashSet<usize> {
    let (mut known, mut repeated) = (HashSet::new(), HashSet::new());
    for (place, (name, _)) in members.iter().enumerate() {
        let is_new = match members.len() {
            ..=FEW => members[..place].iter().all(|(known, _)| known != name),
            _ => known.insert(name.as_str()),
        };
        if !is_new {
            repeated.insert(place);
        }
    }
    repeated
}

/// Nesting depth of a JSON text that is known to be well-formed.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The members of an object in the order of the text, duplicates included. Errors: it is none, or a name in it is unreadable.
pub fn members(raw: &RawValue) -> Result<Vec<(String, &RawValue)>, serde_json::Error> {
    serde_json::from_str(raw.get()).map(|Members(members)| members)
}

/// An object's members in the order of the text, duplicates included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(body: &str, read: impl FnOnce(&mut Fields<'_>)) -> Vec<(String, String)> {
        let violations = match Fields::parse(body.as_bytes(), "body") {
            Ok(mut fields) => {
                read(&mut fields);
                fields.violations
            }
            Err(violations) => violations,
        };
        violations.iter().map(|one| (one.field.clone(), one.message.clone())).collect()
    }

    fn fine<T>(value: T) -> Result<T, String> {
        Ok(value)
    }

    #[test]
    fn rule_15_every_malformed_value_is_named_after_its_field() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for body in [
            r#"{"a":1e400}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"a":null}"#,
            r#"{"a":[]}"#,
            r#"{"a":{}}"#,
            r#"{"a":"x","a":"x"}"#,
            r#"{}"#,
            deep.as_str(),
        ] {
            let found = complaints(body, |fields| {
                fields.required("a", fine::<String>);
            });
            assert_eq!(found.len(), 1, "{}", &body[..body.len().min(60)]);
            assert_eq!(found[0].0, "a", "{}", &body[..body.len().min(60)]);
        }
        let found = complaints(r#"{"a":1e400}"#, |fields| {
            fields.required("a", fine::<serde_json::Number>);
        });
        assert_eq!(found[0].0, "a");
    }

    #[test]
    fn rule_15_a_name_that_nobody_asked_for_is_shown_cut() {
        let name = "é".repeat(100_000);
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        for body in [format!(r#"{{"{name}":1,"{name}":1}}"#), format!(r#"{{"{name}":{deep}}}"#)] {
            let shown: Vec<_> = complaints(&body, |_| {}).into_iter().map(|(field, _)| field).collect();
            assert_eq!(shown, ["é".repeat(100)]);
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_a_complaint_about_the_body() {
        for body in ["", " ", "[]", "1", "null", "{", r#"{"a"}"#, "{} {}", "\u{feff}{}"] {
            let found = complaints(body, |_| {});
            assert_eq!(found.first().map(|(field, _)| field.as_str()), Some("body"), "{body:?}");
        }
        assert!(Fields::parse(b"{\"a\":\"\xff\"}", "body").is_err());
    }

    const TREE: &str = r#"{"a":{"b":1,"b":2,"c":[1]},"d":true,"f":[{"g":1},{},3],"h":[{"g":1},{"g":2}]}"#;

    #[test]
    fn nested_fields_carry_their_path_and_everything_is_said_at_once() {
        let found = complaints(TREE, |fields| {
            fields.object("a", |inner| {
                inner.required("b", fine::<i64>);
                inner.required("c", fine::<Vec<String>>);
                inner.required("e", fine::<bool>);
                Some(())
            });
            let read = fields.objects("f", 3, |inner| inner.required("g", fine::<i64>));
            assert_eq!(read, None);
            assert_eq!(fields.objects("h", 2, |inner| inner.required("g", fine::<i64>)), Some(vec![1, 2]));
            assert_eq!(fields.objects("h", 1, |_| Some(())), None);
            fields.optional("d", |_: bool| Err::<(), _>("is refused"));
            fields.optional("absent", fine::<bool>);
        });
        let names: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(names, ["a.b", "a.c", "a.e", "f[1].g", "f[2]", "h", "d"]);
    }

    #[test]
    fn what_is_given_twice_is_named_once_however_many_members_there_are() {
        for others in [0, FEW, 100] {
            let others: String = (0..others).map(|number| format!("\"n{number}\":1,")).collect();
            let body = format!(r#"{{"a":1,{others}"b":1,"a":2,"a":3,"b":4}}"#);
            let found = complaints(&body, |fields| {
                assert_eq!(fields.required("a", fine::<i64>), Some(1), "the first stands");
            });
            let twice = |name: &str| (name.to_owned(), "is given twice".to_owned());
            assert_eq!(found, [twice("a"), twice("b")]);
        }
    }
}
