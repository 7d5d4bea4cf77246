//! An RSA public key as .NET writes it: `<RSAKeyValue><Modulus>…</Modulus><Exponent>…</Exponent></RSAKeyValue>`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::recipient_key::RecipientKey;
use crate::surfaces::webhooks::format::xml;

const XML_BYTES_MAX: usize = 8 * 1_024;
/// What a private key has besides.
const PRIVATE: [&str; 6] = ["P", "Q", "DP", "DQ", "InverseQ", "D"];

/// Complaints are for the partner and repeat nothing of what was sent.
pub fn parse(text: &str) -> Result<RecipientKey, String> {
    if text.len() > XML_BYTES_MAX {
        return Err(format!("must be at most {XML_BYTES_MAX} bytes long"));
    }
    let document = xml::document(text.trim())?;
    let root = document.root_element();
    if root.tag_name().name() != "RSAKeyValue" {
        return Err("must be an RSAKeyValue".to_owned());
    }
    let (mut modulus, mut exponent) = (None, None);
    for member in root.children().filter(roxmltree::Node::is_element) {
        let slot = match member.tag_name().name() {
            "Modulus" => &mut modulus,
            "Exponent" => &mut exponent,
            name if PRIVATE.contains(&name) => {
                return Err(
                    "must not hold a private key: send the public one, and replace the pair".to_owned()
                );
            }
            _ => return Err("must have a Modulus, an Exponent and nothing else".to_owned()),
        };
        let digits: String = member.text().unwrap_or_default().split_ascii_whitespace().collect();
        let bytes = STANDARD.decode(digits).map_err(|_| "must have its numbers in base64".to_owned())?;
        if slot.replace(bytes).is_some() {
            return Err("must have each number once".to_owned());
        }
    }
    match (modulus, exponent) {
        (Some(modulus), Some(exponent)) => {
            RecipientKey::from_components(&modulus, &exponent).map_err(str::to_owned)
        }
        _ => Err("must have a Modulus and an Exponent".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: usize) -> String {
        STANDARD.encode([&[0x81][..], &vec![0xa5; bytes - 1]].concat())
    }

    fn key(inside: &str) -> String {
        format!("<RSAKeyValue>{inside}</RSAKeyValue>")
    }

    #[test]
    fn a_key_is_read_as_dotnet_writes_it() {
        let (modulus, exponent) = (number(256), "AQAB");
        let plain = key(&format!("<Modulus>{modulus}</Modulus><Exponent>{exponent}</Exponent>"));
        let wrapped = modulus.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap());
        let wrapped = wrapped.collect::<Vec<_>>().join("\r\n");
        let pretty = format!(
            "<?xml version=\"1.0\"?>\n<!-- mine -->\n<RSAKeyValue xmlns=\"http://www.w3.org/2000/09/xmldsig#\">\n  \
             <Exponent> AQAB </Exponent>\n  <Modulus>\n{wrapped}\n</Modulus>\n</RSAKeyValue>\n"
        );
        let der = parse(&plain).unwrap().der();
        assert_eq!(parse(&pretty).unwrap().der(), der);
    }

    #[test]
    fn everything_else_is_refused_without_being_repeated() {
        let (good, exponent) = (format!("<Modulus>{}</Modulus>", number(256)), "<Exponent>AQAB</Exponent>");
        let private = |name: &str| key(&format!("{good}{exponent}<{name}>Y2FuYXJ5</{name}>"));
        let doctype = format!("<!DOCTYPE RSAKeyValue>{}", key(&format!("{good}{exponent}")));
        let entity = format!(
            "<!DOCTYPE RSAKeyValue [<!ENTITY e SYSTEM \"file:///canary\">]>{}",
            key(&format!("{good}<Exponent>&e;</Exponent>"))
        );
        let large = key(&format!("{good}{exponent}{}", " ".repeat(XML_BYTES_MAX)));
        let mut cases = vec![
            (large, "8192 bytes"),
            (doctype, "DOCTYPE"),
            (entity, "DOCTYPE"),
            (String::new(), "well-formed"),
            ("canary".to_owned(), "well-formed"),
            ("<RSAKeyValue>".to_owned(), "well-formed"),
            ("<Canary/>".to_owned(), "RSAKeyValue"),
            (key(""), "Modulus"),
            (key(&good), "Exponent"),
            (key(exponent), "Modulus"),
            (key(&format!("{good}{exponent}{exponent}")), "once"),
            (key(&format!("{good}{exponent}<Canary/>")), "nothing else"),
            (key(&format!("{good}<Exponent>canary!</Exponent>")), "base64"),
            (key(&format!("{good}<Exponent></Exponent>")), "valid"),
            (key(&format!("{good}<Exponent>AQ==</Exponent>")), "valid"),
            (key(&format!("<Modulus>{}</Modulus>{exponent}", number(255))), "2048"),
            (key(&format!("<Modulus>{}</Modulus>{exponent}", number(1_025))), "8192"),
        ];
        cases.extend(PRIVATE.map(|name| (private(name), "private key")));
        for (text, complaint) in cases {
            let refused = parse(&text).unwrap_err();
            assert!(refused.contains(complaint), "{}: {refused}", &text[..text.len().min(80)]);
            assert!(!refused.to_lowercase().contains("canary") && !refused.contains("Y2FuYXJ5"), "{refused}");
        }
    }
}
