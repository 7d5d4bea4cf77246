//! The nouns of Herald and the decisions about them. Nothing in here knows HTTP servers, SQL, async or JSON shapes.

pub mod callback_url;
pub mod egress;
pub mod retry_after;
