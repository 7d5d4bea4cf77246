//! JSV: JSON whose texts are quoted only where they have to be, as CSV does it.
//!
//! Writing: no white space; a text is quoted if it holds any of `" : , { } [ ] CR LF`, and a quote in it is doubled; the empty text is `""`;
//! null members are left out; `True` and `False`; dates unquoted. Reading is more patient: white space around names, values and brackets
//! counts for nothing, so that pretty-printed samples can be sent as they are, and an unquoted value runs to the `,` or the bracket that ends
//! what it is in.

use chrono::{DateTime, Utc};

use super::node::Node;
use super::value::{Value, append, is_midnight, iso};

/// Objects and lists within each other at most.
const DEPTH_MAX: usize = 64;

pub fn write(value: &Value) -> String {
    let mut out = String::new();
    append(&mut out, value, append_leaf, append_text);
    out
}

fn append_leaf(out: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Text(text) => append_text(out, text),
        Value::Date(moment) => out.push_str(&date(*moment)),
        // No leaf: `append` writes it.
        Value::List(..) | Value::Object(..) => {}
    }
}

fn append_text(out: &mut String, text: &str) {
    if !text.is_empty() && !text.contains(['"', ':', ',', '{', '}', '[', ']', '\r', '\n']) {
        out.push_str(text);
        return;
    }
    out.push('"');
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

fn date(moment: DateTime<Utc>) -> String {
    if is_midnight(moment) { moment.format("%Y-%m-%d").to_string() } else { iso(moment) }
}

/// Why a text is no JSV, and at which byte that shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    what: &'static str,
    at: usize,
}

/// Reads one value, which is all that there may be. Never panics, whatever the text.
pub fn read(text: &str) -> Result<Node, Malformed> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value(Within::Nothing, 0)?;
    reader.skip_space();
    if reader.peek().is_some() { Err(reader.wrong("something follows the value")) } else { Ok(node) }
}

/// What a value stands in, which says where it ends if it is not quoted.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Nothing,
    List,
    Object,
}

impl Within {
    fn ends_at(self, byte: u8) -> bool {
        match self {
            Self::Nothing => false,
            Self::List => byte == b',' || byte == b']',
            Self::Object => byte == b',' || byte == b'}',
        }
    }
}

/// Stands at a byte. All bytes that mean something are ASCII, so that it never stops inside a character.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, within: Within, depth: usize) -> Result<Node, Malformed> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("nested too deeply"));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => {
                let text = self.quoted()?;
                self.skip_space();
                match self.peek() {
                    Some(byte) if !within.ends_at(byte) => Err(self.wrong("something follows a quoted text")),
                    _ => Ok(Node::Word(text)),
                }
            }
            _ => {
                let text = self.unquoted(|byte| within.ends_at(byte));
                Ok(if text.is_empty() { Node::Null } else { Node::Word(text) })
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, Malformed> {
        self.at += 1;
        let mut members = Vec::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(Node::Object(members));
        }
        loop {
            let name = self.name()?;
            let value = self.value(Within::Object, depth + 1)?;
            members.push((name, value));
            self.skip_space();
            if self.take(b'}') {
                return Ok(Node::Object(members));
            }
            if !self.take(b',') {
                return Err(self.wrong("an object does not end"));
            }
        }
    }

    /// A member's name and the colon behind it.
    fn name(&mut self) -> Result<String, Malformed> {
        self.skip_space();
        let name = match self.peek() {
            Some(b'"') => self.quoted()?,
            _ => self.unquoted(|byte| matches!(byte, b':' | b',' | b'{' | b'}' | b'[' | b']' | b'"')),
        };
        self.skip_space();
        if self.take(b':') { Ok(name) } else { Err(self.wrong("a name has no value")) }
    }

    fn list(&mut self, depth: usize) -> Result<Node, Malformed> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Node::List(items));
        }
        loop {
            items.push(self.value(Within::List, depth + 1)?);
            self.skip_space();
            if self.take(b']') {
                return Ok(Node::List(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("a list does not end"));
            }
        }
    }

    /// Stands at the opening quote; ends behind the closing one.
    fn quoted(&mut self) -> Result<String, Malformed> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(length) = rest.find('"') else { return Err(self.wrong("a quoted text does not end")) };
            text.push_str(&rest[..length]);
            self.at += length + 1;
            if !self.take(b'"') {
                return Ok(text);
            }
            text.push('"');
        }
    }

    fn unquoted(&mut self, ends_at: impl Fn(u8) -> bool) -> String {
        let rest = &self.text[self.at..];
        let length = rest.bytes().position(ends_at).unwrap_or(rest.len());
        self.at += length;
        rest[..length].trim_matches(is_space).to_owned()
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches(is_space).len();
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests;
