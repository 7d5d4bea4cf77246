//! Publishing: a producer's events, stored with the means to deliver them before anybody is answered.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Hub;
pub use super::ingest::Receipt;
use super::ingest::{Owned, PublishRequest, Request};
use crate::domain::caller::Caller;
use crate::domain::error::Limit;
use crate::domain::id::PartnerId;
use crate::domain::partner_key::Scope;
use crate::domain::publication::Publication;
use crate::domain::{Error, Violations};
use crate::store;

/// When to publish again that was refused because of the backlog: what it takes for the bound to be looked at again, and a little more.
const BACKLOG_AFTER: Duration = Duration::from_secs(10);

impl Hub {
    /// Stores events, all or none, and answers after the commit: one receipt for each, in order. An event whose id stood for the same
    /// content before is answered with the first receipt.
    /// Errors: `ForbiddenFields` (another partner's event without the operator scope), `Invalid` (an unknown partner), `Conflict` (an id that
    /// stands for other content), `LimitExceeded` while more is unfinished than the operator allows.
    pub async fn publish(&self, caller: &Caller, events: Vec<Publication>) -> Result<Vec<Receipt>, Error> {
        self.check_partners(caller, &events).await?;
        if self.handoff.backlog_is_full() {
            return Err(Error::LimitExceeded { limit: Limit::Backlog, after: BACKLOG_AFTER });
        }
        let own =
            |publication: Publication| Owned::new(publication.partner.unwrap_or(caller.partner), publication);
        let (reply, answer) = oneshot::channel();
        let request = PublishRequest { events: events.into_iter().map(own).collect(), reply };
        self.ingest.ask(Request::Publish(request), answer).await
    }

    async fn check_partners(&self, caller: &Caller, events: &[Publication]) -> Result<(), Error> {
        let named = |event: &Publication| event.partner.filter(|partner| *partner != caller.partner);
        let others: HashSet<PartnerId> = events.iter().filter_map(named).collect();
        if others.is_empty() {
            return Ok(());
        }
        if !caller.scopes.contains(Scope::Operator) {
            let mut violations = Violations::default();
            for event in events.iter().filter(|event| named(event).is_some()) {
                violations
                    .add(event.field("partnerId"), "names another partner, which needs the operator scope");
            }
            return Err(Error::ForbiddenFields(violations));
        }
        let asked = self.known_partners.unknown_of(others);
        if asked.is_empty() {
            return Ok(());
        }
        let found = store::partners::known(&mut *self.connection().await?, &asked).await?;
        self.known_partners.remember(&found);
        let mut violations = Violations::default();
        let unknown: HashSet<_> = asked.into_iter().filter(|partner| !found.contains(partner)).collect();
        let is_unknown = |event: &&Publication| named(event).is_some_and(|it| unknown.contains(&it));
        for event in events.iter().filter(is_unknown) {
            violations.add(event.field("partnerId"), "is no partner's id");
        }
        if violations.is_empty() { Ok(()) } else { Err(violations.into()) }
    }
}
