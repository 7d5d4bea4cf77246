//! Who sends a request, and whether they may.

use axum::http::request::Parts;

use super::access_log::CallerSlot;
use super::presented_key::presented_key;
use crate::domain::Error;
use crate::domain::caller::Caller;
use crate::domain::partner_key::Scope;
use crate::hub::Hub;

/// The caller behind a request's key, for the handler and for the access log.
/// Errors: `Unauthorized` without a good key, `Forbidden` when it lacks the scope, `LimitExceeded` when its partner asks too often. Operators
/// are not counted: they mend what is wrong.
pub async fn authorize(hub: &Hub, parts: &Parts, scope: Scope) -> Result<Caller, Error> {
    let key = presented_key(&parts.headers).ok_or(Error::Unauthorized)?;
    let caller = hub.authenticate(&key).await?;
    if let Some(slot) = parts.extensions.get::<CallerSlot>() {
        slot.note(caller.partner);
    }
    caller.require(scope)?;
    if scope != Scope::Operator {
        hub.admit(caller.partner)?;
    }
    Ok(caller)
}
