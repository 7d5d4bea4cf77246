//! What handlers take from a request, with complaints in this dialect: who asks, which thing, which page of which list.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use url::form_urlencoded;
use uuid::Uuid;

use crate::domain::caller::Caller;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::parse_uuid;
use crate::domain::partner_key::Scope;
use crate::domain::surface::Surface;
use crate::domain::webhook;
use crate::domain::{Error, Violations};
use crate::surfaces::kit::authorize::authorize;
use crate::surfaces::kit::problem::Failure;
use crate::surfaces::kit::{Api, cursor};

/// Characters of a published id or an event type at most.
const NAME_CHARS_MAX: usize = 200;

/// The partner who asks. It stands first among a handler's arguments, so that nothing is said to whoever has no key.
pub struct Partner(pub Caller);

impl FromRequestParts<Api> for Partner {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(Self(authorize(&api.hub, parts, Scope::Partner).await?))
    }
}

/// The one uuid in a path.
pub struct PathId(pub Uuid);

impl FromRequestParts<Api> for PathId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let params = params(parts, api).await?;
        let (name, text) = params.first().ok_or_else(|| Error::internal("a route without its parameter"))?;
        let id = parse_uuid(text).map_err(|complaint| Error::invalid(name, complaint))?;
        Ok(Self(id))
    }
}

/// `{surface}/{publishedId}` in a path.
pub struct Published {
    pub surface: Surface,
    pub id: String,
}

impl FromRequestParts<Api> for Published {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let params = params(parts, api).await?;
        let value =
            |name: &str| params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let mut violations = Violations::default();
        let surface = violations.check("surface", surface(value("surface").unwrap_or_default()));
        let id = violations.check("publishedId", name(value("publishedId").unwrap_or_default()));
        match (surface, id) {
            (Some(surface), Some(id)) => Ok(Self { surface, id: canonical(surface, id) }),
            _ => Err(violations.into()),
        }
    }
}

async fn params(parts: &mut Parts, api: &Api) -> Result<Vec<(String, String)>, Failure> {
    let path = Path::<Vec<(String, String)>>::from_request_parts(parts, api).await;
    path.map(|Path(params)| params)
        .map_err(|_| Error::invalid("path", "must be percent-encoded UTF-8").into())
}

/// Which page of which deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    pub state: Option<DeliveryState>,
    pub subscription: Option<(Surface, String)>,
    pub event_type: Option<String>,
    pub cursor: Option<String>,
    pub limit: i64,
}

/// Which page of a list that nothing narrows.
pub struct PageQuery {
    pub cursor: Option<String>,
    pub limit: i64,
}

impl FromRequestParts<Api> for PageQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        Ok(Self::read(parts.uri.query().unwrap_or_default(), cursor::LIMIT_DEFAULT)?)
    }
}

/// The same of a list that stands in something else: as much of it as a page can hold, if nothing is said.
pub struct WidePageQuery(pub PageQuery);

impl FromRequestParts<Api> for WidePageQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        Ok(Self(PageQuery::read(parts.uri.query().unwrap_or_default(), cursor::LIMIT_MAX)?))
    }
}

impl PageQuery {
    /// Errors: every parameter that is wrong.
    fn read(query: &str, limit_default: i64) -> Result<Self, Violations> {
        let (cursor, limit, violations) = Given::read(query, &["cursor", "limit"]).page(limit_default);
        if violations.is_empty() { Ok(Self { cursor, limit }) } else { Err(violations) }
    }
}

impl FromRequestParts<Api> for ListQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        Ok(Self::read(parts.uri.query().unwrap_or_default())?)
    }
}

/// A query's parameters, each once.
struct Given {
    values: Vec<(String, String)>,
    violations: Violations,
}

impl Given {
    /// Unknown ones are ignored, however often they are given.
    fn read(query: &str, known: &[&str]) -> Self {
        let mut given = Self { values: Vec::new(), violations: Violations::default() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&name.as_ref()) {
                continue;
            }
            if given.value(&name).is_some() {
                given.violations.add(name, "is given twice");
            } else {
                given.values.push((name.into_owned(), value.into_owned()));
            }
        }
        given
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn checked<T>(&mut self, name: &str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let checked = self.value(name).map(check)?;
        self.violations.check(name, checked)
    }

    /// Cursor and limit, and what is wrong with the whole.
    fn page(mut self, limit_default: i64) -> (Option<String>, i64, Violations) {
        let mut violations = std::mem::take(&mut self.violations);
        let limit = match self.value("limit") {
            None => limit_default,
            given => cursor::limit(given, &mut violations),
        };
        (self.value("cursor").map(str::to_owned), limit, violations)
    }
}

impl ListQuery {
    /// Errors: every parameter that is wrong.
    fn read(query: &str) -> Result<Self, Violations> {
        let mut given = Given::read(query, &["state", "subscription", "type", "cursor", "limit"]);
        let state = given.checked("state", state);
        let subscription = given.checked("subscription", reference);
        let event_type = given.checked("type", name);
        let (cursor, limit, violations) = given.page(cursor::LIMIT_DEFAULT);
        let read = Self { state, subscription, event_type, cursor, limit };
        if violations.is_empty() { Ok(read) } else { Err(violations) }
    }

