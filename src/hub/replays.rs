//! What a partner may do about many deliveries at once: send them again by a job, watch it, stop it.

use super::Hub;
use crate::domain::caller::Caller;
use crate::domain::id::ReplayId;
use crate::domain::replay::{ReplayState, Selection};
use crate::domain::{Error, Noun};
use crate::store::replays::{self, Replay};
use crate::store::subscriptions;

impl Hub {
    /// Begins a replay of the caller's deliveries that are selected; a dry run only counts them.
    /// Errors: `NotFound` for a subscription that never was; `Duplicate` while another replay of the caller is not over.
    pub async fn begin_replay(
        &self,
        caller: &Caller,
        of: &Selection,
        dry_run: bool,
    ) -> Result<Replay, Error> {
        let mut connection = self.connection().await?;
        let mut behind_it = None;
        if let Some((surface, key)) = &of.subscription {
            let ids = subscriptions::list_ids_ever(&mut connection, caller.partner, *surface, key).await?;
            if ids.is_empty() {
                return Err(Error::NotFound(Noun::Subscription));
            }
            behind_it = Some(ids);
        }
        let id = ReplayId::new();
        let name = (caller.partner, id);
        if !replays::insert(&mut connection, name, of, behind_it.as_deref(), dry_run).await? {
            return Err(Error::Duplicate(Noun::Replay));
        }
        // What it is told of is how it begins, and not how far it has come since.
        let begun = replays::find(&mut connection, caller.partner, id).await?;
        self.handoff.ring_to_replay();
        begun.ok_or(Error::NotFound(Noun::Replay))
    }

    /// The caller's replays before the given one, newest first, and where the list goes on, if it does.
    pub async fn list_replays(
        &self,
        caller: &Caller,
        before: Option<ReplayId>,
        limit: i64,
    ) -> Result<(Vec<Replay>, Option<ReplayId>), Error> {
        let mut connection = self.connection().await?;
        // One more tells whether there is more.
        let mut found =
            replays::list(&mut connection, caller.partner, before, limit.saturating_add(1)).await?;
        let page_size = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_full = found.len() > page_size;
        found.truncate(page_size);
        let rest = found.last().filter(|_| is_full).map(|last| last.id);
        Ok((found, rest))
    }

    /// Errors: `NotFound`.
    pub async fn find_replay(&self, caller: &Caller, id: ReplayId) -> Result<Replay, Error> {
        let mut connection = self.connection().await?;
        let found = replays::find(&mut connection, caller.partner, id).await?;
        found.ok_or(Error::NotFound(Noun::Replay))
    }

    /// Stops a replay; what it has queued by then is sent nevertheless. One that was stopped before stays so.
    /// Errors: `NotFound`; `Transition` when it is done.
    pub async fn cancel_replay(&self, caller: &Caller, id: ReplayId) -> Result<Replay, Error> {
        let mut connection = self.connection().await?;
        let stopped = replays::cancel(&mut connection, caller.partner, id).await?;
        let found = replays::find(&mut connection, caller.partner, id).await?;
        let found = found.ok_or(Error::NotFound(Noun::Replay))?;
        if stopped || found.state == ReplayState::Cancelled {
            return Ok(found);
        }
        Err(Error::Transition { noun: Noun::Replay, from: found.state.as_str(), to: "cancelled" })
    }
}
