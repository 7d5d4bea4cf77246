//! Batches: several events in one post, as promised over real HTTP and a real PostgreSQL.

mod fairness;
mod load;
mod order;
mod poison;
mod stories;
mod subscriber;
