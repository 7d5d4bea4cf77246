//! Beside the writer: what it could not write in a group is tried again here, on a session of its own, so that nobody else stands still for it.
//!
//! A group failed because of one bad request, or because somebody has one lock that it needs: another node that hangs between its claim of an id and its
//! commit, say. Which one it was, nobody says. So each is tried alone, and more at once as long as that goes well. One that fails gets its
//! answer; one that needs what somebody else has is *held* (`held`), and tried in rounds until it is let go or its caller gives up. Whatever comes
//! meanwhile and names the same is held behind it and does not reach the writer, who would wait for the same lock.
//!
//! What is tried again may be overtaken by what came later and failed in no company. None of them was answered yet, so nobody was told an order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::commit::{Committer, Failure, Means};
use super::held::Line;
use super::{GROUP_MAX, Request, answer_each, fail_each};
use crate::domain::Error;

/// How long somebody's lock is waited for: not long, since others wait behind who waits, and the less the more there are.
const PATIENCE_MAX: Duration = Duration::from_millis(200);
const PATIENCE_MIN: Duration = Duration::from_millis(20);
const PATIENCE_OF_ALL: Duration = Duration::from_secs(2);
/// Between two rounds of those that are held.
const ROUND_EVERY: Duration = Duration::from_millis(50);

/// The writer's end.
pub(super) struct Beside {
    failed: mpsc::Sender<Vec<Request>>,
    held: Rc<RefCell<Line>>,
    more_are_held: Rc<Notify>,
}

/// Who tries.
pub(super) struct Side {
    commits: Committer,
    failed: mpsc::Receiver<Vec<Request>>,
    /// Not tried alone yet.
    fresh: VecDeque<Request>,
    at_once: usize,
    held: Rc<RefCell<Line>>,
    more_are_held: Rc<Notify>,
}

/// Both ends, for one thread.
pub(super) fn beside(means: Means) -> (Beside, Side) {
    // One group may wait while another is tried; with the next, the line stops.
    let (sender, failed) = mpsc::channel(1);
    let (held, more_are_held) = (Rc::new(RefCell::default()), Rc::new(Notify::new()));
    let beside = Beside { failed: sender, held: held.clone(), more_are_held: more_are_held.clone() };
    let commits = Committer::new(means, PATIENCE_MAX);
    (beside, Side { commits, failed, fresh: VecDeque::new(), at_once: 1, held, more_are_held })
}

impl Beside {
    /// Takes those out of the waiting that name what is held.
    pub(super) fn divert(&self, waiting: &mut Vec<Request>) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            return;
        }
        let now = Instant::now();
        for request in waiting.extract_if(.., |request| held.concerns(request)).collect::<Vec<_>>() {
            held.hold(request, now);
        }
        self.more_are_held.notify_one();
    }

    /// Has a group tried again that was not written. Waits while two others are waiting for that.
    pub(super) async fn try_again(&self, group: Vec<Request>) {
        if let Err(over) = self.failed.send(group).await {
            fail_each(over.0, Error::unavailable("nothing is tried again any more"));
        }
    }
}

impl Side {
    /// Until the writer is gone, and each has its answer.
    pub(super) async fn run(mut self) {
        while self.wait().await {
            while let Some(group) = self.next_fresh() {
                self.try_fresh(group).await;
            }
            let has_tried = self.try_held().await;
            let none_is_held = self.held.borrow().is_empty();
            if none_is_held {
                self.commits.rest();
            } else if !has_tried && self.failed.is_empty() {
                tokio::time::sleep(ROUND_EVERY).await;
            }
        }
    }

    /// Waits until there is something to try. False when there is nothing, and will be nothing.
    async fn wait(&mut self) -> bool {
        if self.held.borrow().is_empty() {
            let more_are_held = self.more_are_held.clone();
            tokio::select! {
                group = self.failed.recv() => match group {
                    Some(group) => self.fresh.extend(group),
                    None => return false,
                },
                () = more_are_held.notified() => {}
            }
        } else if let Ok(group) = self.failed.try_recv() {
            self.fresh.extend(group);
        }
        true
    }

    fn next_fresh(&mut self) -> Option<Vec<Request>> {
        let mut group = Vec::new();
        while group.len() < self.at_once
            && let Some(request) = self.fresh.pop_front()
        {
            let mut held = self.held.borrow_mut();
            if held.concerns(&request) {
                held.hold(request, Instant::now());
            } else if !request.is_abandoned() {
                group.push(request);
            }
        }
        (!group.is_empty()).then_some(group)
    }

    async fn try_fresh(&mut self, group: Vec<Request>) {
        self.commits.patience = patience(self.fresh.len() + group.len());
        match self.commits.commit(&group).await {
            Ok(written) => {
                self.at_once = (2 * self.at_once).min(GROUP_MAX);
                answer_each(group, written);
            }
            Err(Failure::Undone(_) | Failure::Held(_)) if group.len() > 1 => {
                self.at_once = 1;
                group.into_iter().rev().for_each(|request| self.fresh.push_front(request));
            }
            Err(Failure::Held(_)) => {
                let mut held = self.held.borrow_mut();
                group.into_iter().for_each(|request| held.hold(request, Instant::now()));
            }
            Err(failure) => fail_each(group, failure.into()),
        }
    }

    /// Tries the next of those that are held. False where all of them were tried in this round.
    async fn try_held(&mut self) -> bool {
        let (next, count) = {
            let mut held = self.held.borrow_mut();
            (held.next(Instant::now()), held.len())
        };
        let Some(group) = next else { return false };
        self.commits.patience = patience(count);
        let tried = self.commits.commit(&group.requests).await;
        let mut held = self.held.borrow_mut();
        match tried {
            Ok(written) => answer_each(held.done(group), written),
            Err(Failure::Held(_)) => held.in_vain(group),
            Err(Failure::Undone(_)) if group.requests.len() > 1 => held.in_vain(group),
            Err(failure) => fail_each(held.done(group), failure.into()),
        }
        true
    }
}

/// For each of so many.
fn patience(count: usize) -> Duration {
    let each = PATIENCE_OF_ALL / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    each.clamp(PATIENCE_MIN, PATIENCE_MAX)
}
