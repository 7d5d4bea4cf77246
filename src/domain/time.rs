//! How a moment is written for the outside world.
//!
//! Knows no clock: the moment is always given.

use chrono::{DateTime, SecondsFormat, Utc};

/// `YYYY-MM-DDThh:mm:ssZ`: the form that every surface uses unless it publishes another. Fractions of a second are cut
/// off, not rounded, so that no answer shows a moment that has not come yet.
pub fn wire_time(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The same with milliseconds, `YYYY-MM-DDThh:mm:ss.sssZ`: the form of Herald's own API. Cut off as well.
pub fn wire_time_ms(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_in_utc() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_548_935_999_000, "2019-01-31T11:59:59Z"),
            (1_548_935_999_999, "2019-01-31T11:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
        ] {
            let moment = DateTime::from_timestamp_millis(millis).unwrap();
            assert_eq!(wire_time(moment), expected);
        }
    }

    #[test]
    fn milliseconds_are_always_three_digits_and_cut_off() {
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_548_935_999_999_999, "2019-01-31T11:59:59.999Z"),
            (1_548_935_999_050_000, "2019-01-31T11:59:59.050Z"),
        ] {
            let moment = DateTime::from_timestamp_micros(micros).unwrap();
            assert_eq!(wire_time_ms(moment), expected);
        }
    }
}
