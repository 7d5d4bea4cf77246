//! Herald: durable webhook subscriptions and delivery on PostgreSQL.
//!
//! Imports run downward only: `cli → app → {surfaces, operator, engine} → hub → store → domain`.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod domain;
pub mod embedded_postgres;
pub mod engine;
pub mod hub;
pub mod listener;
pub mod operator;
pub mod own_thread;
pub mod store;
pub mod surfaces;
pub mod telemetry;
