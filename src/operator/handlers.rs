//! The operations: from the wire, one call, to the wire.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;

use super::Operator;
use super::extract::{Authorized, PathIds};
use super::wire::{CompletedSession, Customer, Key, KeyRequest, Partner, customer_request, partner_request};
use crate::domain::id::{ApiKeyId, CustomerId, PartnerId};
use crate::surfaces::kit::body;
use crate::surfaces::kit::guard::Trouble;
use crate::surfaces::kit::problem::Failure;

type Made<T> = Result<(StatusCode, Json<T>), Failure>;
type Gone = Result<StatusCode, Failure>;

pub async fn create_partner(
    State(operator): State<Operator>,
    _: Authorized,
    request: Request,
) -> Made<Partner> {
    let name = partner_request(&body::json(request, operator.settings.body_bytes_max).await?)?;
    let (id, created_at) = operator.hub.create_partner(name.as_str()).await?;
    Ok((StatusCode::CREATED, Json(Partner::new(id, &name, created_at))))
}

pub async fn create_key(
    State(operator): State<Operator>,
    _: Authorized,
    PathIds([partner]): PathIds<1>,
    request: Request,
) -> Made<Key> {
    let asked = KeyRequest::read(&body::json(request, operator.settings.body_bytes_max).await?)?;
    let new = operator.hub.create_key(PartnerId(partner), asked.scopes, asked.expires_at).await?;
    Ok((StatusCode::CREATED, Json(Key::shown_once(&new, &asked)?)))
}

pub async fn revoke_key(
    State(operator): State<Operator>,
    _: Authorized,
    PathIds([partner, key]): PathIds<2>,
) -> Gone {
    operator.hub.revoke_key(PartnerId(partner), ApiKeyId(key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn create_customer(
    State(operator): State<Operator>,
    _: Authorized,
    PathIds([partner]): PathIds<1>,
    request: Request,
) -> Made<Customer> {
    let id = customer_request(&body::json(request, operator.settings.body_bytes_max).await?)?;
    let (id, partner) = (id.unwrap_or_else(CustomerId::new), PartnerId(partner));
    let created_at = operator.hub.create_customer(partner, id).await?;
    Ok((StatusCode::CREATED, Json(Customer::new(id, partner, created_at))))
}

pub async fn erase_customer(
    State(operator): State<Operator>,
    _: Authorized,
    PathIds([customer]): PathIds<1>,
) -> Gone {
    operator.hub.erase_customer(CustomerId(customer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn complete_session(
    State(operator): State<Operator>,
    _: Authorized,
    PathIds([session]): PathIds<1>,
) -> Result<Json<CompletedSession>, Failure> {
    Ok(Json(operator.hub.complete_session(session).await?.into()))
}

pub async fn nothing_here() -> Failure {
    Trouble::NotFound.into()
}

pub async fn no_such_method() -> Failure {
    Trouble::MethodNotAllowed.into()
}
