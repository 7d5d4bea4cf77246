//! A request's members, wherever they came from: the body, the path, the query; of one name the later counts. Names ignore case.
//!
//! Complaints are collected, so that all of them can be told at once, each under its member's name. A member that is null or an empty text
//! is as good as absent.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;

use super::multipart;
use crate::domain::Violations;
use crate::surfaces::kit::body::essence;
use crate::surfaces::kit::fields::{Fields, shown};
use crate::surfaces::kit::guard::Trouble;
use crate::surfaces::webhooks::format::{Format, Node, jsv, xml};

/// What complaints about the body as a whole name.
const BODY: &str = "body";
/// Members of one object at most, and pairs of one form or query.
const MEMBERS_MAX: usize = 1_000;

/// Has secrets among its members, and so no `Debug`.
#[derive(Default)]
pub struct Input {
    /// Where complaints say that this object stands: empty for the request, `subscriptions[0].` for an entry.
    prefix: String,
    /// Under their names in lower case.
    members: HashMap<String, Node>,
    pub violations: Violations,
}

impl Input {
    /// Takes the members of a body. Errors: it is of a type that nobody here reads.
    pub fn bind_body(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<(), Trouble> {
        if body.is_empty() {
            return Ok(());
        }
        match essence(headers).as_str() {
            "application/x-www-form-urlencoded" => self.bind_encoded(body),
            "multipart/form-data" => self.bind_parts(headers, body),
            media_type => match Format::of_media_type(media_type) {
                Some(Format::Json) => self.bind_json(body),
                Some(Format::Jsv) => self.bind_read(body, |text| {
                    let node = jsv::read(text).map_err(|error| format!("is not valid JSV: {error}"))?;
                    if node == Node::Null { Ok(Node::Object(Vec::new())) } else { Ok(node) }
                }),
                Some(Format::Xml) => self.bind_read(body, xml::read),
                Some(Format::Csv) | None => return Err(Trouble::UnsupportedMediaType),
            },
        }
        Ok(())
    }

    /// Takes the pairs of a query, or of a form that is written like one.
    pub fn bind_encoded(&mut self, pairs: &[u8]) {
        self.bind_pairs(url::form_urlencoded::parse(pairs).into_owned());
    }

    fn bind_parts(&mut self, headers: &HeaderMap, body: &[u8]) {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match multipart::pairs(content_type.unwrap_or_default(), body) {
            Ok(pairs) => self.bind_pairs(pairs),
            Err(complaint) => self.violations.add(BODY, complaint),
        }
    }

    /// Takes pairs. A name that is there several times has a list.
    fn bind_pairs(&mut self, pairs: impl IntoIterator<Item = (String, String)>) {
        let mut given: HashMap<String, Node> = HashMap::new();
        for (place, (name, value)) in pairs.into_iter().enumerate() {
            if place == MEMBERS_MAX {
                self.violations.add(BODY, format!("must have at most {MEMBERS_MAX} fields"));
                return;
            }
            let value = Node::Word(value);
            match given.entry(name.to_lowercase()) {
                Entry::Vacant(vacant) => drop(vacant.insert(value)),
                Entry::Occupied(occupied) => match occupied.into_mut() {
                    Node::List(values) => values.push(value),
                    first => *first = Node::List(vec![std::mem::replace(first, Node::Null), value]),
                },
            }
        }
        self.bind(given.into_iter().collect());
    }

    /// Takes members that win over those of the same names that there are.
    pub fn bind(&mut self, members: Vec<(String, Node)>) {
        if members.len() > MEMBERS_MAX {
            self.violations.add(BODY, format!("must have at most {MEMBERS_MAX} fields"));
            return;
        }
        let mut seen = HashSet::with_capacity(members.len());
        for (name, node) in members {
            let key = name.to_lowercase();
            if seen.insert(key.clone()) {
                self.members.insert(key, node);
            } else {
                self.refuse(&name, "is given twice");
            }
        }
    }

    fn bind_json(&mut self, body: &[u8]) {
        match Fields::parse(body, BODY) {
            Ok(fields) => {
                let (raw, violations) = fields.into_raw();
                self.violations.extend(violations);
                let mut members = Vec::with_capacity(raw.len());
                for (name, raw) in raw {
                    match Node::of_json(raw) {
                        Ok(node) => members.push((name, node)),
                        Err(complaint) => self.refuse(&name, complaint),
                    }
                }
                self.bind(members);
            }
            Err(violations) => self.violations.extend(violations),
        }
    }

    fn bind_read(&mut self, body: &[u8], read: impl FnOnce(&str) -> Result<Node, String>) {
        let text = std::str::from_utf8(body).map_err(|_| "must be UTF-8".to_owned());
        let text = text.map(|text| text.trim_start_matches('\u{feff}'));
        match text.and_then(read).map(Node::members) {
            Ok(Ok(members)) => self.bind(members),
            Ok(Err(complaint)) => self.violations.add(BODY, complaint),
            Err(complaint) => self.violations.add(BODY, complaint),
        }
    }

    pub fn refuse(&mut self, name: &str, message: impl Into<String>) {
        self.violations.add(format!("{}{}", self.prefix, shown(name)), message);
    }

    fn take(&mut self, name: &str) -> Option<Node> {
        let node = self.members.remove(&name.to_lowercase())?;
        let is_empty = match &node {
            Node::Null => true,
            Node::Word(text) | Node::Text(text) => text.is_empty(),
            _ => false,
        };
        (!is_empty).then_some(node)
    }

    /// A member that is a text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let node = self.take(name)?;
        self.checked(name, node.text())
    }

