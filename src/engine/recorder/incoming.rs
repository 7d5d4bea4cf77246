//! Results on their way to the recorder. Most of them gather, since nobody waits for them. Of some the next depends: what is behind a delivery with
//! an ordering key is not sent before that has ended, and a callback has only so many batches out. These come on a way of their own and are
//! written at once, without those that gather. So does what turns a subscription, since whoever is judged after that is judged by it.

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
    /// When those are to be written. There are some exactly if there is such a moment.
    complete_at: Option<Instant>,
    at_once: Vec<Finished>,
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
    let (gathering, at_once) = (Vec::new(), Vec::new());
    let incoming = Incoming { usual: to_usual, awaited: to_awaited, gathering, complete_at: None, at_once };
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
        self.held.lease.in_line || self.held.lease.batch.is_some() || self.turn.is_some()
    }
}

impl Incoming {
    /// What is to be written next, or that it is `time`.
    pub(super) async fn next(&mut self, time: Option<std::time::Instant>) -> Next {
        let time = time.map(Instant::from);
        loop {
            // Looked at first: what came before the end is received then.
            let (more_usual, more_awaited) = (!self.usual.is_closed(), !self.awaited.is_closed());
            self.receive();
            if let Some(batch) = self.ready(more_usual) {
                return Next::Batch(batch);
            }
            if !more_usual && !more_awaited {
                return Next::Over;
            }
            tokio::select! {
                _ = self.awaited.recv_many(&mut self.at_once, BATCH_MAX), if more_awaited => {}
                _ = self.usual.recv_many(&mut self.gathering, BATCH_MAX), if more_usual && self.complete_at.is_none() => {}
                () = at(self.complete_at), if self.complete_at.is_some() => {}
                () = at(time), if time.is_some() => return Next::Time,
            }
        }
    }

    /// Both ways are looked at each time, so that neither keeps the other waiting.
    fn receive(&mut self) {
        take(&mut self.awaited, &mut self.at_once);
        take(&mut self.usual, &mut self.gathering);
        if self.complete_at.is_none() && !self.gathering.is_empty() {
            self.complete_at = Some(Instant::now() + GATHER_FOR);
        }
    }

    fn ready(&mut self, more_usual: bool) -> Option<Vec<Finished>> {
        let mut batch = std::mem::take(&mut self.at_once);
        // Of those whose senders are all gone the rest need not be waited for.
        let is_complete = self.complete_at.is_some_and(|at| at <= Instant::now())
            || self.gathering.len() >= GATHERED
            || !more_usual;
        if is_complete {
            self.complete_at = None;
            batch.append(&mut self.gathering);
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// Takes what is there, up to a batch.
fn take(from: &mut mpsc::UnboundedReceiver<Finished>, into: &mut Vec<Finished>) {
    while into.len() < BATCH_MAX
        && let Ok(finished) = from.try_recv()
    {
        into.push(finished);
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

    #[tokio::test]
    async fn whoever_is_waited_for_keeps_nobody_waiting() {
        let (results, mut incoming) = results();
        let (usual, usual_id) = finished(false);
        results.send(usual);
        let begun = Instant::now();
        // There is always one.
        let came = loop {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is not written at all");
            let (awaited, awaited_id) = finished(true);
            results.send(awaited);
            let batch = deliveries(incoming.next(None).await);
            assert_eq!(batch[0], awaited_id);
            if batch.len() > 1 {
                break batch[1];
            }
        };
        assert_eq!(came, usual_id);
    }

    #[tokio::test]
    async fn what_turns_a_subscription_is_not_overtaken_by_what_is_judged_after_it() {
        let (results, mut incoming) = results();
        let ((mut well, well_id), (failed, failed_id)) = (finished(false), finished(true));
        well.turn = Some(super::super::Turn::Well);
        results.send(well);
        results.send(failed);
        assert_eq!(deliveries(incoming.next(None).await), [well_id, failed_id]);
    }
}
