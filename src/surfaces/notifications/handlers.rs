//! The operations. Each is three moves: wire to command, one call, result to wire.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};

use super::error::Failure;
use super::extract::{Action, JsonBody, Login, Named, Partner, UpdateByGet};
use super::wire::callback::{self, CallbackBody, CallbackSubscriptions, Verified};
use super::wire::subscription::{self, Listed, SubscriptionBody};
use super::wire::{Deleted, TokenBody};
use crate::domain::caller::Caller;
use crate::domain::notification::EVENT_TYPES;
use crate::domain::{Error, Violations};
use crate::surfaces::kit::Api;

type Answered<T> = Result<Json<T>, Failure>;

pub async fn issue_token(State(api): State<Api>, login: Login) -> Answered<TokenBody> {
    let issued = match &login {
        Login::Password { user_name, password } => {
            let issued = api.hub.issue_token(user_name, password).await;
            issued.map_err(|error| or(error, Failure::login_failed()))
        }
        Login::Token(token) => {
            let issued = api.hub.refresh_token(token).await;
            issued.map_err(|error| or(error, Failure::token_expired()))
        }
    };
    Ok(Json(TokenBody::shown_once(&issued?, &api.settings.public_url)?))
}

/// What an unproven caller is told here.
fn or(error: Error, unproven: Failure) -> Failure {
    if matches!(error, Error::Unauthorized) { unproven } else { error.into() }
}

pub async fn list_callbacks(State(api): State<Api>, Partner(caller): Partner) -> Answered<Vec<CallbackBody>> {
    let callbacks = api.hub.list_callbacks(&caller).await?;
    Ok(Json(callbacks.into_iter().map(CallbackBody::from).collect()))
}

pub async fn create_callback(
    State(api): State<Api>,
    Partner(caller): Partner,
    JsonBody(body): JsonBody,
) -> Answered<CallbackBody> {
    let command = callback::create(&body, &api.settings.egress)?;
    Ok(Json(api.hub.create_callback(&caller, command).await?.into()))
}

pub async fn get_callback(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
    Action(action): Action,
) -> Result<Response, Failure> {
    match action.as_deref() {
        None => {
            let callback = api.hub.find_callback(&caller, &name).await?;
            Ok(Json(CallbackBody::from(callback)).into_response())
        }
        Some("verify") => Ok(Json(verify(&api, &caller, &name).await?).into_response()),
        Some(_) => Err(Violations::one("action", "must be verify").into()),
    }
}

pub async fn update_callback(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
    JsonBody(body): JsonBody,
) -> Answered<CallbackBody> {
    let command = callback::change(&body, &api.settings.egress)?;
    Ok(Json(api.hub.change_callback(&caller, &name, command).await?.into()))
}

pub async fn delete_callback(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
) -> Answered<Deleted> {
    api.hub.delete_callback(&caller, &name).await?;
    Ok(Json(Deleted::new("CallBack", &name)))
}

pub async fn verify_callback(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
) -> Answered<Verified> {
    Ok(Json(verify(&api, &caller, &name).await?))
}

async fn verify(api: &Api, caller: &Caller, name: &str) -> Result<Verified, Failure> {
    let callback = api.hub.verify_callback(caller, name).await?;
    Ok(Verified::new(&callback.name))
}

pub async fn list_callback_subscriptions(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
) -> Answered<CallbackSubscriptions> {
    let (callback, subscriptions) = api.hub.find_callback_with_subscriptions(&caller, &name).await?;
    Ok(Json(CallbackSubscriptions::new(callback, subscriptions)))
}

pub async fn list_subscriptions(State(api): State<Api>, Partner(caller): Partner) -> Answered<Vec<Listed>> {
    let subscriptions = api.hub.list_notifications(&caller).await?;
    Ok(Json(subscriptions.into_iter().map(Listed::from).collect()))
}

pub async fn create_subscription(
    State(api): State<Api>,
    Partner(caller): Partner,
    JsonBody(body): JsonBody,
) -> Answered<SubscriptionBody> {
    let (name, wish) = subscription::create(&body)?;
    Ok(Json(api.hub.create_notification(&caller, &name, wish).await?.into()))
}

pub async fn get_or_update_subscription(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
    UpdateByGet(body): UpdateByGet,
) -> Answered<SubscriptionBody> {
    match body {
        None => Ok(Json(api.hub.find_notification(&caller, &name).await?.into())),
        Some(body) => update(&api, &caller, &name, &body).await,
    }
}

pub async fn update_subscription(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
    JsonBody(body): JsonBody,
) -> Answered<SubscriptionBody> {
    update(&api, &caller, &name, &body).await
}

async fn update(api: &Api, caller: &Caller, name: &str, body: &[u8]) -> Answered<SubscriptionBody> {
    let wish = subscription::update(body)?;
    Ok(Json(api.hub.update_notification(caller, name, wish).await?.into()))
}

pub async fn delete_subscription(
    State(api): State<Api>,
    Partner(caller): Partner,
    Named(name): Named,
) -> Answered<Deleted> {
    api.hub.delete_notification(&caller, &name).await?;
    Ok(Json(Deleted::new("Subscription", &name)))
}

pub async fn list_event_types(_: Partner) -> Json<[&'static str; EVENT_TYPES.len()]> {
    Json(EVENT_TYPES)
}
