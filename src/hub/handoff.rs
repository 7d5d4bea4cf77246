//! From whoever commits work to the engine that sends it, within one process: leases by value, hints by bell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::changes::Changes;
use super::verifications::{Place, TRIALS_MAX, Trials, Verification};
use crate::domain::Error;
use crate::domain::delivery::Lease;
use crate::domain::id::{CallbackId, PartnerId, SubscriptionId};

/// A lease on its way to the engine, with the room in memory that was kept for it. The room is free again when this is dropped.
#[derive(Debug)]
pub struct Handed {
    pub lease: Lease,
    pub room: OwnedSemaphorePermit,
}

/// What a lease takes of the room, so that both the number of leases and the bytes that they keep in memory are bounded: one, and one more
/// for every so many bytes of its event.
const BYTES_PER_ROOM: usize = 4 * 1024;

/// The room that a lease of an event with a payload of this many bytes takes.
pub fn room_for(payload_bytes: usize) -> usize {
    1 + payload_bytes / BYTES_PER_ROOM
}

/// What came of waiting for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    Not,
    ForRoom,
    /// None got free at all.
    InVain,
}

/// Each wakes one worker of this process. A worker that is not asleep looks once more.
#[derive(Clone, Default)]
pub struct Bells {
    /// Rings when rows were made due that nobody has leased.
    pub due: Arc<Notify>,
    /// Rings with it, for the other nodes to be told.
    pub tell: Arc<Notify>,
    /// Rings when there may be something to gather into batches.
    pub gather: Arc<Notify>,
    /// Rings when there are chunks of large fan-outs.
    pub fan_out: Arc<Notify>,
    /// Rings when there is a new replay.
    pub replay: Arc<Notify>,
    /// Rings when there may be something that was held and is held no more.
    pub resumed: Arc<Notify>,
}

impl Bells {
    /// Rows were made due that leave alone or in batches: for this node only.
    pub fn ring_here(&self) {
        self.due.notify_one();
        self.gather.notify_one();
    }
}

/// The hub's end. Memory is bounded by `room`: rows that find none are left to the database, and nobody waits.
#[derive(Clone)]
pub struct Handoff {
    leases: mpsc::UnboundedSender<Handed>,
    verifications: mpsc::Sender<Verification>,
    trials: Trials,
    room: Arc<Semaphore>,
    bells: Bells,
    changes: Changes,
    backlog_full: Arc<AtomicBool>,
    set_aside: watch::Receiver<SetAside>,
}

/// The subscriptions whose callbacks take no more at present.
pub type SetAside = Arc<[SubscriptionId]>;

/// The engine's end.
pub struct Intake {
    pub leases: mpsc::UnboundedReceiver<Handed>,
    pub verifications: mpsc::Receiver<Verification>,
    pub room: Arc<Semaphore>,
    pub room_max: usize,
    pub bells: Bells,
    pub changes: Changes,
    /// Whether the backlog has reached its bound, as far as the engine has seen.
    pub backlog_full: Arc<AtomicBool>,
    /// Tells which subscriptions' deliveries are to be left to the database, where they wait behind others.
    pub set_aside: watch::Sender<SetAside>,
}

/// Both ends of a handoff with room for this many leases of small events; see [`room_for`].
pub fn handoff(room_max: usize) -> (Handoff, Intake) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (verifications, wanted) = mpsc::channel(TRIALS_MAX);
    let room = Arc::new(Semaphore::new(room_max));
    let bells = Bells::default();
    let changes = Changes::default();
    let backlog_full = Arc::new(AtomicBool::new(false));
    let (tell_set_aside, set_aside) = watch::channel(SetAside::from([]));
    let intake = Intake {
        leases: receiver,
        verifications: wanted,
        room: room.clone(),
        room_max,
        bells: bells.clone(),
        changes: changes.clone(),
        backlog_full: backlog_full.clone(),
        set_aside: tell_set_aside,
    };
    let handoff = Handoff {
        leases: sender,
        verifications,
        trials: Trials::default(),
        room,
        bells,
        changes,
        backlog_full,
        set_aside,
    };
    (handoff, intake)
}

impl Handoff {
    /// Keeps up to so much room, without waiting; the permit says how much.
    pub fn reserve(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        let granted = wanted.min(self.room.available_permits());
        let granted = u32::try_from(granted).ok().filter(|granted| *granted > 0)?;
        self.room.clone().try_acquire_many_owned(granted).ok()
    }

