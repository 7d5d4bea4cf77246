//! The eight operations. Each is three moves: what was bound into a command, one call, the result into a value.

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request, State};
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method};
use axum::response::Response;

use super::OPERATION;
use super::error::Exchange;
use super::extract::Asked;
use super::wire;
use crate::domain::Error;
use crate::hub::webhooks::Shown;
use crate::surfaces::kit::Api;
use crate::surfaces::kit::guard::Trouble;

/// An operation, by its published name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    BatchGet,
    Find,
    Get,
    List,
    Update,
    Delete,
    BatchDelete,
}

impl Operation {
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::BatchGet,
        Self::Find,
        Self::Get,
        Self::List,
        Self::Update,
        Self::Delete,
        Self::BatchDelete,
    ];

    /// Of the synchronous one; the other has `Async` at its end and does the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CreateWebhookSubscriptions",
            Self::BatchGet => "BatchGetWebhookSubscriptions",
            Self::Find => "FindWebhookSubscription",
            Self::Get => "GetWebhookSubscription",
            Self::List => "ListWebhookSubscriptions",
            Self::Update => "UpdateWebhookSubscription",
            Self::Delete => "DeleteWebhookSubscription",
            Self::BatchDelete => "BatchDeleteWebhookSubscriptions",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        let name = name.strip_suffix("Async").unwrap_or(name);
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// Whether a GET may ask for it.
    pub fn is_read(self) -> bool {
        match self {
            Self::BatchGet | Self::Find | Self::Get | Self::List => true,
            Self::Create | Self::Update | Self::Delete | Self::BatchDelete => false,
        }
    }

    pub async fn answer(self, api: Api, asked: Asked) -> Response {
        let exchange = asked.exchange.clone();
        exchange.respond(self.perform(&api, asked).await)
    }

    async fn perform(self, api: &Api, asked: Asked) -> Result<Response, Error> {
        let Asked { caller, input, exchange } = asked;
        let (hub, egress) = (&api.hub, &api.settings.egress);
        let one = |shown: Result<Shown, Error>| Ok(exchange.show(&wire::one(&shown?)));
        // Many take long to write: the hub has that done where it holds up nobody.
        let all = {
            let exchange = exchange.clone();
            move |shown: Vec<Shown>| exchange.show(&wire::all(&shown))
        };
        match self {
            Self::Create => hub.create_webhooks(&caller, &wire::create(input, egress)?, all).await,
            Self::BatchGet => hub.list_webhooks(&caller, wire::account(input)?.as_ref(), all).await,
            Self::Find => {
                let (event, account) = wire::find(input)?;
                one(hub.find_webhook_to(&caller, &event, account.as_ref()).await)
            }
            Self::Get => one(hub.find_webhook(&caller, wire::id(input)?).await),
            Self::List => hub.list_webhooks_of(&caller, &wire::ids(input)?, all).await,
            Self::Update => one(hub.change_webhook(&caller, &wire::update(input, egress)?).await),
            Self::Delete => one(hub.delete_webhook(&caller, wire::delete(input)?).await),
            Self::BatchDelete => hub.delete_webhooks(&caller, &wire::batch_delete(input)?, all).await,
        }
    }
}

/// An operation that is asked for by its name, as generic clients do.
pub async fn by_name(State(api): State<Api>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(exchange) = Exchange::from_request_parts(&mut parts, &api).await;
    let parameters = RawPathParams::from_request_parts(&mut parts, &api).await;
    let named = parameters.ok().and_then(|parameters| {
        let name = parameters.iter().find(|(name, _)| *name == OPERATION)?.1;
        Operation::named(name)
    });
    let Some(operation) = named else {
        return exchange.trouble(&Trouble::NotFound);
    };
    if parts.method != Method::POST && !operation.is_read() {
        let mut response = exchange.trouble(&Trouble::MethodNotAllowed);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    match Asked::from_request(Request::from_parts(parts, body), &api).await {
        Ok(asked) => operation.answer(api, asked).await,
        Err(refused) => refused,
    }
}