    /// A member that is a text, and what a check makes of it.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Option<T>,
        complaint: &str,
    ) -> Option<T> {
        let text = self.text(name)?;
        self.checked(name, check(&text).ok_or(complaint))
    }

    /// The same of a member that must be there.
    pub fn required<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Option<T>,
        complaint: &str,
    ) -> Option<T> {
        let parsed = self.parsed(name, check, complaint);
        if parsed.is_none() {
            // Where there is a complaint already, that one stands.
            self.refuse(name, complaint);
        }
        parsed
    }

    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let node = self.take(name)?;
        self.checked(name, node.flag())
    }

    /// A member that is a list; `None` when it is absent.
    pub fn items(&mut self, name: &str) -> Option<Vec<Node>> {
        let node = self.take(name)?;
        self.checked(name, node.items())
    }

    /// An entry of a list, or a member, as an object to be read in its turn: `read` takes its members, whose complaints carry its path.
    pub fn within<T>(&mut self, path: &str, node: Node, read: impl FnOnce(&mut Input) -> T) -> Option<T> {
        let members = self.checked(path, node.members())?;
        let mut inner = Input { prefix: format!("{}{path}.", self.prefix), ..Input::default() };
        inner.bind(members);
        let value = read(&mut inner);
        self.violations.extend(inner.violations);
        Some(value)
    }

    /// A member that is an object; `None` when it is absent.
    pub fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Input) -> T) -> Option<T> {
        let node = self.take(name)?;
        self.within(name, node, read)
    }

    fn checked<T>(&mut self, name: &str, result: Result<T, impl Into<String>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.refuse(name, complaint);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(content_type: &str, body: &str) -> Input {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        let mut input = Input::default();
        input.bind_body(&headers, body.as_bytes()).unwrap();
        input
    }

    fn fields(input: &Input) -> Vec<&str> {
        input.violations.iter().map(|one| one.field.as_str()).collect()
    }

    #[test]
    fn every_format_binds_alike_and_names_ignore_case() {
        for (content_type, body) in [
            ("application/json", r#"{"ID":"1","isActive":true,"ids":["a","b"],"more":{"x":[]}}"#),
            ("text/json; charset=utf-8", r#"{"id":"1","IsActive":"y","ids":["a","b"]}"#),
            ("text/jsv", "{Id:1,IsActive:True,ids:[a,b]}"),
            ("application/jsv", "{\n id: 1,\n isactive: on,\n ids: [ a, b ]\n}"),
            ("application/x-www-form-urlencoded", "Id=1&isActive=1&ids=a%2Cb"),
            ("application/x-www-form-urlencoded", "Id=1&isActive=t&ids=a&IDS=b"),
            (
                "multipart/form-data; boundary=b",
                "--b\r\nContent-Disposition: form-data; name=\"ID\"\r\n\r\n1\r\n\
                 --b\r\nContent-Disposition: form-data; name=IsActive\r\n\r\non\r\n\
                 --b\r\nContent-Disposition: form-data; name=ids\r\n\r\n[a,b]\r\n--b--\r\n",
            ),
            ("application/xml", "<D><Id>1</Id><IsActive>true</IsActive><Ids><s>a</s><s>b</s></Ids></D>"),
            ("text/xml", "\u{feff}<D><id>1</id><isActive>1</isActive><ids>[a,b]</ids></D>"),
        ] {
            let mut input = bound(content_type, body);
            assert_eq!(input.text("id").as_deref(), Some("1"), "{body}");
            assert_eq!(input.flag("isActive"), Some(true), "{body}");
            let ids: Vec<_> = input.items("ids").unwrap().into_iter().map(|id| id.text().unwrap()).collect();
            assert_eq!(ids, ["a", "b"], "{body}");
            assert_eq!(fields(&input), [""; 0], "{body}");
        }
    }

    #[test]
    fn the_later_binding_wins() {
        let mut input = bound("text/jsv", "{id:body,secret:body}");
        input.bind(vec![("Id".to_owned(), Node::Word("path".to_owned()))]);
        input.bind_encoded(b"ID=query");
        assert_eq!(input.text("id").as_deref(), Some("query"));
        assert_eq!(input.text("secret").as_deref(), Some("body"));
        assert_eq!(input.text("id"), None, "each is taken once");
    }

    #[test]
    fn rule_15_what_is_malformed_is_named_after_its_field() {
        for (content_type, body, field) in [
            ("application/json", r#"{"id":{}}"#, "id"),
            ("application/json", r#"{"id":[]}"#, "id"),
            ("application/json", r#"{"id":7}"#, "id"),
            ("application/json", r#"{"id":1e400}"#, "id"),
            ("application/json", r#"{"id":"\ud800"}"#, "id"),
            ("application/json", r#"{"id":"\u0000"}"#, "id"),
            ("application/json", r#"{"id":"1","id":"2"}"#, "id"),
            ("application/json", r#"{"id":"1","ID":"2"}"#, "ID"),
            ("application/json", r#"{"id":"1","x":"\ud800"}"#, "x"),
            ("application/json", "[]", "body"),
            ("application/json", "{", "body"),
            ("application/json", " ", "body"),
            ("text/jsv", "{id:{a:b}}", "id"),
            ("text/jsv", "{id:1,Id:2}", "Id"),
            ("text/jsv", "[id]", "body"),
            ("text/jsv", "{id:1", "body"),
            ("application/xml", "<D><id><a/></id></D>", "id"),
            ("application/xml", "<D><id>1</id><Id>2</Id></D>", "Id"),
            ("application/xml", "<!DOCTYPE D><D><id>1</id></D>", "body"),
            ("application/x-www-form-urlencoded", "id=1&id=2", "id"),
            ("application/x-www-form-urlencoded", "id=%00", "id"),
            ("multipart/form-data; boundary=b", "--b", "body"),
        ] {
            let mut input = bound(content_type, body);
            input.text("id");
            assert_eq!(fields(&input), [field], "{body}");
        }
    }

    #[test]
    fn rule_15_a_name_that_nobody_asked_for_is_shown_cut() {
        let name = "é".repeat(100_000);
        for (content_type, body) in [
            ("application/json", format!(r#"{{"{name}":"\ud800"}}"#)),
            ("text/jsv", format!("{{{name}:1,{name}:2}}")),
        ] {
            assert_eq!(fields(&bound(content_type, &body)), ["é".repeat(100)], "{content_type}");
        }
    }

    #[test]
    fn null_and_nothing_are_absent_and_other_types_unsupported() {
        let mut input = bound("application/json", r#"{"a":null,"b":""}"#);
        assert_eq!((input.text("a"), input.text("b")), (None, None));
        assert_eq!(input.required("a", |_| Some(()), "The A is invalid"), None);
        assert_eq!(fields(&input), ["a"]);
        for content_type in ["text/csv", "text/plain", "multipart/mixed", ""] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
            assert_eq!(Input::default().bind_body(&headers, b"x"), Err(Trouble::UnsupportedMediaType));
            assert_eq!(Input::default().bind_body(&headers, b""), Ok(()));
        }
    }

    /// What is done with each of them grows with their number: without a bound that would take minutes.
    #[test]
    fn rule_14_a_body_full_of_names_is_refused() {
        let names = || (0..60_000).map(|number| format!("a{number:x}"));
        let form: String = names().map(|name| format!("{name}&")).collect();
        let attributes: String = names().map(|name| format!(" {name}=''")).collect();
        let namespaces: String = names().map(|name| format!(" xmlns:{name} = \"a\"")).collect();
        let nested: String = names().map(|name| format!("<a xmlns:{name}='a'>")).collect();
        let repeated = "a&".repeat(60_000);
        let part = "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n";
        let parts = format!("{}--b--\r\n", part.repeat(MEMBERS_MAX + 1));
        let fields = "must have at most 1000 fields";
        let attributes_max = "must have at most 2000 attributes, 200 of them namespaces";
        for (content_type, body, message) in [
            ("application/x-www-form-urlencoded", form, fields),
            ("application/x-www-form-urlencoded", repeated, fields),
            ("multipart/form-data; boundary=b", parts, fields),
            ("application/xml", format!("<a{attributes}/>"), attributes_max),
            ("application/xml", format!("<a{namespaces}/>"), attributes_max),
            ("application/xml", nested, attributes_max),
        ] {
            let input = bound(content_type, &body);
            let told: Vec<_> =
                input.violations.iter().map(|one| (one.field.as_str(), one.message.as_str())).collect();
            assert_eq!(told, [("body", message)], "{}", &body[..60]);
        }
    }

    #[test]
    fn entries_carry_their_path() {
        let mut input = bound("application/json", r#"{"all":[{"config":{"secret":1}},7]}"#);
        for (index, item) in input.items("all").unwrap().into_iter().enumerate() {
            input.within(&format!("all[{index}]"), item, |entry| {
                entry.object("config", |config| config.text("secret"));
            });
        }
        assert_eq!(fields(&input), ["all[0].config.secret", "all[1]"]);
    }
}
