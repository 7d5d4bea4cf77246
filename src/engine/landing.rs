//! The end of a post, as the dispatcher learns of it: which place in the lanes is free again, and what the post showed of its callback.

use tokio::sync::mpsc;

use super::lanes::Place;
use super::traffic::Shown;

/// Says that a post is over, also when it panicked.
pub struct Landing {
    pub place: Place,
    pub shown: Option<Shown>,
    pub to: mpsc::UnboundedSender<Landed>,
}

/// A post that is over.
pub struct Landed {
    pub place: Place,
    pub shown: Option<Shown>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let _stopped = self.to.send(Landed { place: self.place, shown: self.shown.take() });
    }
}
