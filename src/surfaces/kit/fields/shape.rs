//! The JSON types that a field can be asked for. Knows no names: who asks has them.

use chrono::{DateTime, Datelike as _, Utc};
use serde_json::value::RawValue;

/// A JSON type that a field can be asked for, with the complaint of whoever sends another.
pub trait Shape<'a>: Sized {
    fn read(raw: &'a RawValue) -> Result<Self, String>;
}

impl<'a> Shape<'a> for String {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        if !raw.get().starts_with('"') {
            return Err("must be a string".to_owned());
        }
        let text: String = serde_json::from_str(raw.get())
            .map_err(|_| "must be a string of Unicode characters".to_owned())?;
        if text.contains('\0') { Err("must not contain the character U+0000".to_owned()) } else { Ok(text) }
    }
}

impl<'a> Shape<'a> for serde_json::Number {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        let is_number = raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let number = is_number.then(|| serde_json::from_str(raw.get()).ok()).flatten();
        number.ok_or_else(|| "must be a number".to_owned())
    }
}

/// `7606.0` and `1e3` are whole numbers too: JSON and its schemas know only one kind.
impl<'a> Shape<'a> for i64 {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        let plain = serde_json::from_str(raw.get()).ok();
        let whole = plain.or_else(|| serde_json::from_str(raw.get()).ok().and_then(whole));
        whole.ok_or_else(|| "must be a whole number".to_owned())
    }
}

/// Only as far as a float counts in ones.
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

impl<'a> Shape<'a> for bool {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        serde_json::from_str(raw.get()).map_err(|_| "must be true or false".to_owned())
    }
}

/// A moment that ids have, and that is written with four digits for its year.
impl<'a> Shape<'a> for DateTime<Utc> {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        let moment = DateTime::parse_from_rfc3339(&String::read(raw)?).map(|moment| moment.to_utc()).ok();
        let moment = moment.filter(|moment| (1970..=9999).contains(&moment.year()));
        moment.ok_or_else(|| {
            "must be a date and time from 1970 to 9999, such as 2030-12-31T23:59:59Z".to_owned()
        })
    }
}

impl<'a> Shape<'a> for &'a RawValue {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        Ok(raw)
    }
}

/// An array whose every item has one shape.
impl<'a, T: Shape<'a>> Shape<'a> for Vec<T> {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        let items: Vec<&'a RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| "must be an array".to_owned())?;
        items
            .into_iter()
            .map(|item| T::read(item).map_err(|complaint| format!("each entry {complaint}")))
            .collect()
    }
}

/// A field whose `null` means something.
pub struct Nullable<T>(pub Option<T>);

impl<'a, T: Shape<'a>> Shape<'a> for Nullable<T> {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        if raw.get() == "null" { Ok(Self(None)) } else { T::read(raw).map(|value| Self(Some(value))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (text, number) in [
            ("7606", Some(7_606)),
            ("7606.0", Some(7_606)),
            ("-1.5e1", Some(-15)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1e300", None),
            ("0.5", None),
            (r#""1""#, None),
            ("true", None),
            ("null", None),
        ] {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            assert_eq!(i64::read(&raw).ok(), number, "{text}");
        }
    }
}
