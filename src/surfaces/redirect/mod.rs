//! Redirect sessions and the subscriptions to their events: the published API of the first dialect, whole. It answers at the root and under
//! a mount alike; which of the two a request came by shows only in `Location`.

mod error;
mod extract;
mod handlers;
mod outbound;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};
use futures_util::FutureExt as _;
use tower::ServiceExt as _;

use super::kit::conversation::Conversation;
use super::kit::guard::{self, Trouble};
use super::kit::routes::{self, Route};
use super::kit::{Api, ApiSettings};
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

/// The surface at both of its places: its routes, and its own error shape for whatever goes wrong around them.
pub struct Site {
    root: Router,
    mounted: Router,
    settings: Arc<ApiSettings>,
}

impl Site {
    pub fn new(api: Api) -> Self {
        Self::of(routes(), api)
    }

    fn of(table: Vec<Route<Api>>, api: Api) -> Self {
        let settings = api.settings.clone();
        let root = routes::router(table)
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .with_state(api);
        let mounted = Router::new().nest(MOUNT, root.clone()).fallback_service(root.clone());
        Self { root, mounted, settings }
    }

    /// What axum has layers for goes around its router here: a layer is a box more around every handler.
    pub fn answer(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let is_mounted = request.uri().path().starts_with(MOUNT);
        let router = if is_mounted { &self.mounted } else { &self.root };
        let (conversation, timeout) = (guard::conversation(&request), self.settings.request_timeout);
        let handled = router.clone().oneshot(request).map(|Ok(response)| response);
        let settings = self.settings.clone();
        let write = move |trouble: &Trouble, conversation: &Conversation| {
            Exchange::new(settings, conversation.clone()).trouble(trouble)
        };
        guard::guard(conversation, timeout, handled, write)
    }
}

async fn unknown_path(exchange: Exchange) -> Response {
    exchange.trouble(&Trouble::NotFound)
}

/// axum adds `Allow`.
async fn unknown_method(exchange: Exchange) -> Response {
    exchange.trouble(&Trouble::MethodNotAllowed)
}

#[cfg(test)]
mod tests;
