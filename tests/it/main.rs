//! Every integration test, as one program: it brings up one PostgreSQL, all tests share it, and it goes when they end.

#![expect(
    clippy::unwrap_used,
    reason = "in a test program a panic is how a failure is told, in its helpers too"
)]

mod admin;
mod backlog_bound;
mod batches;
mod bench;
mod canaries;
mod chaos;
mod cluster;
mod curl;
mod delivery;
mod development_key;
mod embedded_postgres;
mod every_operation;
mod first_partner;
mod health;
mod herald_api;
mod hints;
mod hostile_receivers;
mod house;
mod key_rotation;
mod kill;
mod listen;
mod model;
mod notifications;
mod openapi;
mod operator;
mod operators_network;
mod outbound;
mod publish;
mod publish_command;
mod redirect;
mod replays;
mod retention;
mod roll_call;
mod slow_callers;
mod start;
mod support;
mod webhooks;
