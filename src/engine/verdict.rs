//! What an attempt means for its delivery, its subscription and its callback. Pure but for the clock and for chance.

use std::time::{Duration, Instant};

use super::Held;
use super::post::Posted;
use super::recorder::{Disable, Finished, Turn};
use super::targets::Target;
use super::traffic::Shown;
use crate::clock;
use crate::domain::attempt::Outcome;
use crate::domain::breaker;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::AttemptId;
use crate::domain::retry::{self, Verdict};
use crate::domain::retry_after;
use crate::store::queue::{Ending, Record};

/// The most that a receiver can ask us to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a receiver that has too much to do and does not say until when is left alone.
const TOO_MANY_FOR: Duration = Duration::from_secs(1);
/// A delivery whose last try fell into an outage of ours, or ended in a 410 that could not disable, has another one after this.
const EXCUSED_FOR: Duration = Duration::from_secs(60);
const DETAIL_CHARS_MAX: usize = 1_000;

/// A delivery that ends without a post.
pub(super) fn ended(held: Held, ending: Ending, outcome: Outcome) -> Finished {
    let record = Record {
        attempt: AttemptId::new(),
        outcome,
        status: None,
        started_ago_ms: 0,
        latency_ms: 0,
        response: None,
        detail: None,
    };
    Finished { held, ending, record: Some((record, Instant::now())), disable: None, turn: None }
}

/// What a post showed of its receiver; nothing, if it was stopped on our side. Where there is a backup URL nothing speaks against a callback:
/// its failures are counted for each delivery, until that goes to the backup, and a breaker would keep it from getting there.
pub(super) fn shown(target: &Target, failures: i32, posted: &Posted) -> Option<Shown> {
    let sending = target.sending.as_ref().ok().filter(|_| !posted.ours)?;
    let failed = breaker::speaks_against(posted.outcome, posted.status) && !sending.has_backup();
    let slow_down = failed && posted.status.is_some_and(retry::asks_to_slow_down);
    let leave_alone =
        asked(posted).or((posted.status == Some(429)).then_some(TOO_MANY_FOR)).filter(|_| slow_down);
    let (url, _) = sending.url(failures);
    Some(Shown { host: url.origin().into(), reached: posted.reached, failed, slow_down, leave_alone })
}

/// How long the receiver asked us to wait.
fn asked(posted: &Posted) -> Option<Duration> {
    let (raw, answered_at) = (posted.retry_after.as_deref()?, posted.answered_at.as_deref());
    retry_after::parse(raw, answered_at, clock::now(), RETRY_AFTER_MAX)
}

/// What a post means for its delivery. One that is excused is tried again as its failure asks, and costs nothing of its budget.
pub(super) fn judge(
    held: Held,
    target: &Target,
    posted: Posted,
    started: Instant,
    excused: bool,
) -> Finished {
    let lease = &held.lease;
    let failures = usize::try_from(lease.attempts).unwrap_or_default() + 1;
    // Random numbers are dear, and what arrived needs none.
    let jitter = if posted.outcome == Outcome::Delivered { 0.0 } else { chance() };
    let decided =
        |status| retry::decide(&target.retry, failures, posted.outcome, status, asked(&posted), jitter);
    let ending = |verdict| match verdict {
        Verdict::Delivered => Ending::Final(DeliveryState::Delivered),
        _ if lease.probe => Ending::Final(DeliveryState::Dead),
        Verdict::Dead if excused => Ending::Release { delay_ms: millis(EXCUSED_FOR) },
        Verdict::Dead => Ending::Final(DeliveryState::Dead),
        Verdict::Retry(after) if excused => Ending::Release { delay_ms: millis(after) },
        Verdict::Retry(after) => Ending::Retry { delay_ms: millis(after) },
        Verdict::Disable => Ending::Hold,
    };
    let (ours, failed) = (posted.ours, ending(decided(posted.status)));
    let turn = turn(posted.outcome, target.failing_for, lease.probe || excused || ours);
    let disable = match failed {
        // Otherwise it is a failure like any other, but for the last: what is meant for it is held, some time.
        Ending::Hold => Some(Disable {
            reason: "the callback answered 410 Gone".to_owned(),
            judged: target.as_read,
            failing_for: None,
            otherwise: match ending(decided(None)) {
                Ending::Final(_) => Ending::Retry { delay_ms: millis(EXCUSED_FOR) },
                another => another,
            },
        }),
        Ending::Retry { .. } | Ending::Final(DeliveryState::Dead)
            if !lease.probe && !ours && has_failed_too_long(target) =>
        {
            let days = target.disable_after.as_secs() / 86_400;
            Some(Disable {
                reason: format!("every delivery has failed for {days} days"),
                judged: target.as_read,
                failing_for: Some(target.disable_after),
                otherwise: failed,
            })
        }
        _ => None,
    };
    let ending = if disable.is_some() { Ending::Hold } else { failed };
    let record = Record {
        attempt: AttemptId::new(),
        outcome: posted.outcome,
        status: posted.status,
        started_ago_ms: 0,
        latency_ms: posted.latency_ms,
        response: posted.response,
        detail: posted
            .detail
            .map(|detail| detail.replace('\0', " ").chars().take(DETAIL_CHARS_MAX).collect()),
    };
    Finished { held, ending, record: Some((record, started)), disable, turn }
}

/// Whether a subscription that was well has begun to fail, or one that failed is well again.
fn turn(outcome: Outcome, failing_for: Option<Duration>, says_nothing: bool) -> Option<Turn> {
    match (outcome, failing_for) {
        _ if says_nothing => None,
        (Outcome::Delivered, Some(_)) => Some(Turn::Well),
        (Outcome::Delivered, None) => None,
        (_, None) => Some(Turn::Failing),
        (_, Some(_)) => None,
    }
}

fn has_failed_too_long(target: &Target) -> bool {
    target.failing_for.is_some_and(|failing_for| failing_for >= target.disable_after)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A fresh number in `0.0..1.0`.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_21_whatever_keeps_a_callback_from_taking_anything_counts_for_the_days() {
        for outcome in [Outcome::Refused, Outcome::TimedOut, Outcome::Unreachable, Outcome::Blocked] {
            assert_eq!(turn(outcome, None, false), Some(Turn::Failing), "{outcome:?}");
            assert_eq!(turn(outcome, Some(Duration::ZERO), false), None, "once");
            assert_eq!(turn(outcome, None, true), None, "unless it is no sign of anything");
        }
        assert_eq!(turn(Outcome::Delivered, Some(Duration::ZERO), false), Some(Turn::Well));
        assert_eq!(turn(Outcome::Delivered, None, false), None);
    }
}