    /// The list's name with all that narrows it: a cursor of one list is none of another.
    pub fn list_name(&self) -> String {
        let state = self.state.map(DeliveryState::as_str);
        let subscription = self.subscription.as_ref().map(|(surface, id)| (surface.as_str(), id));
        format!("deliveries {:?}", (state, subscription, &self.event_type))
    }
}

fn state(text: &str) -> Result<DeliveryState, String> {
    DeliveryState::parse(text)
        .ok_or_else(|| format!("must be one of {}", words(DeliveryState::ALL.map(DeliveryState::as_str))))
}

fn surface(text: &str) -> Result<Surface, String> {
    Surface::parse(text).ok_or_else(|| format!("must be one of {}", words(Surface::ALL.map(Surface::as_str))))
}

/// `surface/publishedId`.
pub fn reference(text: &str) -> Result<(Surface, String), String> {
    let (before, after) = text.split_once('/').ok_or("must be surface/publishedId")?;
    let surface =
        surface(before).map_err(|complaint| format!("must begin with a surface, which {complaint}"))?;
    let id = name(after).map_err(|complaint| format!("must end with a published id, which {complaint}"))?;
    Ok((surface, canonical(surface, id)))
}

/// A published id as it is stored: what its surface itself takes for an id is one here, too, however it is written. Other text is nobody's id
/// and stays as it is.
fn canonical(surface: Surface, id: String) -> String {
    let uuid = match surface {
        Surface::Redirect => parse_uuid(&id).ok(),
        Surface::Webhooks => webhook::guid(&id),
        Surface::Notifications => None,
    };
    uuid.map_or(id, |uuid| uuid.to_string())
}

/// A published id, or an event type.
pub fn name(text: &str) -> Result<String, String> {
    let fits =
        (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(|c| c.is_ascii_control());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("must have 1 to {NAME_CHARS_MAX} characters, none of them a control character"))
    }
}

fn words<const N: usize>(words: [&str; N]) -> String {
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(query: &str) -> Vec<String> {
        let violations = ListQuery::read(query).expect_err(query);
        violations.iter().map(|one| one.field.clone()).collect()
    }

    #[test]
    fn a_list_is_narrowed_by_what_is_given() {
        assert_eq!(ListQuery::read("").unwrap(), ListQuery { limit: 50, ..ListQuery::default() });
        assert_eq!(
            ListQuery::read("state=dead&subscription=notifications%2Fa+b%2Fc&type=T&limit=7&other=1&other=2")
                .unwrap(),
            ListQuery {
                state: Some(DeliveryState::Dead),
                subscription: Some((Surface::Notifications, "a b/c".to_owned())),
                event_type: Some("T".to_owned()),
                cursor: None,
                limit: 7,
            }
        );
    }

    #[test]
    fn an_id_is_the_same_however_its_surface_lets_it_be_written() {
        let id = "6d245f63-fdfc-4a6b-a351-bc0b03260dcd";
        let (upper, plain) = (id.to_uppercase(), id.replace('-', ""));
        let braced = format!("{{{upper}}}");
        for (surface, text, read) in [
            ("redirect", upper.as_str(), id),
            ("redirect", &braced, &braced),
            ("redirect", &plain, &plain),
            ("webhooks", &upper, id),
            ("webhooks", &braced, id),
            ("webhooks", &plain, id),
            ("webhooks", "none", "none"),
            ("notifications", &upper, &upper),
        ] {
            let (_, found) = reference(&format!("{surface}/{text}")).unwrap();
            assert_eq!(found, read, "{surface}/{text}");
        }
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let long = "x".repeat(201);
        for (query, fields) in [
            ("state=Dead", vec!["state"]),
            ("state=", vec!["state"]),
            ("subscription=abc", vec!["subscription"]),
            ("subscription=other/abc", vec!["subscription"]),
            ("subscription=redirect/", vec!["subscription"]),
            ("subscription=redirect/a%00b", vec!["subscription"]),
            ("type=%00", vec!["type"]),
            (&format!("type={long}"), vec!["type"]),
            ("limit=-1", vec!["limit"]),
            ("limit=101&state=x", vec!["state", "limit"]),
            ("limit=1&limit=1", vec!["limit"]),
        ] {
            assert_eq!(complaints(query), fields, "{query}");
        }
    }

    #[test]
    fn lists_that_differ_in_a_filter_have_different_names() {
        let names: Vec<String> =
            ["", "state=dead", "type=dead", "subscription=redirect/dead", "type=a&state=dead"]
                .iter()
                .map(|query| ListQuery::read(query).unwrap().list_name())
                .collect();
        for (index, one) in names.iter().enumerate() {
            assert!(!names[index + 1..].contains(one), "{one}");
        }
        assert_eq!(ListQuery::read("limit=3").unwrap().list_name(), names[0]);
    }
}
