//! What the tests stand on: a PostgreSQL for all of them, a database for each, folders and processes that do not stay behind.

pub mod app;
pub mod cluster;
pub mod desk;
pub mod herald;
pub mod leases;
pub mod partner;
pub mod process;
pub mod receiver;
pub mod scratch;
pub mod server;
pub mod sweeps;
pub mod wire;
