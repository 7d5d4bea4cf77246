//! The published APIs: one folder each, over `kit`, the mechanics that know no dialect. Surfaces never import each other or the engine.

pub mod herald;
pub mod kit;
pub mod notifications;
pub mod redirect;
pub mod webhooks;
