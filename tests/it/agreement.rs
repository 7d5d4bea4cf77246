//! The router and openapi.yaml agree, in both directions and on both listeners.

use herald::operator;
use herald::surfaces::kit::routes::listing;
use herald::surfaces::{herald as own, redirect};

use crate::openapi::routes::assert_router_agrees;

#[test]
fn every_route_is_documented_and_every_documented_operation_is_routed() {
    let redirect = listing(&redirect::routes());
    let mounted =
        redirect.iter().map(|(method, path)| (method.clone(), format!("{}{path}", redirect::MOUNT)));
    let all: Vec<_> = redirect
        .iter()
        .cloned()
        .chain(mounted)
        .chain(listing(&own::routes()))
        .chain(listing(&operator::routes()))
        .collect();
    assert_router_agrees(&all);
}
