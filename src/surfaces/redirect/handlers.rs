//! The nine operations. Each is three moves: wire to command, one call, result to wire.

use axum::extract::State;
use axum::response::Response;

use super::extract::Asked;
use super::wire::{self, session, subscription};
use crate::domain::Error;
use crate::domain::surface::Surface;
use crate::store;
use crate::surfaces::kit::Api;

pub async fn list_subscriptions(State(api): State<Api>, asked: Asked) -> Response {
    let page = async {
        let wanted = subscription::page(&asked, &api.settings.keys)?;
        let db = &mut *api.hub.connection().await?;
        let (partner, after) = (asked.caller.partner, wanted.after);
        let found =
            store::subscriptions::list(db, partner, Surface::Redirect, after, wanted.limit + 1).await?;
        Ok(subscription::listed(found, &wanted, partner, &api.settings.keys))
    };
    asked.exchange.respond(page.await)
}

pub async fn create_subscription(State(api): State<Api>, asked: Asked) -> Response {
    let command = subscription::create(&asked, &api.settings.egress);
    let show = |made| subscription::created(made, &asked.full_path);
    let render = |result| asked.exchange.render(result, show);
    asked
        .exchange
        .respond(api.hub.replace_subscription(&asked.caller, asked.once.clone(), command, render).await)
}

pub async fn get_subscription(State(api): State<Api>, asked: Asked) -> Response {
    let found = async {
        let id = subscription::id(&asked)?;
        let found = api.hub.find_subscription(&asked.caller, id).await?;
        Ok(subscription::shown(&found))
    };
    asked.exchange.respond(found.await)
}

pub async fn put_subscription(State(api): State<Api>, asked: Asked) -> Response {
    let command = subscription::replace(&asked, &api.settings.egress);
    let render = |result| asked.exchange.render(result, subscription::replaced);
    asked
        .exchange
        .respond(api.hub.replace_subscription(&asked.caller, asked.once.clone(), command, render).await)
}

pub async fn update_subscription(State(api): State<Api>, asked: Asked) -> Response {
    let command = subscription::change(&asked, &api.settings.egress);
    let render = |result| asked.exchange.render(result, |changed| subscription::shown(&changed));
    asked
        .exchange
        .respond(api.hub.change_subscription(&asked.caller, asked.once.clone(), command, render).await)
}

pub async fn delete_subscription(State(api): State<Api>, asked: Asked) -> Response {
    let deleted = async {
        let id = subscription::id(&asked)?;
        api.hub.delete_subscription(&asked.caller, id, &asked.condition).await?;
        Ok(wire::empty(200))
    };
    asked.exchange.respond(deleted.await)
}

pub async fn get_session(State(api): State<Api>, asked: Asked) -> Response {
    let found = async {
        let id = session::id(&asked)?;
        let found = api.hub.find_session(&asked.caller, id).await?;
        session::shown(&found, &api.settings.public_url)
    };
    asked.exchange.respond(found.await)
}

pub async fn put_session(State(api): State<Api>, asked: Asked) -> Response {
    let command = session::open(&asked);
    let show = |result: Result<_, Error>| {
        result.and_then(|opened| session::shown(&opened, &api.settings.public_url))
    };
    let render = |result| asked.exchange.render(show(result), |answer| answer);
    asked.exchange.respond(api.hub.open_session(&asked.caller, asked.once.clone(), command, render).await)
}

pub async fn cancel_session(State(api): State<Api>, asked: Asked) -> Response {
    let command = session::cancel(&asked);
    let exchange = asked.exchange.clone();
    let render = move |result| exchange.render(result, |cancelled| session::cancelled(&cancelled));
    asked.exchange.respond(api.hub.cancel_session(&asked.caller, asked.once.clone(), command, render).await)
}
