//! Callbacks on the wire. Their credentials come in and never go out.

use serde::Serialize;

use super::super::CALLBACKS;
use super::subscription::Brief;
use super::{BODY, Link, name, path_of};
use crate::domain::Violations;
use crate::domain::callback_url::CallbackUrl;
use crate::domain::credentials::BasicCredentials;
use crate::domain::egress::EgressPolicy;
use crate::domain::notification::BATCH_SIZE_MAX;
use crate::hub::notifications::{ChangeCallback, CreateCallback};
use crate::store::named_callbacks::NamedCallback;
use crate::store::notifications::Notification;
use crate::surfaces::kit::fields::{Fields, Nullable};

/// A POST: everything but the backup URL has to be there.
pub fn create(body: &[u8], egress: &EgressPolicy) -> Result<CreateCallback, Violations> {
    let mut fields = Fields::parse(body, BODY)?;
    let name = name(&mut fields);
    let url = fields.required("url", |text: String| url(&text, egress));
    let batch_size = fields.required("batchSize", batch_size);
    let backup_url = backup_url(&mut fields, egress).flatten();
    let credentials = credentials(&mut fields);
    match (name, url, batch_size, credentials) {
        (Some(name), Some(url), Some(batch_size), Some(credentials)) if fields.violations.is_empty() => {
            Ok(CreateCallback { name, url, backup_url, batch_size, credentials })
        }
        _ => Err(fields.violations),
    }
}

/// A PUT: the credentials, and one of URL and batch size at least.
pub fn change(body: &[u8], egress: &EgressPolicy) -> Result<ChangeCallback, Violations> {
    let mut fields = Fields::parse(body, BODY)?;
    if !fields.has("url") && !fields.has("batchSize") {
        fields.refuse(BODY, "must have one of url and batchSize");
    }
    let url = fields.optional("url", |text: String| url(&text, egress));
    let batch_size = fields.optional("batchSize", batch_size);
    let backup_url = backup_url(&mut fields, egress);
    let credentials = credentials(&mut fields);
    match credentials {
        Some(credentials) if fields.violations.is_empty() => {
            Ok(ChangeCallback { url, backup_url, batch_size, credentials })
        }
        _ => Err(fields.violations),
    }
}

fn url(text: &str, egress: &EgressPolicy) -> Result<String, String> {
    let url = CallbackUrl::parse(text, egress).map_err(|refused| refused.to_string())?;
    Ok(url.as_str().to_owned())
}

fn batch_size(number: i64) -> Result<i32, String> {
    let size = i32::try_from(number).ok().filter(|_| (1..=BATCH_SIZE_MAX).contains(&number));
    size.ok_or_else(|| format!("must be a whole number from 1 to {BATCH_SIZE_MAX}"))
}

/// The published samples print its name with a blank at its end. `null` is none.
fn backup_url(fields: &mut Fields<'_>, egress: &EgressPolicy) -> Option<Option<String>> {
    let name = if fields.has("backupUrl ") { "backupUrl " } else { "backupUrl" };
    if name == "backupUrl " && fields.has("backupUrl") {
        fields.refuse("backupUrl", "is given twice");
    }
    fields.optional(name, |text: Nullable<String>| text.0.map(|text| url(&text, egress)).transpose())
}

