//! What the operator's JSON looks like.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::id::{CustomerId, PartnerId, parse_uuid};
use crate::domain::partner_key::{Scope, Scopes};
use crate::domain::partner_name::PartnerName;
use crate::domain::redirect_session::RedirectSession;
use crate::domain::time::{wire_time, wire_time_ms};
use crate::domain::{Error, Violations};
use crate::hub::partners::NewKey;
use crate::surfaces::kit::fields::Fields;

/// The name of a partner to be.
pub fn partner_request(body: &[u8]) -> Result<PartnerName, Violations> {
    let mut fields = Fields::parse(body, "body")?;
    let name = fields.required("name", |text: String| PartnerName::parse(&text));
    name.filter(|_| fields.violations.is_empty()).ok_or(fields.violations)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Partner {
    id: Uuid,
    name: String,
    created_at: String,
}

impl Partner {
    pub fn new(id: PartnerId, name: &PartnerName, created_at: DateTime<Utc>) -> Self {
        Self { id: id.0, name: name.as_str().to_owned(), created_at: wire_time_ms(created_at) }
    }
}

/// A key as it is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyRequest {
    pub scopes: Scopes,
    pub expires_at: Option<DateTime<Utc>>,
}

impl KeyRequest {
    pub fn read(body: &[u8]) -> Result<Self, Violations> {
        let mut fields = Fields::parse(body, "body")?;
        let scopes = fields.required("scopes", scopes);
        let expires_at = fields.optional("expiresAt", Ok::<_, String>);
        match scopes {
            Some(scopes) if fields.violations.is_empty() => Ok(Self { scopes, expires_at }),
            _ => Err(fields.violations),
        }
    }
}

fn scopes(names: Vec<String>) -> Result<Scopes, String> {
    let known = names.iter().all(|name| Scope::ALL.iter().any(|scope| scope.name() == name));
    let refused = || "must be a list of partner, producer and operator, at least one of them".to_owned();
    if !known {
        return Err(refused());
    }
    // More than there are repeat one; who asked each of a million for its like would be at it for minutes.
    let repeated = names.len() > Scope::ALL.len()
        || names.iter().enumerate().any(|(index, name)| names[..index].contains(name));
    if repeated {
        return Err("must name each scope once".to_owned());
    }
    Scopes::parse(&names.join(",")).map_err(|_| refused())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    id: Uuid,
    key: String,
    prefix: String,
    scopes: Vec<&'static str>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl Key {
    /// The one place of this API where a key's text leaves.
    pub fn shown_once(new: &NewKey, asked: &KeyRequest) -> Result<Self, Error> {
        let key = new.text.expose_str().ok_or_else(|| Error::internal("an API key is no text"))?;
        Ok(Self {
            id: new.id.0,
            key: key.to_owned(),
            prefix: new.prefix.clone(),
            scopes: Scope::ALL
                .into_iter()
                .filter(|scope| asked.scopes.contains(*scope))
                .map(Scope::name)
                .collect(),
            created_at: wire_time_ms(new.created_at),
            expires_at: asked.expires_at.map(wire_time_ms),
        })
    }
}

/// The id of a customer to be, if the request names one. An empty body names none.
pub fn customer_request(body: &[u8]) -> Result<Option<CustomerId>, Violations> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut fields = Fields::parse(body, "body")?;
    let id = fields.optional("id", |text: String| parse_uuid(&text).map(CustomerId));
    if fields.violations.is_empty() { Ok(id) } else { Err(fields.violations) }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Customer {
    id: Uuid,
    partner_id: Uuid,
    created_at: String,
}

impl Customer {
    pub fn new(id: CustomerId, partner: PartnerId, created_at: DateTime<Utc>) -> Self {
        Self { id: id.0, partner_id: partner.0, created_at: wire_time_ms(created_at) }
    }
}

/// A session as its cancelling shows it, too: with the redirect surface's times.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletedSession {
    id: Uuid,
    state: &'static str,
    created_on: String,
    last_modified_on: String,
}

impl From<RedirectSession> for CompletedSession {
    fn from(session: RedirectSession) -> Self {
        Self {
            id: session.id,
            state: session.state.as_str(),
            created_on: wire_time(session.created_at),
            last_modified_on: wire_time(session.updated_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<T: std::fmt::Debug>(read: Result<T, Violations>) -> String {
        read.expect_err("it is wrong").iter().map(|one| one.field.as_str()).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_partners_name_is_for_people_to_read() {
        assert_eq!(partner_request(br#"{"name":"Caf\u00e9"}"#).unwrap().as_str(), "Café");
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(101));
        for body in [r#"{}"#, r#"{"name":""}"#, r#"{"name":"a\nb"}"#, r#"{"name":null}"#, &long] {
            assert_eq!(field(partner_request(body.as_bytes())), "name", "{body}");
        }
        assert_eq!(field(partner_request(b"")), "body");
    }

    #[test]
    fn a_key_has_scopes_and_perhaps_an_end() {
        let asked =
            KeyRequest::read(br#"{"scopes":["producer","partner"],"expiresAt":"2030-01-01T01:00:00+01:00"}"#);
        let asked = asked.unwrap();
        assert_eq!(asked.scopes.to_string(), "partner,producer");
        assert_eq!(asked.expires_at.map(wire_time).as_deref(), Some("2030-01-01T00:00:00Z"));
        for scopes in [
            r#"[]"#,
            r#"["admin"]"#,
            r#"["partner","partner"]"#,
            r#"["partner,producer"]"#,
            r#"[" partner"]"#,
            r#""partner""#,
            "null",
        ] {
            let body = format!(r#"{{"scopes":{scopes}}}"#);
            assert_eq!(field(KeyRequest::read(body.as_bytes())), "scopes", "{body}");
        }
        for end in ["null", "1", r#""tomorrow""#, r#""2030-01-01""#] {
            let body = format!(r#"{{"scopes":["partner"],"expiresAt":{end}}}"#);
            assert_eq!(field(KeyRequest::read(body.as_bytes())), "expiresAt", "{body}");
        }
    }

    #[test]
    fn rule_14_scopes_without_number_are_not_compared_with_each_other() {
        // Would take minutes.
        let numbers: Vec<String> = (0..200_000).map(|number| format!("s{number:06}")).collect();
        let known = vec!["operator".to_owned(); 200_000];
        for names in [numbers, known] {
            let body = serde_json::json!({ "scopes": names }).to_string();
            assert_eq!(field(KeyRequest::read(body.as_bytes())), "scopes");
        }
    }

    #[test]
    fn a_customer_may_come_without_an_id() {
        assert_eq!(customer_request(b"").unwrap(), None);
        assert_eq!(customer_request(b"{}").unwrap(), None);
        let id = CustomerId::new();
        assert_eq!(customer_request(format!(r#"{{"id":"{id}"}}"#).as_bytes()).unwrap(), Some(id));
        assert_eq!(field(customer_request(br#"{"id":"x"}"#)), "id");
        assert_eq!(field(customer_request(b"[]")), "body");
    }
}
