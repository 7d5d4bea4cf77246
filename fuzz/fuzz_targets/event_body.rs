//! Events as producers write them, one and in lines: nothing panics, what is taken is what a plain JSON reader sees, within its bounds and
//! with its data byte for byte, and a batch is its lines.

#![no_main]

use std::collections::BTreeSet;

use herald::domain::Violations;
use herald::domain::publication::{EventKey, OrderingKey, Publication};
use herald::operator::event_body::{batch, one};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &[u8]| {
    match one(text) {
        Ok(event) => judge(text, &event),
        Err(violations) => well_put(text, &violations),
    }
    lines(text);
});

fn judge(text: &[u8], event: &Publication) {
    let name_fits = |name: &str| (1..=200).contains(&name.chars().count()) && !name.contains('\0');
    let kind = event.kind.as_str();
    assert!(
        name_fits(kind) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
    );
    let names =
        [event.key.as_ref().map(EventKey::as_str), event.ordering_key.as_ref().map(OrderingKey::as_str)];
    assert!(names.into_iter().flatten().all(name_fits));
    assert!(event.attributes.iter().count() <= 50);
    for (name, value) in event.attributes.iter() {
        assert!((1..=100).contains(&name.chars().count()) && value.chars().count() <= 1_000);
        assert!(!name.contains('\0') && !value.contains('\0'));
    }
    assert!(
        text.windows(event.data.len()).any(|window| window == event.data),
        "the data is not as it was sent"
    );
    assert!(depth(&event.data) <= 64);

    // Numbers beyond what a float holds are good data, and more than this reader takes.
    if let Ok(seen) = serde_json::from_slice::<Value>(text) {
        assert_eq!(seen["type"], kind);
        assert_eq!(serde_json::from_slice::<Value>(&event.data).ok().as_ref(), seen.get("data"));
        assert_eq!(seen.get("id").and_then(Value::as_str), names[0]);
        assert_eq!(seen.get("orderingKey").and_then(Value::as_str), names[1]);
        let partner = event.partner.map(|partner| partner.0.to_string());
        assert_eq!(seen.get("partnerId").and_then(Value::as_str).map(str::to_ascii_lowercase), partner);
        let attributes =
            event.attributes.iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        assert_eq!(
            seen.get("attributes").cloned().unwrap_or_else(|| Value::Object(Default::default())),
            Value::Object(attributes)
        );
    }
    let again = one(written(event).as_bytes())
        .unwrap_or_else(|violations| panic!("{violations:?}: {}", written(event)));
    assert_eq!(again.content_hash(), event.content_hash());
    assert_eq!((again.key, again.partner), (event.key.clone(), event.partner));
}

fn written(event: &Publication) -> String {
    let mut members = vec![
        ("type", Value::from(event.kind.as_str()).to_string()),
        ("data", String::from_utf8_lossy(&event.data).into_owned()),
        (
            "attributes",
            Value::Object(
                event.attributes.iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            )
            .to_string(),
        ),
    ];
    members.extend(event.key.as_ref().map(|key| ("id", Value::from(key.as_str()).to_string())));
    members.extend(
        event.ordering_key.as_ref().map(|key| ("orderingKey", Value::from(key.as_str()).to_string())),
    );
    members
        .extend(event.partner.map(|partner| ("partnerId", Value::from(partner.0.to_string()).to_string())));
    let members: Vec<String> =
        members.into_iter().map(|(name, value)| format!("\"{name}\" :\t{value}")).collect();
    format!(" {{{}}}\r", members.join(" , "))
}

/// Something is said, about each field once, and not much more than was sent.
fn well_put(text: &[u8], violations: &Violations) {
    let fields: BTreeSet<&str> = violations.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields.len(), violations.iter().count());
    assert!((1..=text.len() + 2).contains(&fields.len()));
    assert!(violations.iter().all(|one| !one.message.is_empty() && one.message.len() < 300));
    assert!(fields.iter().map(|field| field.len()).sum::<usize>() <= 12 * (text.len() + 2));
}

/// A batch says of each line what would be said of it alone.
fn lines(text: &[u8]) {
    let (mut events, mut violations) = (Vec::new(), Violations::default());
    for (place, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        // The end of a line is no part of what stands on it, as far as JSON has it for space.
        let end = line.iter().rposition(|byte| !b" \t\r".contains(byte)).map_or(0, |last| last + 1);
        match one(&line[..end]) {
            Ok(event) => events.push((Some(place + 1), event.content_hash())),
            Err(wrong) => wrong.iter().for_each(|wrong| {
                let number = place + 1;
                let field = if wrong.field == "body" {
                    format!("line {number}")
                } else {
                    format!("line {number}: {}", wrong.field)
                };
                violations.add(field, wrong.message.clone());
            }),
        }
        if violations.has_more() {
            break;
        }
    }
    match batch(text) {
        Ok(read) => {
            assert!(violations.is_empty() && !events.is_empty());
            let read: Vec<_> = read.iter().map(|event| (event.line, event.content_hash())).collect();
            assert_eq!(read, events);
        }
        Err(wrong) if events.is_empty() && violations.is_empty() => assert_eq!(wrong.iter().count(), 1),
        Err(wrong) => assert_eq!(wrong, violations),
    }
}

/// Brackets within each other, outside of texts.
fn depth(json: &[u8]) -> usize {
    let (mut open, mut deepest, mut bytes) = (0_usize, 0, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'[' | b'{' => open += 1,
            b']' | b'}' => open -= 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}
