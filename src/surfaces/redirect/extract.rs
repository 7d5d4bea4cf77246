//! A request taken apart: who asks, and everything of it that a command is made of.
//!
//! The caller is proven before the body is read. What is wrong with a header or the path is kept, so that it can be told together with
//! what is wrong in the body.

use axum::extract::{FromRequest, FromRequestParts, OriginalUri, Request};
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;
use uuid::Uuid;

use super::error::Exchange;
use crate::domain::Violations;
use crate::domain::caller::Caller;
use crate::domain::id::parse_uuid;
use crate::domain::partner_key::Scope;
use crate::domain::version::IfMatch;
use crate::hub::Once;
use crate::surfaces::kit::Api;
use crate::surfaces::kit::authorize::authorize;
use crate::surfaces::kit::body;
use crate::surfaces::kit::conversation::{Conversation, REQUEST_ID};
use crate::surfaces::kit::guard::Trouble;
use crate::surfaces::kit::path;

pub struct Asked {
    pub exchange: Exchange,
    pub caller: Caller,
    /// There when the request may be repeated safely.
    pub once: Option<Once>,
    pub condition: IfMatch,
    /// Empty for methods that carry none.
    pub body: Bytes,
    pub query: String,
    /// The path that was asked, its mount included.
    pub full_path: String,
    /// The first parameter of the path; empty when it is unreadable.
    path_id: String,
    /// What is wrong with the headers.
    violations: Violations,
}

impl Asked {
    /// What is wrong with the request so far, to be added to.
    pub fn violations(&self) -> Violations {
        self.violations.clone()
    }

    /// The id in the path, under the name that its operation publishes.
    pub fn id(&self, name: &str, violations: &mut Violations) -> Option<Uuid> {
        violations.check(name, parse_uuid(&self.path_id))
    }
}

#[cfg(test)]
impl Asked {
    /// A request with this id in its path and this body, and nothing wrong with its headers.
    pub fn example(path_id: &str, body: &str) -> Self {
        use crate::domain::id::{ApiKeyId, PartnerId};
        use crate::domain::partner_key::Scopes;

        let conversation = Conversation { request_id: "r".into(), correlation_id: "c".into() };
        Self {
            exchange: Exchange::new(crate::surfaces::kit::tests::api().settings, conversation),
            caller: Caller { partner: PartnerId::new(), key: ApiKeyId::new(), scopes: Scopes::all() },
            once: None,
            condition: IfMatch::Absent,
            body: Bytes::from(body.to_owned()),
            query: String::new(),
            full_path: String::new(),
            path_id: path_id.to_owned(),
            violations: Violations::default(),
        }
    }
}

impl FromRequest<Api> for Asked {
    type Rejection = Response;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::of(&parts, api);
        let caller = authorize(&api.hub, &parts, Scope::Partner)
            .await
            .map_err(|error| exchange.respond(Err(error)))?;
        let carries_body = [Method::PUT, Method::PATCH, Method::POST].contains(&parts.method);
        let body = if carries_body {
            read_body(&parts.headers, body, api).await.map_err(|trouble| exchange.trouble(&trouble))?
        } else {
            Bytes::new()
        };
        let mut violations = Violations::default();
        // Elsewhere any text is just echoed.
        let request_id = if carries_body { request_id(&parts.headers, &mut violations) } else { None };
        let once = request_id.map(|request_id| Once { request_id, fingerprint: fingerprint(&parts, &body) });
        let Ok(OriginalUri(full_uri)) = OriginalUri::from_request_parts(&mut parts, api).await;
        Ok(Self {
            exchange,
            caller,
            once,
            condition: condition(&parts.headers),
            body,
            query: parts.uri.query().unwrap_or_default().to_owned(),
            full_path: full_uri.path().to_owned(),
            path_id: path::first_parameter(&mut parts, api).await,
            violations,
        })
    }
}

/// For those who answer without having looked at the request.
impl FromRequestParts<Api> for Exchange {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Self::Rejection> {
        Ok(Exchange::of(parts, api))
    }
}

impl Exchange {
    /// The listener's outermost layer has put the ids there.
    fn of(parts: &Parts, api: &Api) -> Self {
        Self::new(api.settings.clone(), Conversation::among(&parts.extensions))
    }
}

