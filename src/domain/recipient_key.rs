//! The RSA public key of a subscription's owner, to which a secret is encrypted before it is shown: only who holds the private key can read
//! it. RSAES-OAEP with SHA-256, MGF1 with SHA-256 and no label, as the webhooks API publishes it. How a key is written is not known here.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents,
};

/// Smaller keys are within reach of those who can pay for it; larger ones cost us too much for each answer.
const BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// The library encrypts under no larger ones.
const EXPONENT_BITS_MAX: usize = 33;

/// A key that a secret can be encrypted to.
#[derive(Debug, Clone)]
pub struct RecipientKey(PublicEncryptingKey);

impl RecipientKey {
    /// The key of these two numbers, big-endian; zeros in front of them count for nothing.
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, &'static str> {
        const UNFIT: &str = "must hold a valid RSA public key";
        let (modulus, exponent) = (trimmed(modulus), trimmed(exponent));
        if bits(modulus) < *BITS.start() {
            return Err("must hold an RSA key of at least 2048 bits");
        }
        if bits(modulus) > *BITS.end() {
            return Err("must hold an RSA key of at most 8192 bits");
        }
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        // Under the exponent 1 the ciphertext is the padded secret itself.
        if !is_odd(modulus) || !is_odd(exponent) || exponent == [1] || bits(exponent) > EXPONENT_BITS_MAX {
            return Err(UNFIT);
        }
        PublicKeyComponents { n: modulus, e: exponent }.try_into().map(Self).map_err(|_| UNFIT)
    }

    /// The key that the store kept. `None` when it is none.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        PublicEncryptingKey::from_der(der).ok().map(Self)
    }

    /// As a `SubjectPublicKeyInfo`, for keeping.
    pub fn der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.0.as_der().expect("a key that was parsed can be written");
        der.as_ref().to_vec()
    }

    /// How long a secret may be: the length of the key less two digests and two bytes.
    pub fn secret_bytes_max(&self) -> usize {
        self.oaep().max_plaintext_size(&OAEP_SHA256_MGF1SHA256)
    }

    /// The secret encrypted, differently each time. `None` when it is too long.
    pub fn encrypt(&self, secret: &[u8]) -> Option<Vec<u8>> {
        let oaep = self.oaep();
        let mut ciphertext = vec![0; oaep.ciphertext_size()];
        let written = oaep.encrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut ciphertext, None).ok()?.len();
        ciphertext.truncate(written);
        Some(ciphertext)
    }

    fn oaep(&self) -> OaepPublicEncryptingKey {
        OaepPublicEncryptingKey::new(self.0.clone()).expect("any RSA key can be used for OAEP")
    }
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn bits(trimmed: &[u8]) -> usize {
    trimmed.first().map_or(0, |first| trimmed.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};

    use super::*;

    const EXPONENT: [u8; 3] = [1, 0, 1];

    /// A modulus as far as its size can be told; nobody knows its factors.
    fn modulus(bits: usize) -> Vec<u8> {
        let mut bytes = vec![0xa5; bits.div_ceil(8)];
        bytes[0] = 1 << ((bits - 1) % 8);
        bytes
    }

    #[test]
    fn what_is_encrypted_opens_with_the_private_key_and_is_never_twice_the_same() {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        let key = RecipientKey::from_der(der.as_ref()).unwrap();
        assert_eq!(key.der(), der.as_ref());
        let private = OaepPrivateDecryptingKey::new(private).unwrap();
        let longest = vec![7; key.secret_bytes_max()];
        for secret in [&b"c2VjcmV0"[..], &longest] {
            let (first, second) = (key.encrypt(secret).unwrap(), key.encrypt(secret).unwrap());
            assert_ne!(first, second);
            for ciphertext in [first, second] {
                let mut room = vec![0; private.min_output_size()];
                let opened = private.decrypt(&OAEP_SHA256_MGF1SHA256, &ciphertext, &mut room, None).unwrap();
                assert_eq!(opened, secret);
            }
        }
        assert_eq!(longest.len(), 190);
        assert!(key.encrypt(&[longest, vec![7]].concat()).is_none());
    }

    #[test]
    fn a_key_is_large_enough_odd_and_has_a_real_exponent() {
        let good = modulus(2_048);
        assert!(RecipientKey::from_components(&good, &EXPONENT).is_ok());
        assert!(RecipientKey::from_components(&[&[0, 0], &good[..]].concat(), &[0, 1, 0, 1]).is_ok());
        for exponent in [&[3][..], &[1, 0, 0, 0, 1]] {
            assert!(RecipientKey::from_components(&good, exponent).is_ok(), "{exponent:?}");
        }
        assert!(RecipientKey::from_components(&modulus(8_192), &EXPONENT).is_ok());
        let mut even = good.clone();
        even[255] = 2;
        for (modulus, exponent, complaint) in [
            (modulus(2_047), &EXPONENT[..], "at least 2048"),
            (modulus(1_024), &EXPONENT, "at least 2048"),
            (vec![], &EXPONENT, "at least 2048"),
            ([vec![0; 256], modulus(1_024)].concat(), &EXPONENT, "at least 2048"),
            (modulus(8_193), &EXPONENT, "at most 8192"),
            (even, &EXPONENT, "valid"),
            (good.clone(), &[], "valid"),
            (good.clone(), &[0], "valid"),
            (good.clone(), &[1], "valid"),
            (good.clone(), &[0, 1], "valid"),
            (good.clone(), &[4], "valid"),
            (good.clone(), &[1, 0, 0, 0, 0, 1], "valid"),
            (good.clone(), &[3, 0, 0, 0, 1], "valid"),
        ] {
            let refused = RecipientKey::from_components(&modulus, exponent).unwrap_err();
            assert!(refused.contains(complaint), "{refused}: {exponent:?}");
        }
    }
}
