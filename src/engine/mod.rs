//! (see ARCHITECTURE.md)

pub mod outbound;
