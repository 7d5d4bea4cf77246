//! Redirect sessions and the subscriptions to their events: the published API of the first dialect, whole. It answers at the root and under
//! a mount alike; which of the two a request came by shows only in `Location`.

mod error;
mod extract;
mod handlers;
mod outbound;
mod wire;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};

use super::kit::Api;
use super::kit::guard::{self, Trouble};
use super::kit::routes::{self, Route};
use error::Exchange;

pub use outbound::{Redirect, cancelled};

/// Where the surface is mounted besides the root.
pub const MOUNT: &str = "/customer-authentication-service/v1";

const SUBSCRIPTIONS: &str = "/redirect-session-events/subscriptions";
const SUBSCRIPTION: &str = "/redirect-session-events/subscriptions/{eventSubscriptionId}";
const SESSION: &str = "/redirect-sessions/{redirectSessionId}";
const CANCEL: &str = "/redirect-sessions/{redirectSessionId}/cancel";

pub fn routes() -> Vec<Route<Api>> {
    vec![
        Route::new("GET", SUBSCRIPTIONS, get(handlers::list_subscriptions)),
        Route::new("POST", SUBSCRIPTIONS, post(handlers::create_subscription)),
        Route::new("GET", SUBSCRIPTION, get(handlers::get_subscription)),
        Route::new("PUT", SUBSCRIPTION, put(handlers::put_subscription)),
        Route::new("PATCH", SUBSCRIPTION, patch(handlers::update_subscription)),
        Route::new("DELETE", SUBSCRIPTION, delete(handlers::delete_subscription)),
        Route::new("GET", SESSION, get(handlers::get_session)),
        Route::new("PUT", SESSION, put(handlers::put_session)),
        Route::new("POST", CANCEL, post(handlers::cancel_session)),
    ]
}

/// The surface as a service: its routes, and its own error shape for whatever goes wrong around them.
pub fn router(api: Api) -> Router {
    guarded(routes(), api)
}

fn guarded(table: Vec<Route<Api>>, api: Api) -> Router {
    routes::router(table)
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(api.clone(), bounded))
        .with_state(api)
}

async fn unknown_path(exchange: Exchange) -> Response {
    exchange.trouble(&Trouble::NotFound)
}

/// axum adds `Allow`.
async fn unknown_method(exchange: Exchange) -> Response {
    exchange.trouble(&Trouble::MethodNotAllowed)
}

async fn bounded(State(api): State<Api>, request: Request, next: Next) -> Response {
    let timeout = api.settings.request_timeout;
    guard::guard(request, next, timeout, |trouble, conversation| {
        Exchange::new(api.settings, conversation.clone()).trouble(trouble)
    })
    .await
}

#[cfg(test)]
mod tests;
