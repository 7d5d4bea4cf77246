//! Encryption at rest: what the store keeps of a callback's credentials, and keyed fingerprints.
//!
//! A ring holds one or more named 256-bit keys. The first one encrypts; all of them decrypt, so that keys are rotated
//! by putting a new one in front, re-encrypting what does not begin with [`KeyRing::current_header`], and dropping the old one.
//!
//! What is sealed (AES-256-GCM) looks like this; a keyed hash has the same header and 32 bytes of HMAC-SHA256 after it:
//!
//! ```text
//! format (1 byte, = 1) · key id length (1 byte) · key id · nonce (12 bytes) · ciphertext and tag
//! ```
//!
//! The header and the identity of the row are associated data: a ciphertext copied to another row does not open there.
//! No key of the ring is used as it stands. Each use gets its own key by HKDF, so one use says nothing about another.
//! This module does not know rows, tables, or where the ring comes from.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac, rand};
use base64::Engine as _;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use zeroize::Zeroizing;

use super::secret::Secret;

const FORMAT: u8 = 1;
const KEY_BYTES: usize = 32;
/// Shorter than any base64 text of 32 bytes, so that a key can never be taken for an id and printed.
const KEY_ID_CHARS_MAX: usize = 32;

/// Keys are pasted by hand: with or without the `=` at the end.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys in use, newest first. Cheap to clone; `Debug` shows the ids only.
#[derive(Clone)]
pub struct KeyRing {
    /// Never empty.
    keys: Arc<[RingKey]>,
}

struct RingKey {
    id: String,
    sealing: LessSafeKey,
    /// The key material that each hashing domain's own key is derived from.
    root: Secret,
}

/// What is wrong with a key ring's text. Entries are named by their position: nothing of their content is repeated,
/// except an id that occurs twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    #[error("it holds no key")]
    Empty,
    #[error("entry {entry} has no `:` between its id and its key")]
    NoSeparator { entry: usize },
    #[error(
        "the id of entry {entry} is not 1 to {KEY_ID_CHARS_MAX} letters, digits, `-` or `_` (is it the key that stands before the `:`?)"
    )]
    BadId { entry: usize },
    #[error("the key of entry {entry} is not base64")]
    NotBase64 { entry: usize },
    #[error("the key of entry {entry} is {bytes} bytes long instead of {KEY_BYTES}")]
    WrongLength { entry: usize, bytes: usize },
    #[error("the key of entry {entry} is one byte repeated, not a random key")]
    NotRandom { entry: usize },
    #[error("the id `{id}` is given to two keys")]
    DuplicateId { id: String },
}

impl KeyRingError {
    /// How to write a ring that parses; goes after every one of the errors.
    pub const HINT: &'static str = "write a comma-separated list of id:key, the key that encrypts first; \
                                    `echo \"k1:$(openssl rand -base64 32)\"` makes one";
}

/// Why a sealed value does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the sealed value is cut short or of an unknown format")]
    Malformed,
    #[error("it was sealed with key `{key_id}`, which is not in the key ring")]
    UnknownKey { key_id: String },
    #[error("it was altered, belongs to another row, or was sealed with another key of the same id")]
    NotAuthentic,
}

