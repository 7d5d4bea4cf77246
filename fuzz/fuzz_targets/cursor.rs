//! Cursors: only what was written for this partner and this list is read, and it is read as what it was; page sizes stay within their bounds.

#![no_main]

use std::sync::LazyLock;

use herald::domain::Violations;
use herald::domain::id::PartnerId;
use herald::domain::key_ring::KeyRing;
use herald::surfaces::kit::cursor::{LIMIT_DEFAULT, LIMIT_MAX, limit, read, write};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

/// The bytes 0 to 31.
static KEYS: LazyLock<KeyRing> =
    LazyLock::new(|| KeyRing::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("a key ring"));
const PARTNER: PartnerId = PartnerId(Uuid::from_u128(7));
const LIST: &str = "deliveries";

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(at) = read(&KEYS, PARTNER, LIST, &text) {
        assert_eq!(write(&KEYS, PARTNER, LIST, at), text, "a second spelling of the same cursor");
    }
    page_size(&text);

    // A true cursor, and what is left of it after one byte of it, its partner or its list was changed as the input says.
    let mut entry = [0; 16];
    let filled = bytes.len().min(16);
    entry[..filled].copy_from_slice(&bytes[..filled]);
    let at = Uuid::from_bytes(entry);
    let cursor = write(&KEYS, PARTNER, LIST, at);
    assert_eq!(read(&KEYS, PARTNER, LIST, &cursor).ok(), Some(at));
    let other = PartnerId(Uuid::from_u128(7 ^ u128::from_be_bytes(entry)));
    assert_eq!(read(&KEYS, other, LIST, &cursor).is_ok(), other == PARTNER);
    assert_eq!(read(&KEYS, PARTNER, &text, &cursor).is_ok(), text == LIST);
    let mut altered = cursor.clone().into_bytes();
    for change in bytes.chunks_exact(2) {
        match change {
            [255, keep] => altered.truncate(usize::from(*keep)),
            [254, more] => altered.push(*more),
            [place, byte] => {
                let places = altered.len().max(1);
                if let Some(slot) = altered.get_mut(usize::from(*place) % places) {
                    *slot = *byte;
                }
            }
            _ => {}
        }
        let Ok(text) = std::str::from_utf8(&altered) else { continue };
        assert_eq!(
            read(&KEYS, PARTNER, LIST, text).ok(),
            (text == cursor).then_some(at),
            "{text:?} is not {cursor:?}"
        );
    }
});

fn page_size(text: &str) {
    let mut violations = Violations::default();
    let size = limit(Some(text), &mut violations);
    assert!((1..=LIMIT_MAX).contains(&size));
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = is_number
        .then(|| digits.trim_start_matches('0'))
        .filter(|digits| digits.len() <= 3)
        .and_then(|digits| digits.parse().ok());
    match value.filter(|value| (1..=LIMIT_MAX).contains(value)) {
        Some(value) => assert!(violations.is_empty() && size == value, "{text:?}"),
        None => assert!(!violations.is_empty() && size == LIMIT_DEFAULT, "{text:?}"),
    }
}
