//! What an attempt's outcome means for its delivery. Pure: the policy, the outcome and the chance come in, the verdict goes out.

use std::time::Duration;

use super::attempt::Outcome;

/// How long to wait after each failed attempt. The n-th delay follows the n-th failure; when they are used up the delivery is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub delays: Vec<Duration>,
}

impl Default for RetryPolicy {
    /// 5 s, 30 s, 2 m, 10 m, 1 h, 3 h, 6 h, 12 h, 24 h, 24 h: eleven attempts over about three days.
    fn default() -> Self {
        let delays_s = [5, 30, 120, 600, 3_600, 10_800, 21_600, 43_200, 86_400, 86_400];
        Self { delays: delays_s.into_iter().map(Duration::from_secs).collect() }
    }
}

/// What to do with the delivery now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Try again after this long.
    Retry(Duration),
    /// The receiver is gone for good (410): disable the subscription and hold what is meant for it.
    Disable,
    Dead,
}

/// Decides. `failures` counts the failed attempts of the present budget with this one, from 1; `retry_after` is what the receiver asked for,
/// already capped; `jitter` is a fresh number in `0.0..1.0` and spreads each delay over 80% to 120% of itself, so that deliveries that failed
/// together do not come back together.
pub fn decide(
    policy: &RetryPolicy,
    failures: usize,
    outcome: Outcome,
    status: Option<u16>,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Verdict {
    if outcome == Outcome::Delivered {
        return Verdict::Delivered;
    }
    if outcome == Outcome::Refused && status == Some(410) {
        return Verdict::Disable;
    }
    match policy.delays.get(failures.saturating_sub(1)) {
        None => Verdict::Dead,
        Some(delay) => {
            let spread = delay.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
            Verdict::Retry(spread.max(honoured(status, retry_after)))
        }
    }
}

/// Retry-After counts only with the statuses that ask us to slow down, and it never shortens the schedule.
fn honoured(status: Option<u16>, retry_after: Option<Duration>) -> Duration {
    retry_after.filter(|_| status.is_some_and(asks_to_slow_down)).unwrap_or_default()
}

/// Whether a status says that the receiver has too much to do at present.
pub fn asks_to_slow_down(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(list: &[u64]) -> RetryPolicy {
        RetryPolicy { delays: list.iter().copied().map(Duration::from_secs).collect() }
    }

    #[test]
    fn rule_21_outcomes_lead_to_their_verdicts() {
        use Outcome::*;
        let policy = seconds(&[10, 100]);
        let s = Duration::from_secs;
        let ask = |failures, outcome, status, retry_after: Option<u64>| {
            decide(&policy, failures, outcome, status, retry_after.map(s), 0.5)
        };
        assert_eq!(ask(1, Delivered, Some(204), None), Verdict::Delivered);
        assert_eq!(ask(1, Refused, Some(500), None), Verdict::Retry(s(10)));
        assert_eq!(ask(2, Refused, Some(500), None), Verdict::Retry(s(100)));
        assert_eq!(ask(3, Refused, Some(500), None), Verdict::Dead);
        assert_eq!(ask(1, TimedOut, None, None), Verdict::Retry(s(10)));
        assert_eq!(ask(3, Unreachable, None, None), Verdict::Dead);
        assert_eq!(ask(1, Blocked, None, None), Verdict::Retry(s(10)));
        assert_eq!(ask(1, Refused, Some(410), None), Verdict::Disable);
        assert_eq!(ask(9, Refused, Some(410), Some(5)), Verdict::Disable);
    }

    #[test]
    fn rule_07_retry_after_lengthens_and_never_shortens() {
        let policy = seconds(&[10]);
        let ask = |status, retry_after| {
            decide(&policy, 1, Outcome::Refused, Some(status), Some(Duration::from_secs(retry_after)), 0.5)
        };
        for slow_down in [429, 502, 503, 504] {
            assert_eq!(ask(slow_down, 60), Verdict::Retry(Duration::from_secs(60)));
            assert_eq!(ask(slow_down, 1), Verdict::Retry(Duration::from_secs(10)));
        }
        assert_eq!(
            ask(500, 60),
            Verdict::Retry(Duration::from_secs(10)),
            "a 500 does not ask us to slow down"
        );
        let spent = decide(&policy, 2, Outcome::Refused, Some(503), Some(Duration::from_secs(60)), 0.5);
        assert_eq!(spent, Verdict::Dead, "nor does Retry-After add to the budget");
    }

    #[test]
    fn rule_22_the_default_schedule_with_its_jitter() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delays.len(), 10);
        for (failures, delay) in policy.delays.iter().enumerate().map(|(index, delay)| (index + 1, delay)) {
            for (jitter, factor) in [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)] {
                let verdict = decide(&policy, failures, Outcome::Refused, Some(500), None, jitter);
                assert_eq!(verdict, Verdict::Retry(delay.mul_f64(factor)));
            }
        }
    }
}
