//! Results on their way to the recorder. Most of them gather, since nobody waits for them. Of some the next depends: what is behind a delivery with
//! an ordering key is not sent before that has ended, and a callback has only so many batches out. These come on a way of their own and are
//! written at once, without those that gather.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Finished;

/// Written together at most.
const BATCH_MAX: usize = 1_000;
/// How long a small batch waits for more. What is not written yet is sent again after a crash, so this is short.
const GATHER_FOR: Duration = Duration::from_millis(10);
/// A batch of so many is no small one: each has hardly any part in what the statement itself costs, and more are waiting for the recorder than
/// it is for them.
const GATHERED: usize = 256;

/// Where results are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Results {
    usual: mpsc::UnboundedSender<Finished>,
    awaited: mpsc::UnboundedSender<Finished>,
}

/// The recorder's end.
pub struct Incoming {
    usual: mpsc::UnboundedReceiver<Finished>,
    awaited: mpsc::UnboundedReceiver<Finished>,
    gathering: Vec<Finished>,
    /// When those are to be written.
    complete_at: Option<Instant>,
}

pub(super) enum Next {
    /// To be written together.
    Batch(Vec<Finished>),
    /// It is as late as was asked for.
    Time,
    /// Every sender is gone, and everything they sent was handed out.
    Over,
}

pub fn results() -> (Results, Incoming) {
    let ((usual, to_usual), (awaited, to_awaited)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let incoming =
        Incoming { usual: to_usual, awaited: to_awaited, gathering: Vec::new(), complete_at: None };
    (Results { usual, awaited }, incoming)
}

impl Results {
    /// Dropped where the recorder is gone: then leases pass by time.
    pub fn send(&self, finished: Finished) {
        let way = if finished.is_awaited() { &self.awaited } else { &self.usual };
        drop(way.send(finished));
    }
}

impl Finished {
    fn is_awaited(&self) -> bool {
        self.held.lease.in_line || self.held.lease.batch.is_some()
    }
}

impl Incoming {
    /// What is to be written next, or that it is `time`.
    pub(super) async fn next(&mut self, time: Option<std::time::Instant>) -> Next {
        let time = time.map(Instant::from);
        loop {
            let no_more_usual = self.usual.is_closed() && self.usual.is_empty();
            let no_more_awaited = self.awaited.is_closed() && self.awaited.is_empty();
            if no_more_usual && no_more_awaited && self.gathering.is_empty() {
                return Next::Over;
            }
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                received = self.awaited.recv_many(&mut batch, BATCH_MAX), if !no_more_awaited => {
                    if received > 0 {
                        return Next::Batch(batch);
                    }
                }
                () = at(self.complete_at), if self.complete_at.is_some() => return Next::Batch(self.gathered()),
                received = self.usual.recv_many(&mut self.gathering, BATCH_MAX),
                    if self.complete_at.is_none() && !no_more_usual =>
                {
                    // The rest of those whose senders are all gone need not be waited for.
                    if self.usual.is_closed() || self.gathering.len() >= GATHERED {
                        return Next::Batch(self.gathered());
                    }
                    if received > 0 {
                        self.complete_at = Some(Instant::now() + GATHER_FOR);
                    }
                }
                () = at(time), if time.is_some() => return Next::Time,
            }
        }
    }

    /// What gathered, and what came meanwhile.
    fn gathered(&mut self) -> Vec<Finished> {
        self.complete_at = None;
        while self.gathering.len() < BATCH_MAX
            && let Ok(finished) = self.usual.try_recv()
        {
            self.gathering.push(finished);
        }
        std::mem::take(&mut self.gathering)
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::lanes::tests::held;
    use super::*;
    use crate::domain::id::DeliveryId;
    use crate::store::queue::Ending;

    /// What came of a new delivery, and its id.
    fn finished(in_line: bool) -> (Finished, DeliveryId) {
        let mut held = held();
        (held.lease.in_line, held.lease.delivery) = (in_line, DeliveryId::new());
        let delivery = held.lease.delivery;
        (Finished { held, ending: Ending::Hold, record: None, disable: None, turn: None }, delivery)
    }

    fn deliveries(next: Next) -> Vec<DeliveryId> {
        let Next::Batch(batch) = next else { panic!("it is no batch") };
        batch.iter().map(|finished| finished.held.lease.delivery).collect()
    }

    #[tokio::test]
    async fn what_is_waited_for_comes_at_once_and_the_others_together() {
        let (results, mut incoming) = results();
        let ((first, one), (second, two)) = (finished(false), finished(false));
        let (awaited, three) = finished(true);
        let begun = Instant::now();
        results.send(first);
        assert!(matches!(incoming.next(Some(std::time::Instant::now())).await, Next::Time));
        results.send(awaited);
        assert_eq!(deliveries(incoming.next(None).await), [three]);
        results.send(second);
        assert_eq!(deliveries(incoming.next(None).await), [one, two]);
        assert!(begun.elapsed() >= GATHER_FOR);

        let (last, four) = finished(false);
        results.send(last);
        drop(results);
        assert_eq!(deliveries(incoming.next(None).await), [four]);
        assert!(matches!(incoming.next(None).await, Next::Over));
    }

    #[tokio::test]
    async fn many_wait_for_no_more() {
        let (results, mut incoming) = results();
        (0..GATHERED).for_each(|_| results.send(finished(false).0));
        assert_eq!(deliveries(incoming.next(None).await).len(), GATHERED);
        assert!(incoming.complete_at.is_none());
    }
}
