//! Secrets: shown to nobody but the owner of the private key, kept sealed, changed with the old one in hand.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// The owner of a key pair.
struct Owner {
    private: OaepPrivateDecryptingKey,
    public_key_xml: String,
}

impl Owner {
    fn new() -> Owner {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        // The key ends with its two numbers: 256 bytes, two bytes of a header, the exponent 65537.
        let (modulus, exponent) = der.as_ref()[der.as_ref().len() - 261..].split_at(256);
        assert_eq!(exponent, [2, 3, 1, 0, 1]);
        let public_key_xml = format!(
            "<RSAKeyValue><Modulus>{}</Modulus><Exponent>AQAB</Exponent></RSAKeyValue>",
            STANDARD.encode(modulus)
        );
        Owner { private: OaepPrivateDecryptingKey::new(private).unwrap(), public_key_xml }
    }

    fn open(&self, shown: &Value) -> String {
        let ciphertext = STANDARD.decode(text(&shown["subscription"]["config"]["secret"])).unwrap();
        let mut room = vec![0; self.private.min_output_size()];
        let secret = self.private.decrypt(&OAEP_SHA256_MGF1SHA256, &ciphertext, &mut room, None).unwrap();
        String::from_utf8(secret.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn rule_10_the_secret_is_shown_encrypted_to_its_owner_in_every_answer_and_kept_sealed() {
    let world = world().await;
    let partner = &*world.app;
    let owner = Owner::new();
    let body = json!({
        "events": ["order_paid"], "url": ANY_URL, "secret": SECRET, "publicKeyXml": owner.public_key_xml,
    });
    let made = post(partner, &at("/sync", "/create"), body).await.json();
    let id = text(&made[0]["subscription"]["id"]);
    assert_eq!(owner.open(&made[0]), SECRET);
    assert_eq!(owner.open(&get(partner, &at("/sync", &format!("/{id}"))).await.json()), SECRET);
    assert_eq!(owner.open(&get(partner, &at("/sync", "/find?eventName=order_paid")).await.json()), SECRET);
    assert_eq!(owner.open(&get(partner, &at("/sync", "")).await.json()[0]), SECRET);
    let listed = post(partner, &at("/sync", "/list"), json!({ "ids": [id] })).await.json();
    assert_eq!(owner.open(&listed[0]), SECRET);

    let next = Owner::new();
    let change = json!({ "newSecret": NEW_SECRET, "publicKeyXml": next.public_key_xml });
    assert_eq!(next.open(&update(partner, &id, change).await.json()), NEW_SECRET);
    let kept = "select (select count(*) from callbacks
                        where position('canary'::bytea in credentials) + position('canary'::bytea in signing_key) > 0)
                    + (select count(*) from superseded_signing_keys where position('canary'::bytea in signing_key) > 0)";
    assert_eq!(world.count(kept).await, 0, "nothing is kept in the clear");
    assert_eq!(next.open(&delete(partner, &id, NEW_SECRET).await.json()), NEW_SECRET);
    let superseded = "select count(*) from superseded_signing_keys";
    assert_eq!(world.count(superseded).await, 0, "nor of the one before it");
    let left = "select count(*) from callbacks where credentials is not null or signing_key is not null";
    assert_eq!(world.count(left).await, 0, "nothing is left of it");
}

#[tokio::test]
async fn keys_that_are_small_private_or_no_xml_and_secrets_that_do_not_fit_are_refused() {
    let world = world().await;
    let partner = &*world.app;
    let owner = Owner::new();
    let good = owner.public_key_xml.as_str();
    let private = good.replace("</RSAKeyValue>", "<D>AQAB</D></RSAKeyValue>");
    let small = format!(
        "<RSAKeyValue><Modulus>{}</Modulus><Exponent>AQAB</Exponent></RSAKeyValue>",
        STANDARD.encode([0xa5; 255])
    );
    let large = good.replace("<Exponent>", &format!("{}<Exponent>", " ".repeat(8_192)));
    let doctype = format!("<!DOCTYPE RSAKeyValue [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>{good}");
    let long = "QUJD".repeat(48);
    let fitting = "QUJD".repeat(47);
    let create = async |key: &str, secret: &str| {
        let body = json!({ "events": ["order_paid"], "url": ANY_URL, "secret": secret, "publicKeyXml": key });
        post(partner, &at("/sync", "/create"), body).await
    };
    for bad in [private.as_str(), &small, &large, &doctype, "<RSAKeyValue>", "canary", "<a/>"] {
        assert_eq!(
            create(bad, SECRET).await.wrong_fields(),
            ["publicKeyXml"],
            "{}",
            &bad[..bad.len().min(60)]
        );
    }
    assert_eq!(create(good, &long).await.wrong_fields(), ["secret"], "190 bytes are the most that fit");
    let made = create(good, &fitting).await;
    assert_eq!(owner.open(&made.json()[0]), fitting);

    let id = text(&made.json()[0]["subscription"]["id"]);
    let change = async |change: Value| {
        let mut body = json!({ "currentSecret": fitting });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        post(partner, &at("/sync", &format!("/{id}/update")), body).await
    };
    assert_eq!(change(json!({ "newSecret": long })).await.wrong_fields(), ["newSecret"]);
    assert_eq!(change(json!({ "publicKeyXml": small })).await.wrong_fields(), ["publicKeyXml"]);

    let keyless = json!({ "events": ["order_sent"], "url": ANY_URL, "secret": long });
    let keyless = post(partner, &at("/sync", "/create"), keyless).await.json();
    assert_eq!(keyless[0]["subscription"]["config"].get("secret"), None);
    let id = text(&keyless[0]["subscription"]["id"]);
    let late = json!({ "currentSecret": long, "publicKeyXml": good });
    let refused = post(partner, &at("/sync", &format!("/{id}/update")), late).await;
    assert_eq!(refused.wrong_fields(), ["publicKeyXml"], "the secret that there is does not fit");
}
