//! `Retry-After`: whatever a receiver says, nothing panics, the schedule is never shortened, and no wait is longer than the cap or the schedule.

#![no_main]

use std::time::Duration;

use chrono::{DateTime, Utc};
use herald::domain::attempt::Outcome;
use herald::domain::retry::{RetryPolicy, Verdict, decide};
use herald::domain::retry_after::parse;
use libfuzzer_sys::fuzz_target;

/// Clocks before the epoch, at it, on the day of the RFC's example, and as far as dates go.
const NOWS: [i64; 6] = [-62_135_596_800, -1, 0, 784_111_777, 4_102_444_800, 253_402_300_799];
const CAPS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(86_400), Duration::MAX];
/// What each of the three forms of a date says, whatever stands around it.
const PARTS: [&str; 6] = ["%y", "%b", "%e", "%H", "%M", "%S"];

fuzz_target!(|raw: &str| {
    // Seen from the epoch and without a cap, a wait is the number or the date that was read.
    let read = parse(raw, None, at(0), Duration::MAX).map(|wait| wait.as_secs());
    let text = raw.trim_matches([' ', '\t']);
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        let significant = text.trim_start_matches('0');
        let value = significant
            .bytes()
            .fold(Some(0_u64), |value, digit| value?.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
        assert_eq!(read, Some(value.unwrap_or(u64::MAX)), "{raw:?}");
    } else if let Some(seconds) = read {
        let date = at(i64::try_from(seconds).expect("a date of this era"));
        // Nobody checks whether that day was a Monday, nor what stands between the parts. They themselves must be there.
        let text = text.to_ascii_lowercase();
        let says = |part: &&str| {
            text.contains(date.format(part).to_string().trim_start().to_ascii_lowercase().as_str())
        };
        let missing = PARTS.iter().find(|part| !says(part));
        assert_eq!(missing, None, "{raw:?} was read as {date}");
        let seen_from_itself = parse(raw, Some(raw), at(0), Duration::MAX);
        assert_eq!(seen_from_itself, Some(Duration::ZERO), "{raw:?}");
    }
    for now in NOWS {
        let mut shorter = Some(Duration::ZERO);
        for cap in CAPS {
            let wait = parse(raw, None, at(now), cap);
            assert_eq!(wait.is_some(), read.is_some(), "{raw:?}");
            assert!(
                wait.is_none_or(|wait| wait <= cap) && wait >= shorter.filter(|_| wait.is_some()),
                "{raw:?} at {now}"
            );
            if is_number {
                assert_eq!(wait, read.map(|seconds| Duration::from_secs(seconds).min(cap)));
            } else if let (Some(wait), Some(seconds)) = (wait, read) {
                let left = u64::try_from(i64::try_from(seconds).expect("a date") - now.max(0)).unwrap_or(0);
                assert_eq!(wait, Duration::from_secs(left).min(cap), "{raw:?} at {now}");
            }
            shorter = wait;
        }
    }
    never_shortens(parse(raw, None, at(784_111_777), CAPS[2]), CAPS[2]);
});

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("an instant within the calendar")
}

fn never_shortens(asked: Option<Duration>, cap: Duration) {
    let policy = RetryPolicy { delays: [5, 3_600, 86_400].map(Duration::from_secs).into() };
    for failures in 1..=4 {
        for status in [None, Some(200), Some(404), Some(410), Some(429), Some(502), Some(503), Some(504)] {
            for outcome in [Outcome::Refused, Outcome::TimedOut, Outcome::Unreachable] {
                let with = decide(&policy, failures, outcome, status, asked, 0.5);
                let without = decide(&policy, failures, outcome, status, None, 0.5);
                match (with, without) {
                    (Verdict::Retry(with), Verdict::Retry(without)) => {
                        assert!(with >= without && with <= without.max(cap));
                        let honoured = matches!(status, Some(429 | 502 | 503 | 504));
                        assert!(!honoured || with >= asked.unwrap_or_default());
                    }
                    (with, without) => assert_eq!(with, without),
                }
            }
        }
    }
}
