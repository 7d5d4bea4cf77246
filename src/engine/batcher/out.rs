//! Which batches are out, waiting in memory or under way, and which callbacks answer promptly. Those that do get what they can take; what all
//! others have of the room is bounded, since each of them may be one that hangs, with batches as large as any.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::domain::id::CallbackId;

/// Who answers within this is prompt: time enough to store two hundred events one by one.
const PROMPT: Duration = Duration::from_secs(2);
/// For so long after the last prompt answer.
const PROMPT_FOR: Duration = Duration::from_secs(60);
/// Beyond so many callbacks, those that need not be known are looked for.
const LOOKED_THROUGH_FROM: usize = 1_000;

#[derive(Clone)]
pub(super) struct Out {
    pub bell: Arc<Notify>,
    callbacks: Arc<Mutex<HashMap<CallbackId, Known>>>,
}

/// What is known of a callback.
#[derive(Default)]
struct Known {
    batches: usize,
    /// What they take of the room.
    room: usize,
    /// When the first was posted of those that may still wait for an answer; none where one has come since.
    asked_at: Option<Instant>,
    prompt_until: Option<Instant>,
}

/// What a round may take.
pub(super) struct Share {
    pub prompt: Vec<CallbackId>,
    /// Those that have as much out as they may.
    pub full: Vec<CallbackId>,
}

impl Out {
    pub(super) fn new(bell: Arc<Notify>) -> Self {
        Self { bell, callbacks: Arc::default() }
    }

    pub(super) fn one_more(&self, callback: CallbackId, room: usize) -> OutPlace {
        let mut callbacks = self.lock();
        if callbacks.len() >= LOOKED_THROUGH_FROM {
            let now = Instant::now();
            callbacks.retain(|_, known| known.batches > 0 || known.is_prompt(now));
        }
        let known = callbacks.entry(callback).or_default();
        known.batches += 1;
        known.room += room;
        OutPlace { out: self.clone(), callback, room }
    }

    /// How things stand, where a prompt callback may have so many batches out, and another one so many.
    pub(super) fn share(&self, now: Instant, (each_max, others_each_max): (usize, usize)) -> Share {
        let callbacks = self.lock();
        let mut share = Share { prompt: Vec::new(), full: Vec::new() };
        for (callback, known) in callbacks.iter() {
            let is_prompt = known.is_prompt(now);
            if is_prompt {
                share.prompt.push(*callback);
            }
            if known.batches >= if is_prompt { each_max } else { others_each_max } {
                share.full.push(*callback);
            }
        }
        share
    }

    /// What others than the prompt have of the room.
    pub(super) fn room_of_others(&self, now: Instant) -> usize {
        self.lock().values().filter(|known| !known.is_prompt(now)).map(|known| known.room).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallbackId, Known>> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_prompt(&self, now: Instant) -> bool {
        let waits = self.asked_at.is_some_and(|asked_at| now.duration_since(asked_at) >= PROMPT);
        !waits && self.prompt_until.is_some_and(|until| now < until)
    }
}

/// Of a batch that is out, until what came of it is written.
pub struct OutPlace {
    out: Out,
    callback: CallbackId,
    room: usize,
}

impl OutPlace {
    /// The batch is posted now.
    pub fn posted(&self, now: Instant) {
        if let Some(known) = self.out.lock().get_mut(&self.callback) {
            known.asked_at.get_or_insert(now);
        }
    }

    /// Its post has ended, well or not, after so long.
    pub fn ended(&self, took: Duration, now: Instant) {
        if let Some(known) = self.out.lock().get_mut(&self.callback) {
            known.asked_at = None;
            known.prompt_until = (took < PROMPT).then(|| now + PROMPT_FOR);
        }
    }
}

impl Drop for OutPlace {
    fn drop(&mut self) {
        if let Some(known) = self.out.lock().get_mut(&self.callback) {
            known.batches -= 1;
            known.room -= self.room;
        }
        self.out.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out() -> Out {
        Out::new(Arc::default())
    }

    #[tokio::test]
    async fn a_place_that_is_free_again_rings() {
        let (out, now) = (out(), Instant::now());
        let (one, other) = (CallbackId::new(), CallbackId::new());
        let places = [out.one_more(one, 5), out.one_more(one, 5), out.one_more(other, 7)];
        assert_eq!((out.share(now, (2, 2)).full, out.room_of_others(now)), (vec![one], 17));
        assert!(out.share(now, (3, 3)).full.is_empty());
        drop(places);
        assert!(out.share(now, (1, 1)).full.is_empty() && out.room_of_others(now) == 0);
        tokio::time::timeout(Duration::from_secs(5), out.bell.notified()).await.unwrap();
    }

    #[test]
    fn who_answered_promptly_is_prompt_until_it_is_waited_for() {
        let (out, callback, begun) = (out(), CallbackId::new(), Instant::now());
        let place = out.one_more(callback, 9);
        let prompt = |now| out.share(now, (4, 1)).prompt == [callback];
        assert!(!prompt(begun), "nobody knows it");
        place.posted(begun);
        let soon = begun + PROMPT / 2;
        place.ended(PROMPT / 2, soon);
        assert!(prompt(soon) && out.room_of_others(soon) == 0);
        assert!(out.share(soon, (4, 1)).full.is_empty(), "it may have more out than others");
        place.posted(soon);
        assert!(prompt(soon) && !prompt(soon + PROMPT));
        assert_eq!(out.room_of_others(soon + PROMPT), 9);
        place.ended(PROMPT, soon + PROMPT);
        assert!(!prompt(soon + PROMPT), "too late");
        place.ended(PROMPT / 2, soon);
        assert!(prompt(soon) && !prompt(soon + PROMPT_FOR), "and not for ever");
    }

    #[test]
    fn who_need_not_be_known_is_forgotten_and_nobody_else() {
        let (out, now) = (out(), Instant::now());
        let stays = out.one_more(CallbackId::new(), 1);
        out.one_more(CallbackId::new(), 1).ended(Duration::ZERO, now);
        (0..LOOKED_THROUGH_FROM).for_each(|_| drop(out.one_more(CallbackId::new(), 1)));
        drop(stays.out.one_more(CallbackId::new(), 1));
        assert_eq!(out.lock().len(), 5, "two that must be known, and three that came after the last look");
        assert_eq!((out.share(now, (1, 1)).prompt.len(), out.room_of_others(now)), (1, 1));
    }
}
