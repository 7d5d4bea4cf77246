//! The operations: from the wire, one call, to the wire.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;

use super::Answered;
use super::extract::{ListQuery, PageQuery, Partner, PathId, Published, WidePageQuery};
use super::wire::{
    Attempt, Delivery, DeliveryWithAttempts, Event, NewReplay, Page, Replay, SigningKey, SubscriptionState,
    TestResult, policy_change,
};
use crate::domain::id::{AttemptId, DeliveryId, EventId, ReplayId};
use crate::store::deliveries::Filter;
use crate::surfaces::kit::guard::Trouble;
use crate::surfaces::kit::problem::Failure;
use crate::surfaces::kit::{Api, body, cursor};

/// The list's name, for its cursors.
const REPLAYS: &str = "replays";

pub async fn list_deliveries(
    State(api): State<Api>,
    Partner(caller): Partner,
    query: ListQuery,
) -> Answered<Json<Page<Delivery>>> {
    let (keys, list) = (&api.settings.keys, query.list_name());
    let before = query.cursor.as_deref().map(|text| cursor::read(keys, caller.partner, &list, text));
    let filter = Filter { state: query.state, event_type: query.event_type, ..Filter::default() };
    let of = query.subscription.as_ref().map(|(surface, id)| (*surface, id.as_str()));
    let before = before.transpose()?.map(DeliveryId);
    let found = api.hub.list_deliveries(&caller, filter, of, before, query.limit).await?;
    let next_cursor = found.rest.map(|last| cursor::write(keys, caller.partner, &list, last.0));
    Ok(Json(Page { items: found.deliveries.into_iter().map(Delivery::from).collect(), next_cursor }))
}

pub async fn get_delivery(
    State(api): State<Api>,
    Partner(caller): Partner,
    PathId(id): PathId,
    WidePageQuery(query): WidePageQuery,
) -> Answered<Json<DeliveryWithAttempts>> {
    let (keys, list) = (&api.settings.keys, format!("delivery {id}"));
    let before = query.cursor.as_deref().map(|text| cursor::read(keys, caller.partner, &list, text));
    let before = before.transpose()?.map(AttemptId);
    let (delivery, page) = api.hub.find_delivery(&caller, DeliveryId(id), before, query.limit).await?;
    let next_cursor = page.rest.map(|first| cursor::write(keys, caller.partner, &list, first.0));
    let attempts = Attempt::numbered(page.attempts, page.earlier);
    Ok(Json(DeliveryWithAttempts { delivery: delivery.into(), attempts, next_cursor }))
}

pub async fn redeliver(
    State(api): State<Api>,
    Partner(caller): Partner,
    PathId(id): PathId,
) -> Answered<(StatusCode, Json<Delivery>)> {
    let delivery = api.hub.redeliver(&caller, DeliveryId(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}

pub async fn list_replays(
    State(api): State<Api>,
    Partner(caller): Partner,
    query: PageQuery,
) -> Answered<Json<Page<Replay>>> {
    let keys = &api.settings.keys;
    let before = query.cursor.as_deref().map(|text| cursor::read(keys, caller.partner, REPLAYS, text));
    let before = before.transpose()?.map(ReplayId);
    let (found, rest) = api.hub.list_replays(&caller, before, query.limit).await?;
    let next_cursor = rest.map(|last| cursor::write(keys, caller.partner, REPLAYS, last.0));
    Ok(Json(Page { items: found.into_iter().map(Replay::from).collect(), next_cursor }))
}

pub async fn create_replay(
    State(api): State<Api>,
    Partner(caller): Partner,
    request: Request,
) -> Answered<(StatusCode, Json<Replay>)> {
    let body = body::json(request, api.settings.body_bytes_max).await?;
    let NewReplay { of, dry_run } = NewReplay::read(&body)?;
    let begun = api.hub.begin_replay(&caller, &of, dry_run).await?;
    Ok((StatusCode::ACCEPTED, Json(begun.into())))
}

pub async fn get_replay(
    State(api): State<Api>,
    Partner(caller): Partner,
    PathId(id): PathId,
) -> Answered<Json<Replay>> {
    Ok(Json(api.hub.find_replay(&caller, ReplayId(id)).await?.into()))
}

pub async fn cancel_replay(
    State(api): State<Api>,
    Partner(caller): Partner,
    PathId(id): PathId,
) -> Answered<Json<Replay>> {
    Ok(Json(api.hub.cancel_replay(&caller, ReplayId(id)).await?.into()))
}

pub async fn get_event(
    State(api): State<Api>,
    Partner(caller): Partner,
    PathId(id): PathId,
    WidePageQuery(query): WidePageQuery,
) -> Answered<Json<Event>> {
    let (keys, list) = (&api.settings.keys, format!("event {id}"));
    let before = query.cursor.as_deref().map(|text| cursor::read(keys, caller.partner, &list, text));
    let before = before.transpose()?.map(DeliveryId);
    let (event, page) = api.hub.find_event(&caller, EventId(id), before, query.limit).await?;
    let next_cursor = page.rest.map(|last| cursor::write(keys, caller.partner, &list, last.0));
    Ok(Json(Event::new(event, page.deliveries, next_cursor)?))
}

pub async fn get_subscription(
    State(api): State<Api>,
    Partner(caller): Partner,
    published: Published,
) -> Answered<Json<SubscriptionState>> {
    let standing = api.hub.find_standing(&caller, published.surface, &published.id).await?;
    Ok(Json(SubscriptionState::new(standing, &api.settings.default_policy)))
}

pub async fn set_policy(
    State(api): State<Api>,
    Partner(caller): Partner,
    published: Published,
    request: Request,
) -> Answered<Json<SubscriptionState>> {
    let body = body::json(request, api.settings.body_bytes_max).await?;
    let change = policy_change(&body)?;
    let Published { surface, id } = &published;
    api.hub.set_policy(&caller, *surface, id, change).await?;
    let standing = api.hub.find_standing(&caller, *surface, id).await?;
    Ok(Json(SubscriptionState::new(standing, &api.settings.default_policy)))
}

pub async fn roll_signing_key(
    State(api): State<Api>,
    Partner(caller): Partner,
    published: Published,
) -> Answered<(StatusCode, Json<SigningKey>)> {
    let key = api.hub.roll_signing_key(&caller, published.surface, &published.id).await?;
    Ok((StatusCode::CREATED, Json(SigningKey::shown_once(&key)?)))
}

pub async fn test(
    State(api): State<Api>,
    Partner(caller): Partner,
    published: Published,
) -> Answered<Json<TestResult>> {
    let tested = api.hub.test(&caller, published.surface, &published.id).await?;
    Ok(Json(tested.try_into()?))
}

pub async fn nothing_here() -> Failure {
    Trouble::NotFound.into()
}

pub async fn no_such_method() -> Failure {
    Trouble::MethodNotAllowed.into()
}
