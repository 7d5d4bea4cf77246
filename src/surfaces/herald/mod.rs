//! Herald's own API: what partners see of deliveries, events and the standing of their subscriptions, whichever surface made them.

mod extract;
mod handlers;
mod wire;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, patch, post};

use super::kit::problem::{Failure, write_failures, write_trouble};
use super::kit::routes::{self, Route};
use super::kit::{Api, guard};

const TEST_PATH: &str = "/herald/v1/subscriptions/{surface}/{publishedId}/test";

pub fn routes() -> Vec<Route<Api>> {
    const REPLAYS: &str = "/herald/v1/replays";
    const SUBSCRIPTION: &str = "/herald/v1/subscriptions/{surface}/{publishedId}";
    vec![
        Route::new("GET", "/herald/v1/deliveries", get(handlers::list_deliveries)),
        Route::new("GET", "/herald/v1/deliveries/{deliveryId}", get(handlers::get_delivery)),
        Route::new("POST", "/herald/v1/deliveries/{deliveryId}/redeliver", post(handlers::redeliver)),
        Route::new("GET", REPLAYS, get(handlers::list_replays)),
        Route::new("POST", REPLAYS, post(handlers::create_replay)),
        Route::new("GET", "/herald/v1/replays/{replayId}", get(handlers::get_replay)),
        Route::new("POST", "/herald/v1/replays/{replayId}/cancel", post(handlers::cancel_replay)),
        Route::new("GET", "/herald/v1/events/{eventId}", get(handlers::get_event)),
        Route::new("GET", SUBSCRIPTION, get(handlers::get_subscription)),
        Route::new("PATCH", SUBSCRIPTION, patch(handlers::set_policy)),
        Route::new(
            "POST",
            "/herald/v1/subscriptions/{surface}/{publishedId}/signing-keys",
            post(handlers::roll_signing_key),
        ),
        Route::new("POST", TEST_PATH, post(handlers::test)),
    ]
}

pub fn router(api: Api) -> Router {
    routes::router(routes())
        .fallback(handlers::nothing_here)
        .method_not_allowed_fallback(handlers::no_such_method)
        .layer(from_fn(write_failures))
        .layer(from_fn_with_state(api.clone(), bound))
        .with_state(api)
}

/// Every request within its time. A test event waits for somebody else's server, and may for as long as an attempt may take.
async fn bound(
    axum::extract::State(api): axum::extract::State<Api>,
    request: Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let waits = request.extensions().get::<MatchedPath>().is_some_and(|path| path.as_str() == TEST_PATH);
    let timeout = api.request_timeout(waits);
    guard::guard(guard::conversation(&request), timeout, next.run(request), write_trouble).await
}

/// What every handler answers.
type Answered<T> = Result<T, Failure>;
