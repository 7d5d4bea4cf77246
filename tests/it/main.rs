//! Every integration test, as one program: it brings up one PostgreSQL, all tests share it, and it goes when they end.

#![expect(
    clippy::unwrap_used,
    reason = "in a test program a panic is how a failure is told, in its helpers too"
)]

mod admin;
mod bench;
mod chaos;
mod cluster;
mod curl;
mod delivery;
mod embedded_postgres;
mod first_partner;
mod health;
mod herald_api;
mod house;
mod kill;
mod listen;
mod model;
mod openapi;
mod operator;
mod outbound;
mod publish;
mod publish_command;
mod redirect;
mod retention;
mod roll_call;
mod support;
