//! `publicKeyXml`: no text panics, complaints repeat nothing of it, and what is taken is a public key of the right size, with the very numbers
//! that were sent, to which a secret can be encrypted.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use herald::domain::recipient_key::RecipientKey;
use herald::surfaces::webhooks::public_key::parse;
use libfuzzer_sys::fuzz_target;

const COMPLAINTS: [&str; 13] = [
    "must be at most 8192 bytes long",
    "must not have a DOCTYPE",
    "is not well-formed XML near line ",
    "must be an RSAKeyValue",
    "must not hold a private key: send the public one, and replace the pair",
    "must have a Modulus, an Exponent and nothing else",
    "must have its numbers in base64",
    "must have each number once",
    "must have a Modulus and an Exponent",
    "must hold a valid RSA public key",
    "must hold an RSA key of at least 2048 bits",
    "must hold an RSA key of at most 8192 bits",
    "",
];

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for text in [text.to_string(), format!("<RSAKeyValue>{text}</RSAKeyValue>")] {
        match parse(&text) {
            Ok(key) => judge(&key),
            Err(complaint) => {
                let known = |words: &&str| {
                    complaint
                        .strip_prefix(words)
                        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
                };
                assert!(COMPLAINTS.iter().any(|words| known(&words)), "{complaint}");
            }
        }
    }
    numbers(bytes);
});

/// A well-formed key of whatever numbers the input gives: taken if they are those of an RSA key, and only then.
fn numbers(bytes: &[u8]) {
    let Some(([high, low, exponent_bytes], rest)) = bytes.split_first_chunk() else { return };
    let modulus_bytes = usize::from(u16::from_be_bytes([*high, *low]) % 1_100);
    let (exponent, rest) = rest.split_at(usize::from(exponent_bytes % 8).min(rest.len()));
    let modulus: Vec<u8> = rest.iter().copied().cycle().take(modulus_bytes).collect();
    let xml = |more: &str| {
        let (modulus, exponent) = (STANDARD.encode(&modulus), STANDARD.encode(exponent));
        format!(
            "<RSAKeyValue><Modulus>{modulus}</Modulus><Exponent>{exponent}</Exponent>{more}</RSAKeyValue>"
        )
    };
    let read = parse(&xml(""));
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    let exponent_value = exponent.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let is_key = (2_048..=8_192).contains(&bits(&modulus))
        && is_odd(&modulus)
        && is_odd(exponent)
        && (3..1 << 33).contains(&exponent_value);
    assert_eq!(read.is_ok(), is_key, "{:?}: {}", read.err(), xml(""));
    if let Ok(key) = read {
        judge(&key);
        assert!(
            integers(&key.der())
                .iter()
                .map(|number| trimmed(number))
                .eq([trimmed(&modulus), trimmed(exponent)])
        );
        for private in ["P", "Q", "DP", "DQ", "InverseQ", "D"] {
            assert!(parse(&xml(&format!("<{private}>AQAB</{private}>"))).is_err());
        }
    }
}

fn judge(key: &RecipientKey) {
    let der = key.der();
    let numbers = integers(&der);
    let [modulus, exponent] = numbers.as_slice() else { panic!("{} numbers", numbers.len()) };
    assert!((2_048..=8_192).contains(&bits(modulus)) && (2..=33).contains(&bits(exponent)));
    let stored = RecipientKey::from_der(&der).expect("what is kept can be read again");
    assert_eq!(stored.der(), der);
    let secret = vec![7; key.secret_bytes_max()];
    let sealed = stored.encrypt(&secret).expect("a secret of the longest kind");
    assert_eq!(sealed.len(), bits(modulus).div_ceil(8));
    assert!(stored.encrypt(&[secret, vec![7]].concat()).is_none());
}

fn trimmed(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

fn bits(number: &[u8]) -> usize {
    let number = trimmed(number);
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// The two numbers at the end of a SubjectPublicKeyInfo, without a DER reader: SEQUENCE { SEQUENCE { … }, BIT STRING { SEQUENCE { n, e } } }.
fn integers(der: &[u8]) -> Vec<&[u8]> {
    let (_, whole, _) = element(der);
    let (_, _, after_algorithm) = element(whole);
    let (tag, bit_string, _) = element(after_algorithm);
    assert_eq!((tag, bit_string.first()), (3, Some(&0)));
    let (_, mut inside, _) = element(&bit_string[1..]);
    let mut numbers = Vec::new();
    while !inside.is_empty() {
        let (tag, number, rest) = element(inside);
        assert_eq!(tag, 2);
        numbers.push(number);
        inside = rest;
    }
    numbers
}

/// Tag, content and what follows.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, header) = match der[1] {
        short @ ..0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            (der[2..2 + bytes].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + bytes)
        }
    };
    let (content, rest) = der[header..].split_at(length);
    (der[0], content, rest)
}
