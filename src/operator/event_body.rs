//! Events as producers write them: one as a JSON object, or a batch with one on each line. Knows neither requests nor where events go.

use serde_json::value::RawValue;

use crate::domain::Violations;
use crate::domain::id::{PartnerId, parse_uuid};
use crate::domain::publication::{
    ATTRIBUTE_NAME_CHARS_MAX, Attributes, EventKey, EventType, OrderingKey, Publication, field,
};
use crate::surfaces::kit::fields::Fields;

/// Of one event, as a body or as a line.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
pub const BATCH_LINES_MAX: usize = 10_000;

/// An event on each line; blank lines are counted and skipped.
pub fn batch(text: &[u8]) -> Result<Vec<Publication>, Violations> {
    let (mut events, mut violations) = (Vec::new(), Violations::default());
    let is_event = |(_, line): &(usize, &[u8])| !line.iter().all(u8::is_ascii_whitespace);
    for (place, line) in text.split(|byte| *byte == b'\n').enumerate().filter(is_event) {
        if events.len() == BATCH_LINES_MAX {
            return Err(Violations::one("body", format!("must have at most {BATCH_LINES_MAX} events")));
        }
        match read(without_space_behind(line), Some(place + 1)) {
            Ok(event) => events.push(event),
            Err(wrong) => violations.extend(wrong),
        }
        if violations.has_more() {
            break;
        }
    }
    if violations.is_empty() && events.is_empty() {
        return Err(Violations::one("body", "must not be empty; send an event on each line"));
    }
    if violations.is_empty() { Ok(events) } else { Err(violations) }
}

/// A line without what JSON has for space at its end, the CR of a CR LF among it. A form feed is none: it is wrong there as it is anywhere.
fn without_space_behind(line: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let end = line.iter().rposition(|byte| !is_space(byte)).map_or(0, |last| last + 1);
    &line[..end]
}

/// An event that is the whole body.
pub fn one(text: &[u8]) -> Result<Publication, Violations> {
    read(text, None)
}

fn read(text: &[u8], line: Option<usize>) -> Result<Publication, Violations> {
    let read = if text.len() > EVENT_BYTES_MAX {
        Err(Violations::one("body", format!("is larger than {EVENT_BYTES_MAX} bytes")))
    } else {
        Fields::parse(text, "body").and_then(|fields| publication(fields, line))
    };
    read.map_err(|violations| named_by_line(violations, line))
}

/// Complaints about a line as a whole are about the line.
fn named_by_line(violations: Violations, line: Option<usize>) -> Violations {
    let Some(number) = line else { return violations };
    violations.renamed(|name| if name == "body" { format!("line {number}") } else { field(line, name) })
}

fn publication(mut fields: Fields<'_>, line: Option<usize>) -> Result<Publication, Violations> {
    let kind = fields.required("type", EventType::parse);
    // Only syntax and depth are judged in here, and both were.
    let data = fields.required("data", |data: &RawValue| Ok::<_, String>(data.get().as_bytes().to_vec()));
    let attributes = fields.object("attributes", attributes).unwrap_or_default();
    let ordering_key = fields.optional("orderingKey", OrderingKey::parse);
    let key = fields.optional("id", EventKey::parse);
    let partner = fields.optional("partnerId", |text: String| parse_uuid(&text).map(PartnerId));
    match (kind, data) {
        (Some(kind), Some(data)) if fields.violations.is_empty() => {
            Ok(Publication { line, partner, kind, data, attributes, ordering_key, key })
        }
        _ => Err(fields.violations),
    }
}

fn attributes(fields: &mut Fields<'_>) -> Option<Attributes> {
    let mut attributes = Attributes::default();
    for (name, value) in fields.take_all() {
        if name.chars().count() > ATTRIBUTE_NAME_CHARS_MAX {
            fields.refuse(&name, "must have a name of 1 to 100 characters");
            continue;
        }
        fields.checked(&name, value, |value: String| attributes.add(&name, value));
    }
    Some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_end_in_what_json_has_for_space_and_in_nothing_else() {
        let event = r#"{"type":"a","data":1}"#;
        for (before, behind, is_event) in [
            ("", "", true),
            ("", "\r", true),
            (" \t\r", " \t\r\r ", true),
            ("\u{c}", "", false),
            ("", "\u{c}", false),
            ("", "\u{c}\r", false),
            ("", "\u{b}", false),
            ("", "\u{a0}", false),
        ] {
            let lines = format!("{event}\n{before}{event}{behind}\n");
            let read = batch(lines.as_bytes())
                .map(|events| events.len())
                .map_err(|wrong| wrong.iter().map(|one| one.field.clone()).collect::<Vec<_>>());
            let expected = if is_event { Ok(2) } else { Err(vec!["line 2".to_owned()]) };
            assert_eq!(read, expected, "{before:?} {behind:?}");
        }
        assert_eq!(batch(format!("\u{c}\n{event}\n \u{c}\r\n").as_bytes()).unwrap().len(), 1, "blank lines");
    }
}
