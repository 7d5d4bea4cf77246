//! Compares the router's table with the document, in both directions.
//!
//! A route is a method and a path as the router writes it: `("GET", "/partners/{id}/keys")`. What the parameters are
//! called is each side's own matter. An operation is expected once for each server that the document gives it, under
//! that server's path, so that a surface with two mounts is in the table twice.

use std::collections::BTreeSet;

use herald::operator;
use herald::surfaces::kit::routes;
use herald::surfaces::{herald as own, notifications, redirect, webhooks};

use crate::openapi::document::Document;

/// Panics with every route that only one side knows. `routes` is the table of both listeners together.
pub fn assert_router_agrees(routes: &[(String, String)]) {
    let disagreements = disagreements(Document::load(), routes);
    assert!(disagreements.is_empty(), "router and openapi.yaml disagree:\n{}", disagreements.join("\n"));
}

fn disagreements(document: &Document, routes: &[(String, String)]) -> Vec<String> {
    let documented = documented(document);
    let routed: BTreeSet<(String, String)> =
        routes.iter().map(|(method, path)| (method.to_uppercase(), nameless(path))).collect();
    let only_documented = documented.difference(&routed).map(|it| ("only in the document", it));
    let only_routed = routed.difference(&documented).map(|it| ("only in the router", it));
    only_documented
        .chain(only_routed)
        .map(|(side, (method, path))| format!("{side}: {method} {path}"))
        .collect()
}

fn documented(document: &Document) -> BTreeSet<(String, String)> {
    let mut documented = BTreeSet::new();
    for operation in document.operations() {
        for mount in &operation.mounts {
            let path = nameless(&format!("{mount}{}", operation.path));
            documented.insert((operation.method.clone(), path));
        }
    }
    documented
}

/// The path with its parameters' names taken out.
fn nameless(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn the_routers_of_both_listeners_agree_with_the_document() {
    let redirect = routes::listing(&redirect::routes());
    let mounted =
        redirect.iter().map(|(method, path)| (method.clone(), format!("{}{path}", redirect::MOUNT)));
    let mut table: Vec<_> = mounted.collect();
    table.extend(redirect);
    table.extend(routes::listing(&notifications::routes()));
    for mount in webhooks::MOUNTS {
        let routes = routes::listing(&webhooks::routes());
        table.extend(routes.into_iter().map(|(method, path)| (method, format!("{mount}{path}"))));
    }
    table.extend(routes::listing(&webhooks::named_routes()));
    table.extend(routes::listing(&own::routes()));
    table.extend(routes::listing(&operator::routes()));
    assert_router_agrees(&table);
}

#[test]
fn the_documents_own_table_agrees_with_it() {
    let table: Vec<_> = documented(Document::load()).into_iter().collect();
    assert_router_agrees(&table);
}

#[test]
fn a_route_that_one_side_lacks_is_named() {
    let document = Document::load();
    let mut table: Vec<_> = documented(document).into_iter().collect();
    table.retain(|route| *route != ("DELETE".to_owned(), "/customers/{}".to_owned()));
    table.push(("POST".to_owned(), "/partners/{id}/holidays".to_owned()));
    assert_eq!(
        disagreements(document, &table),
        ["only in the document: DELETE /customers/{}", "only in the router: POST /partners/{}/holidays"],
    );
}

#[test]
fn a_surface_with_two_mounts_is_expected_at_both_and_the_others_at_one() {
    let documented = documented(Document::load());
    let has = |method: &str, path: &str| documented.contains(&(method.to_owned(), path.to_owned()));
    assert!(has("POST", "/redirect-sessions/{}/cancel"));
    assert!(has("POST", "/customer-authentication-service/v1/redirect-sessions/{}/cancel"));
    assert!(has("POST", "/sync/webhooks/subscriptions/{}/delete"));
    assert!(has("POST", "/async/webhooks/subscriptions/{}/delete"));
    assert!(!has("POST", "/webhooks/subscriptions/{}/delete"));
    assert!(has("GET", "/herald/v1/deliveries"));
    assert!(has("GET", "/rest/api/v1.3/notifications/eventList"));
    assert!(!has("GET", "/customer-authentication-service/v1/rest/api/v1.3/notifications/eventList"));
    assert!(!has("GET", "/customer-authentication-service/v1/herald/v1/deliveries"));
    assert!(!has("POST", "/customer-authentication-service/v1/redirect-sessions/{}/complete"));
}
