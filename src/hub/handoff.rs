//! From whoever commits work to the engine that sends it, within one process: leases by value, hints by bell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::domain::delivery::Lease;

/// A lease on its way to the engine, with the room in memory that was kept for it. The room is free again when this is dropped.
#[derive(Debug)]
pub struct Handed {
    pub lease: Lease,
    pub room: OwnedSemaphorePermit,
}

/// The hub's end. Memory is bounded by `room`: rows that find none are left to the database, and nobody waits.
#[derive(Clone)]
pub struct Handoff {
    leases: mpsc::UnboundedSender<Handed>,
    room: Arc<Semaphore>,
    due: Arc<Notify>,
    changes: Arc<AtomicU64>,
}

/// The engine's end.
pub struct Intake {
    pub leases: mpsc::UnboundedReceiver<Handed>,
    pub room: Arc<Semaphore>,
    /// Rings when rows were made due that nobody has leased.
    pub due: Arc<Notify>,
    /// Rises with every change to a subscription that this process commits: what was read before it may be stale.
    pub changes: Arc<AtomicU64>,
}

/// Both ends of a handoff with room for this many leases.
pub fn handoff(room: usize) -> (Handoff, Intake) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(room));
    let due = Arc::new(Notify::new());
    let changes = Arc::new(AtomicU64::new(0));
    let intake = Intake { leases: receiver, room: room.clone(), due: due.clone(), changes: changes.clone() };
    (Handoff { leases: sender, room, due, changes }, intake)
}

impl Handoff {
    /// Keeps room for up to `wanted` leases, without waiting; the permit says for how many.
    pub fn reserve(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        let granted = wanted.min(self.room.available_permits());
        let granted = u32::try_from(granted).ok().filter(|granted| *granted > 0)?;
        self.room.clone().try_acquire_many_owned(granted).ok()
    }

    /// Hands a lease to the engine. An engine that has stopped drops it, and its lease passes in time.
    pub fn hand(&self, handed: Handed) {
        let _stopped = self.leases.send(handed);
    }

    /// Says that rows were made due.
    pub fn ring(&self) {
        self.due.notify_one();
    }

    /// Says that a subscription was changed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}
