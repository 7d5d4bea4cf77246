//! `If-Match`, against the grammar of RFC 9110 read letter by letter: the same texts are lists, with the same strong tags in them, and a
//! condition holds for exactly the versions whose tag it names.

#![no_main]

use herald::domain::version::{IfMatch, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let read = IfMatch::parse(&text).ok();
    assert_eq!(read, expected(&text), "{text:?}");
    let versions = [0, 1, 2, 3, 10, 12, i64::MAX];
    match read {
        None => {}
        Some(IfMatch::Absent) => panic!("a header that is there was read as none: {text:?}"),
        Some(IfMatch::Any) => assert_eq!(text.trim_matches([' ', '\t']), "*"),
        Some(IfMatch::Tags(tags)) => {
            let condition = IfMatch::Tags(tags.clone());
            assert!(!condition.allows(None));
            for version in versions {
                let named = tags.iter().any(|tag| Version(version).etag() == format!("\"{tag}\""));
                assert_eq!(condition.allows(Some(Version(version))), named, "{text:?}");
            }
            let written: Vec<String> = tags.iter().map(|tag| format!("\"{tag}\"")).collect();
            if !tags.is_empty() {
                assert_eq!(IfMatch::parse(&written.join(",")), Ok(condition));
            }
        }
    }
});

/// `*`, or `1#entity-tag`: elements between commas, of which empty ones count for nothing.
fn expected(text: &str) -> Option<IfMatch> {
    if text.trim_matches([' ', '\t']) == "*" {
        return Some(IfMatch::Any);
    }
    let (mut elements, mut quoted) = (vec![String::new()], false);
    for c in text.chars() {
        quoted ^= c == '"';
        match c {
            ',' if !quoted => elements.push(String::new()),
            c => elements.last_mut()?.push(c),
        }
    }
    let (mut tags, mut seen) = (Vec::new(), 0);
    for element in
        elements.iter().map(|element| element.trim_matches([' ', '\t'])).filter(|element| !element.is_empty())
    {
        let (is_strong, opaque) =
            element.strip_prefix("W/").map_or((true, element), |opaque| (false, opaque));
        let tag = opaque.strip_prefix('"')?.strip_suffix('"')?;
        if !tag.chars().all(|c| matches!(c, '\x21' | '\x23'..='\x7e' | '\u{80}'..)) {
            return None;
        }
        seen += 1;
        tags.extend(is_strong.then(|| tag.to_owned()));
    }
    (seen > 0).then_some(IfMatch::Tags(tags))
}
