//! What waits in line for the writer: to cancel a session, or to publish events.

use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::once::{Answer, Once};
use super::held::Name;
use super::publications::{Owned, Receipt};
use crate::domain::Error;
use crate::domain::event::NewEvent;
use crate::domain::id::PartnerId;
use crate::domain::redirect_session::RedirectSession;
use crate::domain::version::IfMatch;

/// Cancel a redirect session, and tell whoever wants to know.
#[derive(Clone)]
pub struct Cancel {
    pub session: Uuid,
    pub condition: IfMatch,
    /// Makes the event of a session that was just cancelled; the surface knows what it looks like.
    pub announce: fn(&RedirectSession) -> NewEvent,
}

/// Renders a result into an answer; called again when a group has to be tried again.
pub type Render = Box<dyn Fn(Result<RedirectSession, Error>) -> Answer + Send + Sync>;

/// A request in line.
pub(in crate::hub) enum Request {
    Cancel(CancelRequest),
    Publish(PublishRequest),
}

pub(in crate::hub) struct CancelRequest {
    pub partner: PartnerId,
    pub once: Option<Once>,
    pub cancel: Cancel,
    pub render: Render,
    pub reply: oneshot::Sender<Result<Answer, Error>>,
}

/// Events that are stored together or not at all.
pub(in crate::hub) struct PublishRequest {
    pub events: Vec<Owned>,
    pub reply: oneshot::Sender<Result<Vec<Receipt>, Error>>,
}

impl PublishRequest {
    /// Whether ids that its producer chose have to be claimed.
    pub(super) fn has_chosen_ids(&self) -> bool {
        self.events.iter().any(Owned::has_chosen_id)
    }
}

impl Request {
    pub(super) fn cancel(&self) -> Option<&CancelRequest> {
        match self {
            Self::Cancel(request) => Some(request),
            Self::Publish(_) => None,
        }
    }

    pub(super) fn publish(&self) -> Option<&PublishRequest> {
        match self {
            Self::Publish(request) => Some(request),
            Self::Cancel(_) => None,
        }
    }

    /// How much of a transaction it takes, in events.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Cancel(_) => 1,
            Self::Publish(request) => request.events.len(),
        }
    }

    /// What it may find locked by somebody else.
    pub(super) fn names(&self) -> Vec<Name> {
        match self {
            Self::Cancel(CancelRequest { partner, once, cancel, .. }) => {
                let answer = once.as_ref().map(|once| Name::Answer(*partner, once.request_id));
                [Name::Session(*partner, cancel.session)].into_iter().chain(answer).collect()
            }
            Self::Publish(request) => request.events.iter().flat_map(Owned::names).collect(),
        }
    }

    /// Whether nobody waits for its answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Cancel(request) => request.reply.is_closed(),
            Self::Publish(request) => request.reply.is_closed(),
        }
    }

    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Cancel(request) => drop(request.reply.send(Err(error))),
            Self::Publish(request) => drop(request.reply.send(Err(error))),
        }
    }
}
