//! `openapi.yaml` as the tests use it: its operations, its references, and its schemas as judges of real answers.
//!
//! Knows OpenAPI's structure and JSON Schema, and nothing about Herald.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Registry, Validator};
use serde_json::{Value, json};

/// Where the document is registered for its own `$ref`s and for ours into it.
const DOCUMENT_URI: &str = "urn:herald:openapi";

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

pub struct Document {
    root: Value,
    registry: Registry<'static>,
    /// Judges by the pointers to their schemas: each is made once, when it is first asked for.
    judges: Mutex<HashMap<String, Arc<Validator>>>,
    /// Every path at every mount, with the template that it is of; those with fewer parameters come first.
    mounted: Vec<(String, String)>,
}

/// One operation, named by where it stands in the document.
#[derive(Debug, Clone)]
pub struct Operation {
    /// In upper case.
    pub method: String,
    /// As the document writes it, with `{parameters}`. Of a callback, the expression that gives its URL.
    pub path: String,
    /// The JSON pointer to the operation object.
    pub pointer: String,
    /// The path parts of the URLs of the servers that have it: empty for one that serves it at its root.
    pub mounts: Vec<String>,
}

impl Document {
    /// The project's own document, which all tests share.
    pub fn load() -> &'static Document {
        static OWN: LazyLock<Document> = LazyLock::new(|| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
            let yaml = std::fs::read_to_string(path).expect("openapi.yaml can be read");
            Document::parse(&yaml).expect("openapi.yaml is a document")
        });
        &OWN
    }

    /// Goes through YAML's own value, because that refuses a mapping that has a key twice, and JSON's does not.
    pub fn parse(yaml: &str) -> Result<Document, String> {
        let tree: serde_yaml_ng::Value = serde_yaml_ng::from_str(yaml).map_err(|error| error.to_string())?;
        let root = serde_json::to_value(tree).map_err(|error| error.to_string())?;
        let registry = Registry::new()
            .draft(Draft::Draft202012)
            .add(DOCUMENT_URI, root.clone())
            .and_then(|builder| builder.prepare())
            .map_err(|error| error.to_string())?;
        let mut document = Document { root, registry, judges: Mutex::default(), mounted: Vec::new() };
        document.mounted = document
            .operations()
            .into_iter()
            .flat_map(|operation| {
                let full = |mount| (format!("{mount}{}", operation.path), operation.path.clone());
                operation.mounts.iter().map(full).collect::<Vec<_>>()
            })
            .collect();
        document.mounted.sort_by_key(|(_, template)| template.matches('{').count());
        Ok(document)
    }

    pub fn root(&self) -> &Value {
        &self.root
    }

    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.root.pointer(pointer)
    }

    /// Every operation under `paths`, in the document's order.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in members(&self.root["paths"]) {
            let pointer = format!("/paths/{}", escape(path));
            self.collect(&mut operations, path, item, &pointer);
        }
        operations
    }

    /// Every operation that a receiver has to offer.
    pub fn callbacks(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (name, callback) in members(&self.root["components"]["callbacks"]) {
            for (expression, item) in members(callback) {
                let pointer = format!("/components/callbacks/{}/{}", escape(name), escape(expression));
                self.collect(&mut operations, expression, item, &pointer);
            }
        }
        operations
    }

    fn collect(&self, operations: &mut Vec<Operation>, path: &str, item: &Value, pointer: &str) {
        for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
            let servers = [&item[*method]["servers"], &item["servers"], &self.root["servers"]];
            let servers = servers.into_iter().find(|servers| servers.is_array());
            let mounts = elements(servers.unwrap_or(&Value::Null)).map(|server| mount(&server["url"]));
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.to_owned(),
                pointer: format!("{pointer}/{method}"),
                mounts: mounts.collect(),
            });
        }
    }

    /// The path template that a request's path (without query) belongs to, at whichever mount it came in. A template
    /// without a parameter at some place wins over one with.
    pub fn path_template(&self, path: &str) -> Option<String> {
        let (_, template) = self.mounted.iter().find(|(full, _)| fits(full, path))?;
        Some(template.clone())
    }

    /// Follows `$ref` until there is none. Panics where one leads nowhere.
    pub fn resolve<'a>(&'a self, mut value: &'a Value) -> &'a Value {
        while let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            value = self.follow(reference).unwrap_or_else(|| panic!("{reference} leads nowhere"));
        }
        value
    }

    /// What a reference inside the document points at.
    pub fn follow(&self, reference: &str) -> Option<&Value> {
        self.at(reference.strip_prefix('#')?)
    }

    /// Every pointer at which something stands, with what stands there.
    pub fn walk(&self) -> Vec<(String, &Value)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), &self.root)];
        while let Some((pointer, value)) = open.pop() {
            match value {
                Value::Object(object) => {
                    open.extend(
                        object.iter().map(|(key, child)| (format!("{pointer}/{}", escape(key)), child)),
                    );
                }
                Value::Array(array) => {
                    open.extend(
                        array.iter().enumerate().map(|(at, child)| (format!("{pointer}/{at}"), child)),
                    );
                }
                _ => {}
            }
            found.push((pointer, value));
        }
        found
    }

    /// Judges a value by the schema at `pointer`. Formats count.
    pub fn validate(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let errors: Vec<String> = self
            .judge(pointer)?
            .iter_errors(value)
            .map(|error| format!("{}: {error}", place(error.instance_path().as_str())))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }

    fn judge(&self, pointer: &str) -> Result<Arc<Validator>, String> {
        // One that a failing test poisoned is as good as any.
        let mut judges = self.judges.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(judge) = judges.get(pointer) {
            return Ok(judge.clone());
        }
        let schema = json!({ "$ref": format!("{DOCUMENT_URI}#{}", fragment(pointer)) });
        let judge = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(&self.registry)
            .should_validate_formats(true)
            .build(&schema)
            .map_err(|error| format!("the schema at {pointer} cannot be used: {error}"))?;
        let judge = Arc::new(judge);
        judges.insert(pointer.to_owned(), judge.clone());
        Ok(judge)
    }

    /// The pointer to the response object that answers for `status`, its `$ref` followed.
    pub fn response(&self, method: &str, path_template: &str, status: u16) -> Result<String, String> {
        let operation = format!("/paths/{}/{}", escape(path_template), method.to_lowercase());
        let responses = self
            .at(&format!("{operation}/responses"))
            .ok_or_else(|| format!("{method} {path_template} is not in the document"))?;
        let key = [status.to_string(), format!("{}XX", status / 100), "default".to_owned()]
            .into_iter()
            .find(|key| responses.get(key).is_some())
            .ok_or_else(|| format!("{method} {path_template} does not document a {status}"))?;
        let response = &responses[&key];
        match response.get("$ref").and_then(Value::as_str) {
            Some(reference) => Ok(reference.trim_start_matches('#').to_owned()),
            None => Ok(format!("{operation}/responses/{key}")),
        }
    }

    /// Judges a real answer: that its status is documented, its content type one of the documented ones, and its body
    /// valid by the schema. A body that is no JSON is handed in as a JSON string; no body at all as `None`.
    pub fn validate_response(
        &self,
        method: &str,
        path_template: &str,
        status: u16,
        content_type: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(), String> {
        let asked = format!("{method} {path_template} answered {status}");
        let response = self.response(method, path_template, status)?;
        let content = self.at(&response).map_or(&Value::Null, |response| &response["content"]);
        let Some(body) = body else {
            return if content.is_null() {
                Ok(())
            } else {
                Err(format!("{asked} without the documented body"))
            };
        };
        let content_type = content_type.ok_or_else(|| format!("{asked} without a content type"))?;
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if content.get(&essence).is_none() {
            return Err(format!("{asked} as {content_type}, which is not documented"));
        }
        self.validate(&format!("{response}/content/{}/schema", escape(&essence)), body)
            .map_err(|errors| format!("{asked} with a body that its schema refuses:\n{errors}\n{body}"))
    }

    /// Judges a real answer's headers: that the required ones are there and all documented ones valid. Names ignore
    /// case.
    pub fn validate_response_headers(
        &self,
        method: &str,
        path_template: &str,
        status: u16,
        headers: &[(String, String)],
    ) -> Result<(), String> {
        let response = self.response(method, path_template, status)?;
        for (name, _) in members(&self.root.pointer(&response).unwrap_or(&Value::Null)["headers"]) {
            let mut pointer = format!("{response}/headers/{name}");
            if let Some(reference) = self.at(&pointer).and_then(|header| header["$ref"].as_str()) {
                pointer = reference.trim_start_matches('#').to_owned();
            }
            let header = self.at(&pointer).unwrap_or(&Value::Null);
            match headers.iter().find(|(sent, _)| sent.eq_ignore_ascii_case(name)) {
                Some((_, sent)) => {
                    self.validate(&format!("{pointer}/schema"), &typed(&header["schema"], sent)).map_err(
                        |errors| format!("{method} {path_template}, {status}, header {name}: {errors}"),
                    )?
                }
                None if header["required"] == true => {
                    return Err(format!("{method} {path_template} answered {status} without {name}"));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Judges the body that a receiver got.
    pub fn validate_callback(&self, callback: &Operation, body: &Value) -> Result<(), String> {
        self.validate(&format!("{}/requestBody/content/application~1json/schema", callback.pointer), body)
    }

    /// The examples that stand beside a schema (in a media type, parameter or header), by name.
    pub fn examples<'a>(&'a self, holder: &'a Value) -> Vec<(String, &'a Value)> {
        let named = members(&holder["examples"])
            .map(|(name, example)| (name.clone(), self.resolve(example)))
            .filter_map(|(name, example)| Some((name, example.get("value")?)));
        let single = holder.get("example").map(|example| ("example".to_owned(), example));
        named.chain(single).collect()
    }

    /// Every `operationId`, callbacks included.
    pub fn operation_ids(&self) -> Vec<String> {
        let operations = self.operations().into_iter().chain(self.callbacks());
        operations.filter_map(|it| Some(self.at(&it.pointer)?["operationId"].as_str()?.to_owned())).collect()
    }

    /// The pointer of every component, `components/schemas/Uuid` and so on, security schemes left out: those are used
    /// by name.
    pub fn components(&self) -> BTreeSet<String> {
        let kinds = members(&self.root["components"]).filter(|(kind, _)| *kind != "securitySchemes");
        kinds
            .flat_map(|(kind, named)| {
                members(named).map(move |(name, _)| format!("/components/{kind}/{}", escape(name)))
            })
            .collect()
    }
}

/// The members of an object, none of anything else.
pub fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The elements of an array, none of anything else.
pub fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A key as a part of a JSON pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer as a URI's fragment.
fn fragment(pointer: &str) -> String {
    pointer
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                (byte as char).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The path part of a server's URL, without a slash at its end.
fn mount(url: &Value) -> String {
    let url = url::Url::parse(url.as_str().unwrap_or_default()).expect("a server's url is absolute");
    url.path().trim_end_matches('/').to_owned()
}

fn fits(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given))
                if wanted == given || (wanted.starts_with('{') && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

/// A header's text as the value that its schema is about.
fn typed(schema: &Value, text: &str) -> Value {
    match (schema["type"].as_str(), text.parse::<i64>()) {
        (Some("integer"), Ok(number)) => json!(number),
        _ => json!(text),
    }
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "(the whole)" } else { pointer }
}