impl KeyRing {
    /// Parses `id:base64(32 bytes)` entries separated by commas; the first one encrypts.
    ///
    /// # Errors
    /// The first entry that is wrong, without its content. [`KeyRingError::HINT`] says how to make a right one.
    pub fn parse(text: &str) -> Result<KeyRing, KeyRingError> {
        if text.trim().is_empty() {
            return Err(KeyRingError::Empty);
        }
        let mut keys: Vec<RingKey> = Vec::new();
        for (position, entry) in text.split(',').enumerate() {
            let key = parse_entry(position + 1, entry.trim())?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyRingError::DuplicateId { id: key.id });
            }
            keys.push(key);
        }
        Ok(KeyRing { keys: keys.into() })
    }

    /// A ring of one fresh key, and its text, from which [`KeyRing::parse`] makes the same ring again.
    pub fn generate() -> (KeyRing, Secret) {
        let root = random::<KEY_BYTES>();
        let id = "k1";
        let encoded = Zeroizing::new(STANDARD.encode(*root));
        let text = Secret::new(format!("{id}:{}", *encoded));
        (KeyRing { keys: Arc::new([RingKey::new(id, &root)]) }, text)
    }

    /// Encrypts with the first key. `identity` names the row and column, such as `callbacks/{id}/credentials`; the
    /// same must be given to [`KeyRing::open`].
    ///
    /// Nonces are random, which is sound for some 2³² values per key: far more than a key sees between rotations.
    pub fn seal(&self, identity: &str, plaintext: &[u8]) -> Vec<u8> {
        let key = self.first();
        let header = header(&key.id);
        let nonce = random::<NONCE_LEN>();
        let mut ciphertext = plaintext.to_vec();
        key.sealing
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(associated_data(&header, identity)),
                &mut ciphertext,
            )
            .expect("AES-GCM refuses only plaintexts of 64 GiB and more");
        [header.as_slice(), nonce.as_slice(), &ciphertext].concat()
    }

    /// Decrypts what any key of the ring has sealed for this identity.
    ///
    /// # Errors
    /// See [`OpenError`]. None of them tells anything about the plaintext.
    pub fn open(&self, identity: &str, sealed: &[u8]) -> Result<Secret, OpenError> {
        let (key_id, rest) = split_header(sealed).ok_or(OpenError::Malformed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Malformed)?;
        let key = self.find(key_id).ok_or_else(|| OpenError::UnknownKey { key_id: key_id.to_owned() })?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plaintext = key
            .sealing
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(associated_data(&header(key_id), identity)),
                &mut buffer,
            )
            .map_err(|_| OpenError::NotAuthentic)?;
        Ok(Secret::new(&*plaintext))
    }

    /// What every value begins with that the first key has sealed.
    pub fn current_header(&self) -> Vec<u8> {
        header(&self.first().id)
    }

    /// Whether the ring holds the key that sealed this value, as far as its id tells.
    pub fn knows_key_of(&self, sealed: &[u8]) -> bool {
        split_header(sealed).is_some_and(|(id, _)| self.find(id).is_some())
    }

    /// The id and a fingerprint of every key, the one that encrypts first: what nodes compare to know whether they can open each other's
    /// values. It tells nothing about a key but whether two are the same.
    pub fn fingerprints(&self) -> Vec<String> {
        let fingerprint = |key: &RingKey| {
            let tag = hmac::sign(&key.hashing_key("fingerprint"), key.id.as_bytes());
            let hex: String = tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("{}#{hex}", key.id)
        };
        self.keys.iter().map(fingerprint).collect()
    }

    /// A fingerprint that nobody without the ring can compute or guess at: HMAC-SHA256 with a key of the first key and
    /// the domain. It starts with the key's id, so that [`KeyRing::verify_keyed_hash`] works after a rotation.
    pub fn keyed_hash(&self, domain: &str, bytes: &[u8]) -> Vec<u8> {
        let key = self.first();
        [header(&key.id).as_slice(), hmac::sign(&key.hashing_key(domain), bytes).as_ref()].concat()
    }

    /// Whether `hash` was made by [`KeyRing::keyed_hash`] for this domain and these bytes, with any key of the ring.
    /// A hash of a key that has left the ring never verifies.
    pub fn verify_keyed_hash(&self, domain: &str, bytes: &[u8], hash: &[u8]) -> bool {
        let Some((key_id, tag)) = split_header(hash) else { return false };
        let Some(key) = self.find(key_id) else { return false };
        hmac::verify(&key.hashing_key(domain), bytes, tag).is_ok()
    }

    fn first(&self) -> &RingKey {
        self.keys.first().expect("parse and generate both put a key in")
    }

    fn find(&self, id: &str) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.keys.iter().map(|key| key.id.as_str()).collect();
        f.debug_struct("KeyRing").field("ids", &ids).finish()
    }
}

impl RingKey {
    fn new(id: &str, root: &[u8; KEY_BYTES]) -> RingKey {
        let sealing = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, root)
            .expand(&[b"herald seal v1"], &AES_256_GCM)
            .map(UnboundKey::from)
            .expect("32 bytes are well below the 8,160 that HKDF-SHA256 can give");
        RingKey { id: id.to_owned(), sealing: LessSafeKey::new(sealing), root: Secret::new(*root) }
    }

    fn hashing_key(&self, domain: &str) -> hmac::Key {
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, self.root.expose())
            .expand(&[b"herald keyed hash v1 ", domain.as_bytes()], hmac::HMAC_SHA256)
            .map(hmac::Key::from)
            .expect("32 bytes are well below the 8,160 that HKDF-SHA256 can give")
    }
}

fn parse_entry(entry: usize, text: &str) -> Result<RingKey, KeyRingError> {
    let (id, key) = text.split_once(':').ok_or(KeyRingError::NoSeparator { entry })?;
    let id_chars_known = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if id.is_empty() || id.len() > KEY_ID_CHARS_MAX || !id_chars_known {
        return Err(KeyRingError::BadId { entry });
    }
    let bytes = Zeroizing::new(KEY_BASE64.decode(key).map_err(|_| KeyRingError::NotBase64 { entry })?);
    let root: &[u8; KEY_BYTES] =
        bytes.as_slice().try_into().map_err(|_| KeyRingError::WrongLength { entry, bytes: bytes.len() })?;
    if root.iter().all(|byte| *byte == root[0]) {
        return Err(KeyRingError::NotRandom { entry });
    }
    Ok(RingKey::new(id, root))
}

fn header(key_id: &str) -> Vec<u8> {
    let length = u8::try_from(key_id.len()).expect("ids have at most 32 characters, or came out of a header");
    [&[FORMAT, length], key_id.as_bytes()].concat()
}

fn split_header(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let [FORMAT, length, rest @ ..] = bytes else { return None };
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(id).ok()?, rest))
}

/// The id of the key that sealed a value, for people.
pub fn key_id_of(sealed: &[u8]) -> Option<&str> {
    split_header(sealed).map(|(id, _)| id)
}

/// The header says its own length, so header and identity cannot run into each other.
fn associated_data(header: &[u8], identity: &str) -> Vec<u8> {
    [header, identity.as_bytes()].concat()
}

fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(&mut *bytes).expect("the operating system always has random bytes");
    bytes
}

#[cfg(test)]
mod tests;
