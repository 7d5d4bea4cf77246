//! What a key ring does with its keys, old and new.

use super::*;

fn entry(id: &str, seed: u8) -> String {
    let key: Vec<u8> = (seed..seed + 32).collect();
    format!("{id}:{}", STANDARD.encode(key))
}

fn ring(entries: &[(&str, u8)]) -> KeyRing {
    let texts: Vec<String> = entries.iter().map(|(id, seed)| entry(id, *seed)).collect();
    KeyRing::parse(&texts.join(",")).unwrap()
}

#[test]
fn rule_09_what_is_sealed_opens_for_the_same_row_only() {
    let ring = ring(&[("k1", 1)]);
    let sealed = ring.seal("callbacks/1/credentials", b"hunter2");
    assert_eq!(ring.open("callbacks/1/credentials", &sealed).unwrap().expose(), b"hunter2");
    assert_eq!(ring.open("callbacks/2/credentials", &sealed), Err(OpenError::NotAuthentic));
    assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    assert_ne!(sealed, ring.seal("callbacks/1/credentials", b"hunter2"), "the nonce is random");
    assert_eq!(ring.open("r", &ring.seal("r", b"")).unwrap().expose(), b"");
}

#[test]
fn rule_09_every_altered_byte_and_every_cut_is_noticed() {
    let ring = ring(&[("k1", 1), ("k2", 2)]);
    let sealed = ring.seal("row", b"plaintext");
    for position in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[position] ^= 1;
        assert!(ring.open("row", &altered).is_err(), "byte {position}");
        assert!(ring.open("row", &sealed[..position]).is_err(), "cut at {position}");
    }
}

#[test]
fn rule_09_rotation_old_values_open_and_ask_to_be_resealed() {
    let (old, rotated, new) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]), ring(&[("k2", 2)]));
    let sealed = old.seal("row", b"plaintext");
    assert!(sealed.starts_with(&old.current_header()));
    assert!(!sealed.starts_with(&rotated.current_header()));
    let resealed = rotated.seal("row", rotated.open("row", &sealed).unwrap().expose());
    assert!(resealed.starts_with(&rotated.current_header()));
    assert_eq!(new.open("row", &resealed).unwrap().expose(), b"plaintext");
    assert_eq!(new.open("row", &sealed), Err(OpenError::UnknownKey { key_id: "k1".into() }));
    assert_eq!(ring(&[("k1", 9)]).open("row", &sealed), Err(OpenError::NotAuthentic));
}

#[test]
fn rule_09_keyed_hashes_know_domain_bytes_and_key() {
    let (old, rotated) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]));
    let hash = old.keyed_hash("idempotency", b"body");
    assert_eq!(hash, old.keyed_hash("idempotency", b"body"));
    assert_ne!(hash, rotated.keyed_hash("idempotency", b"body"));
    for (ring, domain, bytes, verifies) in [
        (&old, "idempotency", b"body", true),
        (&rotated, "idempotency", b"body", true),
        (&old, "cursor", b"body", false),
        (&old, "idempotency", b"Body", false),
        (&ring(&[("k2", 2)]), "idempotency", b"body", false),
        (&ring(&[("k1", 3)]), "idempotency", b"body", false),
    ] {
        assert_eq!(ring.verify_keyed_hash(domain, bytes, &hash), verifies, "{ring:?} {domain}");
    }
    assert!(!old.verify_keyed_hash("idempotency", b"body", &hash[..hash.len() - 1]));
    assert!(!old.verify_keyed_hash("idempotency", b"body", b""));
}

#[test]
fn fingerprints_tell_keys_apart_and_nothing_else() {
    let fingerprints = ring(&[("k2", 2), ("k1", 1)]).fingerprints();
    assert_eq!(fingerprints, ring(&[("k2", 2), ("k1", 1)]).fingerprints());
    assert_eq!(fingerprints[1], ring(&[("k1", 1)]).fingerprints()[0]);
    assert_ne!(fingerprints[1], ring(&[("k1", 9)]).fingerprints()[0], "another key of the same id");
    assert!(fingerprints[0].starts_with("k2#") && fingerprints[0].len() == 19, "{fingerprints:?}");
}

#[test]
fn a_value_says_whose_key_it_needs() {
    let (old, rotated) = (ring(&[("k1", 1)]), ring(&[("k2", 2), ("k1", 1)]));
    let (before, after) = (old.seal("row", b"p"), rotated.seal("row", b"p"));
    assert!(after.starts_with(&rotated.current_header()) && !before.starts_with(&rotated.current_header()));
    assert_eq!((key_id_of(&before), key_id_of(&after), key_id_of(b"")), (Some("k1"), Some("k2"), None));
    assert_eq!((old.knows_key_of(&before), old.knows_key_of(&after)), (true, false));
}

#[test]
fn a_generated_ring_is_told_by_its_text() {
    let (ring, text) = KeyRing::generate();
    let again = KeyRing::parse(text.expose_str().unwrap()).unwrap();
    assert_eq!(again.open("row", &ring.seal("row", b"p")).unwrap().expose(), b"p");
    assert!(text != KeyRing::generate().1);
}

#[test]
fn wrong_texts_are_named_without_their_keys() {
    let good = entry("k1", 1);
    let key = good.strip_prefix("k1:").unwrap().to_owned();
    for (text, expected) in [
        (String::new(), KeyRingError::Empty),
        ("  ".to_owned(), KeyRingError::Empty),
        (key.clone(), KeyRingError::NoSeparator { entry: 1 }),
        (format!("{good},"), KeyRingError::NoSeparator { entry: 2 }),
        (format!("{key}:k1"), KeyRingError::BadId { entry: 1 }),
        (format!(":{key}"), KeyRingError::BadId { entry: 1 }),
        (format!("{good},k 2:{key}"), KeyRingError::BadId { entry: 2 }),
        (format!("{}:{key}", "k".repeat(33)), KeyRingError::BadId { entry: 1 }),
        ("k1:not*base64".to_owned(), KeyRingError::NotBase64 { entry: 1 }),
        ("k1:".to_owned(), KeyRingError::WrongLength { entry: 1, bytes: 0 }),
        ("k1:c2hvcnQ=".to_owned(), KeyRingError::WrongLength { entry: 1, bytes: 5 }),
        (format!("k1:{}", STANDARD.encode([7; 32])), KeyRingError::NotRandom { entry: 1 }),
        (format!("{good},{good}"), KeyRingError::DuplicateId { id: "k1".into() }),
    ] {
        let error = KeyRing::parse(&text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains(&key) && !format!("{error:?}").contains(&key));
    }
}

#[test]
fn ids_have_letters_digits_hyphens_and_underscores() {
    for id in ["k", "2024-01_a", "-", "_", &"k".repeat(32)] {
        assert!(KeyRing::parse(&entry(id, 1)).is_ok(), "{id}");
    }
}

#[test]
fn spaces_and_missing_padding_are_forgiven_and_debug_shows_ids_only() {
    let text = format!(" {} , {} ", entry("new", 1), entry("old", 2).trim_end_matches('='));
    let ring = KeyRing::parse(&text).unwrap();
    assert_eq!(format!("{ring:?}"), r#"KeyRing { ids: ["new", "old"] }"#);
}
