//! The nouns of Herald and the decisions about them. Nothing in here knows HTTP servers, SQL, async or JSON shapes.

pub mod key_ring;
pub mod partner_key;
pub mod secret;
pub mod signature;
pub mod time;
