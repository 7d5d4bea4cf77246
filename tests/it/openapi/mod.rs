//! Keeps `openapi.yaml` honest: that it is well formed, that it agrees with the router, and that what the server really
//! answers is what it says.

pub mod document;
pub mod routes;

mod contract;
mod strictness;
mod wellformed;
