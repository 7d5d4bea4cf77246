//! Who is asking.

use super::Error;
use super::id::{ApiKeyId, PartnerId};
use super::partner_key::{Scope, Scopes};

/// The partner behind a request, proven by one of its API keys.
#[derive(Debug, Clone)]
pub struct Caller {
    pub partner: PartnerId,
    pub key: ApiKeyId,
    pub scopes: Scopes,
}

impl Caller {
    /// Errors: `Forbidden` when the key lacks the scope.
    pub fn require(&self, scope: Scope) -> Result<(), Error> {
        if self.scopes.contains(scope) { Ok(()) } else { Err(Error::Forbidden) }
    }
}
