//! Reads a `Retry-After` header: how long the receiver asks to be left alone.
//!
//! A date is of the receiver's clock, which may be an hour off, and so may ours. Where the answer says when it was given (`Date`), both are of
//! one clock, and that alone is asked.
//!
//! It only ever lengthens a wait: the schedule takes the longer of its own delay and this one, so a receiver
//! cannot make Herald call earlier, and the cap keeps it from silencing its deliveries for ever.

use std::time::{Duration, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// Whole seconds or an HTTP date (RFC 9110's preferred form and both obsolete ones), at most `cap`. A date counts from the one that the answer
/// bears, or from now if that is none. One that has passed is no wait at all. Anything else, such as `-5`, `1e300` or `NaN`, is `None`.
pub fn parse(raw: &str, answered_at: Option<&str>, now: DateTime<Utc>, cap: Duration) -> Option<Duration> {
    let raw = raw.trim_matches([' ', '\t']);
    if !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that overflow a u64 are a number all the same, merely a huge one.
        return Some(Duration::from_secs(raw.parse().unwrap_or(u64::MAX)).min(cap));
    }
    let until_s = date_s(raw)?;
    let from_s = answered_at.and_then(|date| date_s(date.trim_matches([' ', '\t'])));
    let from_s = from_s.unwrap_or_else(|| u64::try_from(now.timestamp()).unwrap_or(0));
    Some(Duration::from_secs(until_s.saturating_sub(from_s)).min(cap))
}

/// An HTTP date, in seconds since 1970.
fn date_s(raw: &str) -> Option<u64> {
    Some(httpdate::parse_http_date(raw).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAP: Duration = Duration::from_secs(3600);

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(784_111_777, 0).unwrap() // Sun, 06 Nov 1994 08:49:37 GMT
    }

    #[test]
    fn rule_07_seconds_dates_and_nonsense() {
        for (raw, expected_s) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("  7\t", Some(7)),
            ("007", Some(7)),
            ("3600", Some(3600)),
            ("3601", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("Sat, 01 Jan 10000 00:00:00 GMT", None),
            ("Sun, 31 Feb 2021 00:00:00 GMT", None),
            ("Mon, 01 Jan 0000 00:00:00 GMT", None),
            ("", None),
            (" ", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("1e300", None),
            ("NaN", None),
            ("inf", None),
            ("0x10", None),
            ("٣", None),
            ("120, 240", None),
            ("soon\u{0}", None),
        ] {
            assert_eq!(parse(raw, None, now(), CAP).map(|wait| wait.as_secs()), expected_s, "{raw:?}");
        }
    }

    #[test]
    fn rule_07_a_date_counts_from_the_one_that_the_answer_bears() {
        // An hour ahead of us.
        let until = "Sun, 06 Nov 1994 09:49:42 GMT";
        for (raw, answered_at, expected_s) in [
            (until, Some("Sun, 06 Nov 1994 09:49:37 GMT"), Some(5)),
            (until, Some("Sunday, 06-Nov-94 09:49:37 GMT"), Some(5)),
            (until, Some("\tSun Nov  6 09:49:37 1994 "), Some(5)),
            (until, Some("Sun, 06 Nov 1994 09:49:43 GMT"), Some(0)),
            (until, Some("Thu, 01 Jan 1970 00:00:00 GMT"), Some(3600)),
            (until, Some("Fri, 31 Dec 9999 23:59:59 GMT"), Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", None, Some(60)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(""), Some(60)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some("784115377"), Some(60)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some("Mon, 01 Jan 0000 00:00:00 GMT"), Some(60)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some("now\u{0}"), Some(60)),
            ("7", Some("Sun, 06 Nov 1994 09:49:37 GMT"), Some(7)),
            ("soon", Some("Sun, 06 Nov 1994 09:49:37 GMT"), None),
        ] {
            let wait = parse(raw, answered_at, now(), CAP);
            assert_eq!(wait.map(|wait| wait.as_secs()), expected_s, "{raw:?} at {answered_at:?}");
        }
    }

    #[test]
    fn rule_07_a_clock_before_the_epoch_is_survived() {
        let early = DateTime::from_timestamp(-1, 0).unwrap();
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:09 GMT", None, early, CAP), Some(Duration::from_secs(9)));
    }

    proptest! {
        #[test]
        fn rule_07_never_panics_and_never_exceeds_the_cap(raw in "\\PC*", answered_at in "\\PC*") {
            prop_assert!(parse(&raw, Some(&answered_at), now(), CAP).is_none_or(|wait| wait <= CAP));
        }

        #[test]
        fn rule_07_never_panics_on_what_looks_like_a_date(
            raw in "(Sun|Fri|Monday), ?[0-3][0-9][ -](Jan|Feb|Dec)[ -][0-9]{2,4} [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT",
            answered_at in "(Sun|Fri|Monday), ?[0-3][0-9][ -](Jan|Feb|Dec)[ -][0-9]{2,4} [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT"
        ) {
            prop_assert!(parse(&raw, Some(&answered_at), now(), CAP).is_none_or(|wait| wait <= CAP));
        }
    }
}
