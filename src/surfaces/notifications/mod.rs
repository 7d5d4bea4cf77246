//! Event notifications: the published API of named callbacks and the subscriptions that share them, whole.

mod error;
mod extract;
mod handlers;
mod outbound;
mod wire;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};

use super::kit::Api;
use super::kit::guard::{self, Trouble};
use super::kit::routes::{self, Route};
use error::Failure;

pub use outbound::Notifications;

/// The first part of every path of this surface, and of no other's.
pub const PREFIX: &str = "rest";

const TOKEN: &str = "/rest/api/v1.3/auth/token";
/// Where clients of an earlier version ask for tokens.
const EARLIER_TOKEN: &str = "/rest/api/v1.1/auth/token";
const CALLBACKS: &str = "/rest/api/v1.3/notifications/callbacks";
const CALLBACK: &str = "/rest/api/v1.3/notifications/callbacks/{callbackName}";
const VERIFY: &str = "/rest/api/v1.3/notifications/callbacks/{callbackName}/actions/verify";
const CALLBACK_SUBSCRIPTIONS: &str = "/rest/api/v1.3/notifications/callbacks/{callbackName}/subscriptions";
const SUBSCRIPTIONS: &str = "/rest/api/v1.3/notifications/subscriptions";
const SUBSCRIPTION: &str = "/rest/api/v1.3/notifications/subscriptions/{subscriptionName}";
const EVENT_LIST: &str = "/rest/api/v1.3/notifications/eventList";

pub fn routes() -> Vec<Route<Api>> {
    vec![
        Route::new("POST", TOKEN, post(handlers::issue_token)),
        Route::new("POST", EARLIER_TOKEN, post(handlers::issue_token)),
        Route::new("GET", CALLBACKS, get(handlers::list_callbacks)),
        Route::new("POST", CALLBACKS, post(handlers::create_callback)),
        Route::new("GET", CALLBACK, get(handlers::get_callback)),
        Route::new("PUT", CALLBACK, put(handlers::update_callback)),
        Route::new("DELETE", CALLBACK, delete(handlers::delete_callback)),
        Route::new("GET", VERIFY, get(handlers::verify_callback)),
        Route::new("GET", CALLBACK_SUBSCRIPTIONS, get(handlers::list_callback_subscriptions)),
        Route::new("GET", SUBSCRIPTIONS, get(handlers::list_subscriptions)),
        Route::new("POST", SUBSCRIPTIONS, post(handlers::create_subscription)),
        Route::new("GET", SUBSCRIPTION, get(handlers::get_or_update_subscription)),
        Route::new("PUT", SUBSCRIPTION, put(handlers::update_subscription)),
        Route::new("DELETE", SUBSCRIPTION, delete(handlers::delete_subscription)),
        Route::new("GET", EVENT_LIST, get(handlers::list_event_types)),
    ]
}

/// The surface as a service: its routes, and its own error shape for whatever goes wrong around them.
pub fn router(api: Api) -> Router {
    guarded(routes(), api)
}

fn guarded(table: Vec<Route<Api>>, api: Api) -> Router {
    routes::router(table)
        .fallback(async || Failure::from(Trouble::NotFound))
        // axum adds `Allow`.
        .method_not_allowed_fallback(async || Failure::from(Trouble::MethodNotAllowed))
        .layer(middleware::from_fn_with_state(api.clone(), bounded))
        .with_state(api)
}

/// Every request within its time, and no answer kept by anybody on its way: some hold a token, and a GET may have been an update. Trying a
/// callback out waits for somebody else's server, and may for as long as an attempt may take.
async fn bounded(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let waits = match path.as_deref() {
        Some(VERIFY) => true,
        Some(CALLBACK) => extract::action(request.uri().query()).is_some(),
        _ => false,
    };
    let timeout = api.request_timeout(waits);
    let conversation = guard::conversation(&request);
    let write = |trouble: &Trouble, _: &_| Failure::from(trouble.clone()).into_response();
    let mut response = guard::guard(conversation.clone(), timeout, next.run(request), write).await;
    error::log(&mut response, &conversation);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
