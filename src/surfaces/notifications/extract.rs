//! What handlers take from a request, with complaints in this dialect. The caller is proven before a body is read.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::Method;
use axum::http::request::Parts;
use bytes::Bytes;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::error::Failure;
use crate::domain::access_token::AccessToken;
use crate::domain::caller::Caller;
use crate::domain::partner_key::Scope;
use crate::domain::{Error, Violations};
use crate::surfaces::kit::Api;
use crate::surfaces::kit::authorize::authorize;
use crate::surfaces::kit::guard::Trouble;
use crate::surfaces::kit::presented_key::presented_key;
use crate::surfaces::kit::{body, path};

/// The partner who asks. It stands first among a handler's arguments, so that nothing is said to whoever has no token and no key.
pub struct Partner(pub Caller);

impl FromRequestParts<Api> for Partner {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        match authorize(&api.hub, parts, Scope::Partner).await {
            Ok(caller) => Ok(Self(caller)),
            Err(Error::Unauthorized) if presented_token(parts).is_some() => Err(Failure::token_expired()),
            Err(error) => Err(error.into()),
        }
    }
}

fn presented_token(parts: &Parts) -> Option<AccessToken> {
    presented_key(&parts.headers).and_then(|text| AccessToken::parse(&text))
}

/// The name in the path, whatever is in it.
pub struct Named(pub String);

impl FromRequestParts<Api> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(Self(path::first_parameter(parts, api).await))
    }
}

/// A body that has to be JSON.
pub struct JsonBody(pub Bytes);

impl FromRequest<Api> for JsonBody {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        Ok(Self(body::json(request, api.settings.body_bytes_max).await?))
    }
}

/// The update that a GET is when it comes with JSON, as the published page has it. A HEAD never is one.
pub struct UpdateByGet(pub Option<Bytes>);

impl FromRequest<Api> for UpdateByGet {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        if request.method() != Method::GET || !body::is_json(request.headers()) {
            return Ok(Self(None));
        }
        let bytes = body::read(request.into_body(), api.settings.body_bytes_max).await?;
        Ok(Self(Some(bytes).filter(|bytes| !bytes.iter().all(u8::is_ascii_whitespace))))
    }
}

/// What is to be done with a callback instead of reading it.
pub struct Action(pub Option<String>);

impl FromRequestParts<Api> for Action {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        Ok(Self(action(parts.uri.query())))
    }
}

/// The `action` of a query.
pub fn action(query: Option<&str>) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "action").map(|(_, value)| value.into_owned())
}

const FORM: &str = "application/x-www-form-urlencoded";

/// How somebody asks for a token.
pub enum Login {
    Password {
        user_name: String,
        password: Zeroizing<String>,
    },
    /// With what is in the header.
    Token(Zeroizing<String>),
}

/// Parameters come as a form or, from clients that know no better, in the query, which no log ever sees.
impl FromRequest<Api> for Login {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let form = body::read(body, api.settings.body_bytes_max).await?;
        if !form.is_empty() && body::essence(&parts.headers) != FORM {
            return Err(Trouble::UnsupportedMediaType.into());
        }
        let query = parts.uri.query().unwrap_or_default();
        let mut violations = Violations::default();
        let mut one = |name: &str| one(name, &form, query, &mut violations);
        let (auth_type, user_name, password) = (one("auth_type"), one("user_name"), one("password"));
        match (auth_type.as_deref().map(String::as_str), user_name, password) {
            (Some("password"), Some(user_name), Some(password)) if violations.is_empty() => {
                Ok(Self::Password { user_name: user_name.to_string(), password })
            }
            (Some("token"), ..) if violations.is_empty() => {
                let token = presented_key(&parts.headers).ok_or(Error::Unauthorized)?;
                Ok(Self::Token(Zeroizing::new(token)))
            }
            (Some("password"), user_name, password) => {
                for (name, value) in [("user_name", user_name), ("password", password)] {
                    if value.is_none() {
                        violations.add(name, "is required");
                    }
                }
                Err(violations.into())
            }
            _ => {
                violations.add("auth_type", "must be password or token");
                Err(violations.into())
            }
        }
    }
}

/// A parameter, which may be there once.
fn one(name: &str, form: &[u8], query: &str, violations: &mut Violations) -> Option<Zeroizing<String>> {
    let all = form_urlencoded::parse(form).chain(form_urlencoded::parse(query.as_bytes()));
    let mut values = all.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    let first = values.next()?;
    if values.next().is_some() {
        violations.add(name, "must be given once");
    }
    Some(Zeroizing::new(first))
}
