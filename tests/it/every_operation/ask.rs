//! One request for each documented operation at each of its mounts, made of the document's own examples.

use std::fmt;

use serde_json::Value;
use url::form_urlencoded;

use crate::openapi::document::{Document, elements, members};
use crate::support::desk::Listener;

/// Port of the operator listener in the document's servers.
const OPERATOR_PORT: u16 = 8081;

#[derive(Debug, Clone)]
pub struct Ask {
    /// Where the document has it: the same for all its mounts.
    pub operation: String,
    pub listener: Listener,
    pub method: String,
    /// With the mount in front, and `{parameters}`.
    pub template: String,
    pub tag: String,
    pub needs_key: bool,
    /// The parameters in the path, each with its example and the values that it is confined to, if it is.
    pub parameters: Vec<Parameter>,
    /// Names of what may stand in the query.
    pub query: Vec<String>,
    /// Content type and example. The first that the document has.
    example: Option<(String, Value)>,
}

#[derive(Debug, Clone)]
pub struct Parameter {
    pub name: String,
    pub example: String,
    pub choices: Vec<String>,
}

impl Ask {
    /// With the examples for parameters.
    pub fn path(&self) -> String {
        self.path_with(|parameter| parameter.example.clone())
    }

    pub fn path_with(&self, value: impl Fn(&Parameter) -> String) -> String {
        self.parameters.iter().fold(self.template.clone(), |path, parameter| {
            let encoded: String = form_urlencoded::byte_serialize(value(parameter).as_bytes()).collect();
            path.replace(&format!("{{{}}}", parameter.name), &encoded.replace('+', "%20"))
        })
    }

    pub fn body(&self) -> Option<(&str, String)> {
        self.body_with(Value::clone)
    }

    /// The example, changed.
    pub fn body_with(&self, change: impl Fn(&Value) -> Value) -> Option<(&str, String)> {
        let (content_type, example) = self.example.as_ref()?;
        let text = match (content_type.as_str(), change(example)) {
            ("application/x-www-form-urlencoded", Value::Object(fields)) => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, value) in &fields {
                    form.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                }
                form.finish()
            }
            (_, Value::String(text)) => text,
            (_, value) => value.to_string(),
        };
        Some((content_type, text))
    }

    /// The example's pointers at which a text stands.
    pub fn texts(&self) -> Vec<String> {
        fn walk(value: &Value, pointer: String, found: &mut Vec<String>) {
            match value {
                Value::String(_) if !pointer.is_empty() => found.push(pointer),
                Value::Array(items) => {
                    for (at, item) in items.iter().enumerate() {
                        walk(item, format!("{pointer}/{at}"), found);
                    }
                }
                Value::Object(fields) => {
                    for (name, field) in fields {
                        let name = name.replace('~', "~0").replace('/', "~1");
                        walk(field, format!("{pointer}/{name}"), found);
                    }
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        if let Some((_, example)) = &self.example {
            walk(example, String::new(), &mut found);
        }
        found
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.template)
    }
}

/// In the document's order.
pub fn asks() -> Vec<Ask> {
    let document = Document::load();
    let mut asks = Vec::new();
    for operation in document.operations() {
        let object = document.at(&operation.pointer).unwrap();
        let item = document.at(operation.pointer.rsplit_once('/').unwrap().0).unwrap();
        let declared: Vec<&Value> = elements(&item["parameters"])
            .chain(elements(&object["parameters"]))
            .map(|parameter| document.resolve(parameter))
            .collect();
        let named = |place: &'static str| declared.iter().filter(move |one| one["in"] == place);
        let body = document.resolve(&object["requestBody"]);
        let example = members(&body["content"]).next().map(|(content_type, content)| {
            let (_, example) = document.examples(content).into_iter().next().unwrap();
            (content_type.clone(), example.clone())
        });
        let servers = [&object["servers"], &item["servers"], &document.root()["servers"]];
        let server = servers.into_iter().find(|servers| servers.is_array()).unwrap();
        let url = url::Url::parse(server[0]["url"].as_str().unwrap()).unwrap();
        for mount in &operation.mounts {
            asks.push(Ask {
                operation: operation.pointer.clone(),
                listener: if url.port() == Some(OPERATOR_PORT) { Listener::Operator } else { Listener::Api },
                method: operation.method.clone(),
                template: format!("{mount}{}", operation.path),
                tag: object["tags"][0].as_str().unwrap().to_owned(),
                needs_key: needs_key(&object["security"]),
                parameters: named("path").map(|one| parameter(document, one)).collect(),
                query: named("query").map(|one| one["name"].as_str().unwrap().to_owned()).collect(),
                example: example.clone(),
            });
        }
    }
    asks
}

/// Not with an empty list, nor where nothing is one of the ways.
fn needs_key(security: &Value) -> bool {
    let ways = security.as_array();
    ways.is_none_or(|ways| !ways.is_empty() && !ways.contains(&serde_json::json!({})))
}

fn parameter(document: &Document, declared: &Value) -> Parameter {
    let schema = document.resolve(&declared["schema"]);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let example = document.examples(declared).into_iter().next().map(|(_, example)| text(example));
    let choices: Vec<String> = elements(&schema["enum"]).map(text).collect();
    let example = example.or_else(|| choices.first().cloned()).unwrap_or_else(|| {
        let of_schema = elements(&schema["examples"]).next().or(schema.get("example"));
        of_schema.map_or_else(|| "019a8f2e-5c40-7b02-8d5f-6a3e9c1b7f24".to_owned(), text)
    });
    Parameter { name: declared["name"].as_str().unwrap().to_owned(), example, choices }
}
