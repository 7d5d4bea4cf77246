//! The formats of this dialect: one answer, written as JSON, JSV, XML or CSV, and requests read from any of the first three. Knows how each is
//! written and nothing of what is said in it.

pub mod csv;
pub mod json;
pub mod jsv;
pub mod node;
pub mod value;
pub mod xml;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

pub use node::Node;
pub use value::{Contract, Value};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Jsv,
    Xml,
    Csv,
}

impl Format {
    pub const ALL: [Self; 4] = [Self::Json, Self::Jsv, Self::Xml, Self::Csv];

    /// As a suffix of a path or the value of `format` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Jsv => "jsv",
            Self::Xml => "xml",
            Self::Csv => "csv",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Jsv => "text/jsv",
            Self::Xml => "application/xml",
            Self::Csv => "text/csv",
        }
    }

    /// The format of a media type without parameters, in lower case.
    pub fn of_media_type(essence: &str) -> Option<Self> {
        match essence {
            "application/json" | "text/json" => Some(Self::Json),
            "text/jsv" | "application/jsv" => Some(Self::Jsv),
            "application/xml" | "text/xml" => Some(Self::Xml),
            "text/csv" | "application/csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// What `Accept` asks for most, if it is one of ours.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let ranges: Vec<(String, f32)> = lines.flat_map(|line| line.split(',')).map(weighed).collect();
        let refused = |format: Self| {
            let mut own =
                ranges.iter().filter(|(essence, _)| Self::of_media_type(essence) == Some(format)).peekable();
            own.peek().is_some() && own.all(|(_, weight)| *weight <= 0.0)
        };
        let mut best: Option<(Self, f32)> = None;
        for (essence, weight) in &ranges {
            let format = match essence.as_str() {
                "*/*" => Self::ALL.into_iter().find(|format| !refused(*format)),
                "application/*" => [Self::Json, Self::Xml].into_iter().find(|format| !refused(*format)),
                "text/*" => [Self::Jsv, Self::Csv].into_iter().find(|format| !refused(*format)),
                _ => Self::of_media_type(essence),
            };
            if let Some(format) = format
                && *weight > best.map_or(0.0, |(_, weight)| weight)
            {
                best = Some((format, *weight));
            }
        }
        best.map(|(format, _)| format)
    }

    pub fn write(self, value: &Value) -> String {
        match self {
            Self::Json => json::write(value),
            Self::Jsv => jsv::write(value),
            Self::Xml => xml::write(value),
            Self::Csv => csv::write(value),
        }
    }
}

/// A range of `Accept` in lower case, and how much it is wanted.
fn weighed(range: &str) -> (String, f32) {
    let mut parts = range.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (essence, weight.and_then(|weight| weight.parse().ok()).unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_weighed_and_the_first_of_equals_wins() {
        for (accept, format) in [
            ("text/jsv", Some(Format::Jsv)),
            ("application/jsv", Some(Format::Jsv)),
            ("Application/XML; charset=utf-8", Some(Format::Xml)),
            ("text/csv", Some(Format::Csv)),
            ("*/*", Some(Format::Json)),
            ("text/html", None),
            ("", None),
            ("text/jsv, application/json", Some(Format::Jsv)),
            ("text/jsv;q=0.5, application/json;q=0.8", Some(Format::Json)),
            ("text/jsv;q=0", None),
            ("*/*, text/jsv", Some(Format::Json)),
            ("text/jsv;q=0.1, */*;q=0.5", Some(Format::Json)),
            ("application/json;q=0, */*", Some(Format::Jsv)),
            ("application/*, application/json;q=0", Some(Format::Xml)),
            ("text/json;q=0, application/json", Some(Format::Json)),
            ("text/*", Some(Format::Jsv)),
            ("*/*;q=0", None),
            ("text/jsv;q=nan, text/csv;q=0.001", Some(Format::Csv)),
            ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", Some(Format::Xml)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(Format::accepted(&headers), format, "{accept}");
        }
        assert_eq!(Format::accepted(&HeaderMap::new()), None);
    }
}
