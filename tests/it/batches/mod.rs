//! Batches: several events in one post, as promised over real HTTP and a real PostgreSQL.

mod fairness;
mod load;
mod order;
mod stories;
mod subscriber;
