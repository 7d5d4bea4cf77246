//! The nouns of Herald and the decisions about them. Nothing in here knows HTTP servers, SQL, async or JSON shapes.
