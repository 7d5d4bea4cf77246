//! A surface's routes as a table: what the router is built from is also what the OpenAPI document is compared with.

use axum::Router;
use axum::routing::MethodRouter;

/// One method on one path, with its handler.
pub struct Route<S> {
    pub method: &'static str,
    /// In axum's notation, `/things/{id}`, which is OpenAPI's as well.
    pub path: &'static str,
    pub handler: MethodRouter<S>,
}

impl<S> Route<S> {
    pub fn new(method: &'static str, path: &'static str, handler: MethodRouter<S>) -> Self {
        Self { method, path, handler }
    }
}

/// The router of a table. Several methods on one path become one entry.
pub fn router<S: Clone + Send + Sync + 'static>(routes: Vec<Route<S>>) -> Router<S> {
    routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
}

/// Method and path of each entry.
pub fn listing<S>(routes: &[Route<S>]) -> Vec<(String, String)> {
    routes.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect()
}
