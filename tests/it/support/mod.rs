//! What the tests stand on: a PostgreSQL for all of them, a database for each, folders and processes that do not stay behind.

pub mod cluster;
pub mod desk;
pub mod process;
pub mod scratch;
