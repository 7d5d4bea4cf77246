//! Requests that need what somebody else has. They are tried one after another, in rounds, and whoever names something that one before it names waits
//! behind it: those of one id, one session or one ordering key stay in their order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::{GROUP_MAX, Request};
use crate::domain::Error;
use crate::domain::id::PartnerId;

/// Requests that are held at most; others are told to come back.
pub(super) const HELD_MAX: usize = 500;
/// How long one is held before its caller is told to come back.
const HELD_FOR: Duration = Duration::from_secs(10);

/// What a request may find locked, by which it is told that another one needs the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    ChosenId(PartnerId, String),
    OrderingKey(PartnerId, i64),
    Session(PartnerId, uuid::Uuid),
    Answer(PartnerId, uuid::Uuid),
}

/// What is known of a request that is held.
struct Mark {
    names: Vec<Name>,
    until: Instant,
}

/// Some that are held, to be tried together.
#[derive(Default)]
pub(super) struct Group {
    pub requests: Vec<Request>,
    marks: Vec<Mark>,
}

/// All that are held.
pub(super) struct Line {
    /// To be tried in this round.
    ahead: VecDeque<(Request, Mark)>,
    /// Tried in vain in this round, or behind one that was.
    behind: VecDeque<(Request, Mark)>,
    /// What those are called for.
    in_vain: HashSet<Name>,
    /// How many name it, of those that are held or being tried.
    named: HashMap<Name, usize>,
    count: usize,
    at_once: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            ahead: VecDeque::new(),
            behind: VecDeque::new(),
            in_vain: HashSet::new(),
            named: HashMap::new(),
            count: 0,
            at_once: 1,
        }
    }
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a request names what one that is held names.
    pub(super) fn concerns(&self, request: &Request) -> bool {
        !self.is_empty() && request.names().iter().any(|name| self.named.contains_key(name))
    }

    /// Holds a request, or tells its caller to come back where too many are held.
    pub(super) fn hold(&mut self, request: Request, now: Instant) {
        if self.count >= HELD_MAX {
            return request.fail(Error::unavailable("too many wait for what somebody else has locked"));
        }
        let names = request.names();
        names.iter().for_each(|name| *self.named.entry(name.clone()).or_default() += 1);
        self.count += 1;
        self.ahead.push_back((request, Mark { names, until: now + HELD_FOR }));
    }

    /// Takes the next to be tried together. Where there are none the round is over, and another begins with the next call. Those whose callers are
    /// gone are forgotten, and those that were held for long enough are told so.
    pub(super) fn next(&mut self, now: Instant) -> Option<Group> {
        let mut group = Group::default();
        while group.requests.len() < self.at_once
            && let Some((request, mark)) = self.ahead.pop_front()
        {
            if request.is_abandoned() || mark.until <= now {
                self.forget(&mark);
                request.fail(Error::unavailable("somebody else has locked what this needs"));
            } else if mark.names.iter().any(|name| self.in_vain.contains(name)) {
                self.wait_behind(request, mark);
            } else {
                group.requests.push(request);
                group.marks.push(mark);
            }
        }
        if group.requests.is_empty() {
            self.ahead.append(&mut self.behind);
            self.in_vain.clear();
            return None;
        }
        Some(group)
    }

    /// Those that were taken need nothing any more. The next may be twice as many.
    pub(super) fn done(&mut self, group: Group) -> Vec<Request> {
        self.at_once = (2 * self.at_once).min(GROUP_MAX);
        group.marks.iter().for_each(|mark| self.forget(mark));
        group.requests
    }

    /// Those that were taken are still held: one by itself until the next round, several to be tried one by one.
    pub(super) fn in_vain(&mut self, group: Group) {
        self.at_once = 1;
        let is_alone = group.requests.len() == 1;
        for (request, mark) in group.requests.into_iter().zip(group.marks).rev() {
            match is_alone {
                true => self.wait_behind(request, mark),
                false => self.ahead.push_front((request, mark)),
            }
        }
    }

    fn wait_behind(&mut self, request: Request, mark: Mark) {
        self.in_vain.extend(mark.names.iter().cloned());
        self.behind.push_back((request, mark));
    }

    fn forget(&mut self, mark: &Mark) {
        self.count -= 1;
        for name in &mark.names {
            if let Some(count) = self.named.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.named.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::super::{Cancel, CancelRequest};
    use super::*;
    use crate::domain::version::IfMatch;
    use crate::hub::Answer;

    type Caller = oneshot::Receiver<Result<Answer, Error>>;

    const PARTNER: PartnerId = PartnerId(Uuid::nil());

    fn cancel(session: u128) -> (Request, Caller) {
        let (reply, answer) = oneshot::channel();
        let cancel = Cancel {
            session: Uuid::from_u128(session),
            condition: IfMatch::Any,
            announce: |_| super::super::birth::tests::event(1),
        };
        let render = Box::new(|_| unreachable!("nothing is rendered here"));
        (Request::Cancel(CancelRequest { partner: PARTNER, once: None, cancel, render, reply }), answer)
    }

    fn line(sessions: &[u128], now: Instant) -> (Line, Vec<Caller>) {
        let mut line = Line::default();
        let hold = |session: &u128| {
            let (request, caller) = cancel(*session);
            line.hold(request, now);
            caller
        };
        let callers = sessions.iter().map(hold).collect();
        (line, callers)
    }

    fn sessions(group: &Group) -> Vec<u128> {
        group.requests.iter().map(|request| request.cancel().unwrap().cancel.session.as_u128()).collect()
    }

    #[test]
    fn those_that_name_the_same_stay_in_their_order() {
        let now = Instant::now();
        let (mut line, _callers) = line(&[1, 2, 1, 3], now);
        let first = line.next(now).unwrap();
        assert_eq!(sessions(&first), [1]);
        line.in_vain(first);
        let second = line.next(now).unwrap();
        assert_eq!(sessions(&second), [2]);
        assert_eq!(line.done(second).len(), 1);
        let third = line.next(now).unwrap();
        assert_eq!(sessions(&third), [3], "the other 1 waits behind the first");
        line.done(third);
        assert!(line.next(now).is_none(), "the round is over");
        let both = line.next(now).unwrap();
        assert_eq!(sessions(&both), [1, 1], "more at once, since two were written");
        line.in_vain(both);
        assert_eq!(sessions(&line.next(now).unwrap()), [1], "and one by one, since two were not");
    }

    #[test]
    fn who_names_what_is_held_or_being_tried_is_concerned() {
        let now = Instant::now();
        let (mut line, _callers) = line(&[1], now);
        assert!(line.concerns(&cancel(1).0));
        assert!(!line.concerns(&cancel(2).0));
        let group = line.next(now).unwrap();
        assert!(line.concerns(&cancel(1).0));
        line.done(group);
        assert!(!line.concerns(&cancel(1).0));
    }

    #[test]
    fn nobody_is_held_for_ever_nor_more_than_so_many() {
        let now = Instant::now();
        let many: Vec<_> = (0..=HELD_MAX as u128).collect();
        let (mut line, mut callers) = line(&many, now);
        assert_eq!(line.len(), HELD_MAX);
        assert!(matches!(callers.pop().unwrap().try_recv(), Ok(Err(Error::Unavailable(_)))));
        drop(callers.pop());
        assert!(line.next(now + HELD_FOR).is_none());
        assert!(line.is_empty() && line.named.is_empty());
        assert!(matches!(callers.pop().unwrap().try_recv(), Ok(Err(Error::Unavailable(_)))));
    }
}