fn credentials(fields: &mut Fields<'_>) -> Option<BasicCredentials> {
    if !fields.has("authentication") {
        fields.refuse("authentication", "is required");
    }
    fields.object("authentication", |inner| {
        let basic = |text: String| if text == "B" { Ok(()) } else { Err("must be B") };
        let kind = inner.required("type", basic);
        if !inner.has("data") {
            inner.refuse("data", "is required");
        }
        let parts = inner.object("data", |data| {
            let user_name = data.required("userName", BasicCredentials::check_user_name);
            let password = data.required("password", BasicCredentials::check_password);
            user_name.zip(password)
        });
        kind.and(parts).map(|(user_name, password)| BasicCredentials::new(user_name, password))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallbackBody {
    name: String,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_url: Option<String>,
    batch_size: i32,
    links: [Link; 3],
}

impl From<NamedCallback> for CallbackBody {
    fn from(callback: NamedCallback) -> Self {
        let links = links(&callback.name);
        let NamedCallback { name, url, backup_url, batch_size, .. } = callback;
        Self { name, url, backup_url, batch_size, links }
    }
}

fn links(name: &str) -> [Link; 3] {
    let path = path_of(CALLBACKS, name);
    [
        Link::new("self", path.clone(), "PUT"),
        Link::new("getCallBack", path.clone(), "GET"),
        Link::new("deleteCallBack", path, "DELETE"),
    ]
}

#[derive(Serialize)]
pub struct Verified {
    status: String,
}

impl Verified {
    pub fn new(name: &str) -> Self {
        Self { status: format!("Successfully verified [{name}] ") }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallbackSubscriptions {
    call_back_name: String,
    call_back_url: String,
    batch_size: i32,
    subscriptions: Vec<Brief>,
    links: [Link; 3],
}

impl CallbackSubscriptions {
    pub fn new(callback: NamedCallback, subscriptions: Vec<Notification>) -> Self {
        Self {
            links: links(&callback.name),
            call_back_name: callback.name,
            call_back_url: callback.url,
            batch_size: callback.batch_size,
            subscriptions: subscriptions.into_iter().map(Brief::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn complaints<T>(result: Result<T, Violations>) -> Vec<String> {
        result
            .err()
            .map_or_else(Vec::new, |violations| violations.iter().map(|one| one.field.clone()).collect())
    }

    fn authentication() -> Value {
        json!({ "type": "B", "data": { "userName": "u", "password": "p" } })
    }

    #[test]
    fn the_published_sample_makes_a_callback() {
        let body = json!({
            "name": "<callback_name>", "url": "https://partner.example/a",
            "backupUrl ": "https://partner.example/b", "batchSize": 1, "authentication": authentication(),
        });
        let made = create(body.to_string().as_bytes(), &EgressPolicy::production()).unwrap();
        assert_eq!((made.name.as_str(), made.batch_size), ("<callback_name>", 1));
        assert_eq!(made.backup_url.as_deref(), Some("https://partner.example/b"));
        assert_eq!(made.credentials.secret().expose(), b"u:p");
    }

    #[test]
    fn every_wrong_field_of_a_callback_is_named() {
        let good = json!({ "name": "n", "url": "https://partner.example", "batchSize": 200, "authentication": authentication() });
        let egress = EgressPolicy::production();
        let with = |member: &str, value: Value| {
            let mut body = good.clone();
            body[member] = value;
            complaints(create(body.to_string().as_bytes(), &egress))
        };
        assert_eq!(with("other", json!(1)), Vec::<String>::new());
        assert_eq!(with("backupUrl", Value::Null), Vec::<String>::new());
        for (member, value, field) in [
            ("name", json!(""), "name"),
            ("name", json!(7), "name"),
            ("url", json!("http://partner.example"), "url"),
            ("url", json!("https://10.0.0.1"), "url"),
            ("backupUrl", json!("https://127.0.0.1"), "backupUrl"),
            ("backupUrl ", json!(""), "backupUrl "),
            ("batchSize", json!(0), "batchSize"),
            ("batchSize", json!(201), "batchSize"),
            ("batchSize", json!(1.5), "batchSize"),
            ("batchSize", json!("1"), "batchSize"),
            ("authentication", json!({}), "authentication.type"),
            ("authentication", json!("B"), "authentication"),
            (
                "authentication",
                json!({ "type": "T", "data": { "userName": "u", "password": "p" } }),
                "authentication.type",
            ),
            (
                "authentication",
                json!({ "type": "B", "data": { "userName": "u:v", "password": "p" } }),
                "authentication.data.userName",
            ),
            (
                "authentication",
                json!({ "type": "B", "data": { "userName": "u" } }),
                "authentication.data.password",
            ),
        ] {
            assert_eq!(
                with(member, value.clone()).first().map(String::as_str),
                Some(field),
                "{member}: {value}"
            );
        }
        let nothing = complaints(create(b"{}", &egress));
        assert_eq!(nothing, ["name", "url", "batchSize", "authentication"]);
    }

    #[test]
    fn a_change_of_a_callback_needs_its_credentials_and_something_to_change() {
        let egress = EgressPolicy::production();
        let wrong = |body: Value| complaints(change(body.to_string().as_bytes(), &egress));
        assert!(wrong(json!({ "batchSize": 2, "authentication": authentication() })).is_empty());
        assert!(wrong(json!({ "url": "https://a.example", "authentication": authentication() })).is_empty());
        assert_eq!(wrong(json!({ "batchSize": 2 })), ["authentication"]);
        assert_eq!(wrong(json!({ "backupUrl": null, "authentication": authentication() })), ["body"]);
        let two = r#"{"batchSize":2,"backupUrl":null,"backupUrl ":null}"#;
        assert_eq!(complaints(change(two.as_bytes(), &egress)), ["backupUrl", "authentication"]);
    }
}