    /// As [`Handoff::reserve`], but waits while there is less than `needed`, as long as room keeps getting free and at most for `patience`.
    pub async fn reserve_soon(
        &self,
        needed: usize,
        wanted: usize,
        patience: Duration,
    ) -> (Option<OwnedSemaphorePermit>, Waited) {
        let free = self.room.available_permits();
        if free >= needed {
            return (self.reserve(wanted), Waited::Not);
        }
        let Ok(needed) = u32::try_from(needed) else { return (self.reserve(wanted), Waited::Not) };
        let enough = tokio::time::timeout(patience, self.room.clone().acquire_many_owned(needed)).await;
        if let Ok(Ok(mut room)) = enough {
            if let Some(more) = self.reserve(wanted.saturating_sub(room.num_permits())) {
                room.merge(more);
            }
            return (Some(room), Waited::ForRoom);
        }
        let moved = self.room.available_permits() > free;
        (self.reserve(wanted), if moved { Waited::ForRoom } else { Waited::InVain })
    }

    /// Hands a lease to the engine. An engine that has stopped drops it, and its lease passes in time.
    pub fn hand(&self, handed: Handed) {
        let _stopped = self.leases.send(handed);
    }

    /// A place among the callbacks that are being tried out, by whatever means.
    /// Errors: `Unavailable` when there are too many of this partner, or of all.
    pub(super) fn begin_trial(&self, partner: PartnerId) -> Result<Place, Error> {
        self.trials.begin(partner)
    }

    /// Has a callback tried out; whether it took what was posted comes later, and not at all when that could not be found out.
    /// Errors: `LimitExceeded` when too many of this partner are being tried out already, `Unavailable` when too many of all.
    pub fn verify(&self, partner: PartnerId, callback: CallbackId) -> Result<oneshot::Receiver<bool>, Error> {
        let (reply, answer) = oneshot::channel();
        let place = self.begin_trial(partner)?;
        self.verifications
            .try_send(Verification { callback, reply, place })
            .map_err(|_| Error::unavailable("nobody tries callbacks out any more"))?;
        Ok(answer)
    }

    /// Says that rows were made due that leave alone, here and to the other nodes.
    pub fn ring(&self) {
        self.bells.due.notify_one();
        self.bells.tell.notify_one();
    }

    /// Says that rows were made due that leave in batches.
    pub fn ring_to_gather(&self) {
        self.bells.gather.notify_one();
    }

    /// Says that an event matched so many that their deliveries are still to be put into the queue.
    pub fn ring_to_fan_out(&self) {
        self.bells.fan_out.notify_one();
    }

    /// Says that there is a new replay.
    pub fn ring_to_replay(&self) {
        self.bells.replay.notify_one();
    }

    /// Whether there is so much unfinished that nothing more is to be published.
    pub fn backlog_is_full(&self) -> bool {
        self.backlog_full.load(Ordering::Relaxed)
    }

    /// The subscriptions that nothing is to be leased for, as of now.
    pub fn set_aside(&self) -> SetAside {
        self.set_aside.borrow().clone()
    }

    /// Says that a subscription of this partner was changed: what is known of it is stale, and it may be active again.
    pub fn changed(&self, partner: PartnerId) {
        self.changes.note(partner);
        self.bells.resumed.notify_one();
        self.bells.gather.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn room_is_waited_for_while_it_gets_free() {
        let (handoff, _intake) = handoff(10);
        let (all, waited) = handoff.reserve_soon(10, 20, LONG).await;
        assert_eq!((all.as_ref().unwrap().num_permits(), waited), (10, Waited::Not));
        let (none, waited) = handoff.reserve_soon(1, 20, SHORT).await;
        assert_eq!((none.is_none(), waited), (true, Waited::InVain));

        let mut all = all.unwrap();
        drop(all.split(3));
        let (some, waited) = handoff.reserve_soon(3, 20, LONG).await;
        assert_eq!((some.as_ref().unwrap().num_permits(), waited), (3, Waited::Not));
        // Begun once the other waits.
        let frees = async { drop(all.split(2)) };
        let ((room, waited), ()) = tokio::join!(handoff.reserve_soon(5, 20, SHORT), frees);
        assert_eq!((room.unwrap().num_permits(), waited), (2, Waited::ForRoom), "better than nothing");
        let frees = async { drop(all) };
        let ((room, waited), ()) = tokio::join!(handoff.reserve_soon(4, 20, LONG), frees);
        assert_eq!((room.unwrap().num_permits(), waited), (7, Waited::ForRoom), "as soon as there is enough");
    }
}
