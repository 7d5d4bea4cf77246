//! What handlers take from a request: who asks, and which things.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use uuid::Uuid;

use super::Operator;
use crate::domain::caller::Caller;
use crate::domain::id::parse_uuid;
use crate::domain::partner_key::Scope;
use crate::domain::{Error, Violations};
use crate::surfaces::kit::authorize::authorize;
use crate::surfaces::kit::problem::Failure;

/// Proof that an operator asks. It stands first among a handler's arguments, so that nothing is said to anybody else.
pub struct Authorized;

impl FromRequestParts<Operator> for Authorized {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, operator: &Operator) -> Result<Self, Failure> {
        authorize(&operator.hub, parts, Scope::Operator).await?;
        Ok(Self)
    }
}

/// A producer asks. Where it may publish for others, its key has the operator scope as well.
pub struct Producer(pub Caller);

impl FromRequestParts<Operator> for Producer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, operator: &Operator) -> Result<Self, Failure> {
        Ok(Self(authorize(&operator.hub, parts, Scope::Producer).await?))
    }
}

/// The uuids in a path, in their order.
pub struct PathIds<const N: usize>(pub [Uuid; N]);

impl<const N: usize> FromRequestParts<Operator> for PathIds<N> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, operator: &Operator) -> Result<Self, Failure> {
        let params = RawPathParams::from_request_parts(parts, operator)
            .await
            .map_err(|_| Error::invalid("path", "must be percent-encoded UTF-8"))?;
        let mut violations = Violations::default();
        let read = |(name, text): (&str, &str)| violations.check(name, parse_uuid(text));
        let ids: Vec<Uuid> = params.iter().filter_map(read).collect();
        if !violations.is_empty() {
            return Err(violations.into());
        }
        let ids =
            ids.try_into().map_err(|_| Error::internal("a route with other parameters than its handler"))?;
        Ok(Self(ids))
    }
}
