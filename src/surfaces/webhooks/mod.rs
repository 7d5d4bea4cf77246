//! Webhook subscriptions that are owned by a secret: the published API of a ServiceStack service, whole. Every route exists twice, under
//! `/sync` and `/async`, and every operation by its name as well, for generic clients.

mod error;
mod extract;
pub mod format;
mod handlers;
mod outbound;
mod wire;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tower::ServiceExt as _;

use super::kit::Api;
use super::kit::guard::{self, Trouble};
use super::kit::routes::{self, Route};
use error::Exchange;
use extract::Asked;
use format::Format;
use handlers::Operation;

pub use outbound::Webhooks;
pub use wire::public_key;

/// Where the routes are mounted; what is asked at either is done at once.
pub const MOUNTS: [&str; 2] = ["/sync", "/async"];
/// The first parts of the paths that are this surface's.
pub const PREFIXES: [&str; 7] = ["sync", "async", "api", "json", "jsv", "xml", "csv"];

/// The parameters of paths.
const ID: &str = "Id";
const OPERATION: &str = "Operation";

/// The routes of either mount.
pub fn routes() -> Vec<Route<Api>> {
    vec![
        route("POST", "/webhooks/subscriptions/create", Operation::Create),
        route("GET", "/webhooks/subscriptions", Operation::BatchGet),
        route("GET", "/webhooks/subscriptions/find", Operation::Find),
        route("GET", "/webhooks/subscriptions/{Id}", Operation::Get),
        route("POST", "/webhooks/subscriptions/list", Operation::List),
        route("POST", "/webhooks/subscriptions/{Id}/update", Operation::Update),
        route("POST", "/webhooks/subscriptions/{Id}/delete", Operation::Delete),
        route("POST", "/webhooks/subscriptions/delete", Operation::BatchDelete),
    ]
}

/// The operations by name: reads by GET as well, and in the format of the prefix if that names one.
pub fn named_routes() -> Vec<Route<Api>> {
    let paths = [
        "/api/{Operation}",
        "/json/reply/{Operation}",
        "/jsv/reply/{Operation}",
        "/xml/reply/{Operation}",
        "/csv/reply/{Operation}",
    ];
    let both = |path| {
        [Route::new("GET", path, get(handlers::by_name)), Route::new("POST", path, post(handlers::by_name))]
    };
    paths.into_iter().flat_map(both).collect()
}

fn route(method: &'static str, path: &'static str, operation: Operation) -> Route<Api> {
    let handler = move |State(api): State<Api>, asked: Asked| operation.answer(api, asked);
    Route::new(method, path, if method == "GET" { get(handler) } else { post(handler) })
}

/// The surface as a service: its routes, and its own error shape for whatever goes wrong around them.
pub fn router(api: Api) -> Router {
    let mounted = MOUNTS
        .into_iter()
        .fold(routes::router(named_routes()), |router, mount| router.nest(mount, routes::router(routes())));
    guarded(mounted, api)
}

fn guarded(table: Router<Api>, api: Api) -> Router {
    let surface = table
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(api.clone(), bounded))
        .with_state(api);
    // The format is settled before a route is looked for, because a suffix of the path may name it.
    Router::new().fallback(async move |mut request: Request| {
        extract::settle_format(&mut request);
        surface.oneshot(request).await
    })
}

async fn unknown_path(exchange: Exchange) -> Response {
    exchange.trouble(&Trouble::NotFound)
}

/// axum adds `Allow`.
async fn unknown_method(exchange: Exchange) -> Response {
    exchange.trouble(&Trouble::MethodNotAllowed)
}

async fn bounded(State(api): State<Api>, request: Request, next: Next) -> Response {
    let format = request.extensions().get::<Format>().copied().unwrap_or(Format::Json);
    let write =
        |trouble: &_, conversation: &_| Exchange::new(format, Clone::clone(conversation)).trouble(trouble);
    guard::guard(guard::conversation(&request), api.settings.request_timeout, next.run(request), write).await
}

#[cfg(test)]
mod tests;