async fn read_body(headers: &HeaderMap, body: axum::body::Body, api: &Api) -> Result<Bytes, Trouble> {
    let bytes = body::read(body, api.settings.body_bytes_max).await?;
    if bytes.is_empty() || body::is_json(headers) { Ok(bytes) } else { Err(Trouble::UnsupportedMediaType) }
}

fn request_id(headers: &HeaderMap, violations: &mut Violations) -> Option<Uuid> {
    let mut given = headers.get_all(REQUEST_ID).iter();
    let first = given.next()?;
    if given.next().is_some() {
        violations.add(REQUEST_ID.as_str(), "must be given once");
        return None;
    }
    violations.check(REQUEST_ID.as_str(), parse_uuid(first.to_str().unwrap_or_default()))
}

/// Every failure of a condition is the same conflict: what cannot be read as entity tags is a condition that nothing meets.
fn condition(headers: &HeaderMap) -> IfMatch {
    let lines = if_match_lines(headers);
    if lines.is_empty() {
        return IfMatch::Absent;
    }
    let text = String::from_utf8_lossy(&lines.join(&b", "[..])).into_owned();
    IfMatch::parse(&text).unwrap_or_else(|_| IfMatch::Tags(Vec::new()))
}

fn if_match_lines(headers: &HeaderMap) -> Vec<&[u8]> {
    headers.get_all(IF_MATCH).iter().map(|value| value.as_bytes()).collect()
}

/// All that makes a repeated request the same request. None of the parts but the last can hold a NUL.
fn fingerprint(parts: &Parts, body: &[u8]) -> Vec<u8> {
    let if_match = if_match_lines(&parts.headers).join(&b", "[..]);
    // Inside a mount this is the path without it: the same request by another way is the same request.
    [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), &if_match, body].join(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_request_id_is_one_uuid() {
        let id = "1e7a2a63-3f5d-4a57-9d43-0a5f6cf0b0c1";
        let read = |pairs: &[(&'static str, &str)]| {
            let mut violations = Violations::default();
            let found = request_id(&headers(pairs), &mut violations);
            let fields: Vec<_> = violations.iter().map(|one| one.field.clone()).collect();
            (found.map(|id| id.to_string()), fields)
        };
        assert_eq!(read(&[]), (None, vec![]));
        assert_eq!(read(&[("x-request-id", id)]), (Some(id.to_owned()), vec![]));
        for bad in [
            &[("x-request-id", "")][..],
            &[("x-request-id", "42")],
            &[("x-request-id", id), ("x-request-id", id)],
        ] {
            assert_eq!(read(bad), (None, vec!["x-request-id".to_owned()]), "{bad:?}");
        }
    }

    #[test]
    fn several_lines_of_if_match_are_one_list_and_gibberish_matches_nothing() {
        let tags = |list: &[&str]| IfMatch::Tags(list.iter().map(|tag| tag.to_string()).collect());
        assert_eq!(condition(&headers(&[])), IfMatch::Absent);
        assert_eq!(condition(&headers(&[("if-match", "*")])), IfMatch::Any);
        assert_eq!(condition(&headers(&[("if-match", "\"1\""), ("if-match", "\"2\"")])), tags(&["1", "2"]));
        for gibberish in ["", "1", "\"1", "*, \"1\"", "W/\"1\""] {
            assert_eq!(condition(&headers(&[("if-match", gibberish)])), tags(&[]), "{gibberish}");
        }
    }

    #[test]
    fn every_part_of_a_request_counts_for_its_fingerprint() {
        let of = |method: &str, uri: &str, if_match: &str, body: &str| {
            let request = axum::http::Request::builder().method(method).uri(uri).header(IF_MATCH, if_match);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            fingerprint(&parts, body.as_bytes())
        };
        let first = of("PUT", "/a", "*", "b");
        assert_eq!(first, of("PUT", "/a", "*", "b"));
        for other in [
            of("POST", "/a", "*", "b"),
            of("PUT", "/b", "*", "b"),
            of("PUT", "/a", "", "b"),
            of("PUT", "/a", "*", "c"),
        ] {
            assert_ne!(first, other);
        }
    }
}
