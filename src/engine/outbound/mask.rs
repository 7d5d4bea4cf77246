//! Blanks secrets in what a receiver answered, before anybody stores it.

const BLANK: &[u8] = b"[masked]";

/// Replaces every secret in the body, as it is and as JSON or a URL would spell it. Where the body was cut short, the
/// beginning of a secret at its very end goes too. The result is never longer than the body, so that a one-letter
/// secret cannot blow it up.
pub(super) fn mask(body: Vec<u8>, complete: bool, secrets: &[&[u8]]) -> Vec<u8> {
    // What most receivers answer.
    if body.is_empty() {
        return body;
    }
    let mut hidden = vec![false; body.len()];
    for needle in secrets.iter().flat_map(|secret| spellings(secret)) {
        hide(&body, &needle, &mut hidden);
        if !complete {
            hide_cut_off(&body, &needle, &mut hidden);
        }
    }
    if !hidden.contains(&true) {
        return body;
    }
    let mut masked = Vec::with_capacity(body.len());
    for (index, byte) in body.iter().enumerate() {
        match hidden[index] {
            false => masked.push(*byte),
            true if index == 0 || !hidden[index - 1] => masked.extend_from_slice(BLANK),
            true => {}
        }
    }
    masked.truncate(body.len());
    masked
}

fn hide(body: &[u8], needle: &[u8], hidden: &mut [bool]) {
    for start in 0..(body.len() + 1).saturating_sub(needle.len()) {
        if body[start..].starts_with(needle) {
            hidden[start..start + needle.len()].fill(true);
        }
    }
}

fn hide_cut_off(body: &[u8], needle: &[u8], hidden: &mut [bool]) {
    let longest = needle.len().min(body.len());
    if let Some(bytes) = (1..=longest).rev().find(|bytes| body.ends_with(&needle[..*bytes])) {
        hidden[body.len() - bytes..].fill(true);
    }
}

/// The secret itself, in a JSON string (with `/` escaped and not), and percent-encoded (in both letter cases).
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    if secret.is_empty() {
        return Vec::new();
    }
    let spelt =
        |spell: &dyn Fn(u8) -> Vec<u8>| secret.iter().flat_map(|byte| spell(*byte)).collect::<Vec<u8>>();
    let json = |escape_slash: bool| {
        spelt(&|byte| match byte {
            b'"' | b'\\' => vec![b'\\', byte],
            b'/' if escape_slash => vec![b'\\', byte],
            _ => vec![byte],
        })
    };
    let percent = |upper: bool| {
        spelt(&|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => vec![byte],
            _ if upper => format!("%{byte:02X}").into_bytes(),
            _ => format!("%{byte:02x}").into_bytes(),
        })
    };
    let mut all = vec![secret.to_vec(), json(false), json(true), percent(true), percent(false)];
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(body: &str, complete: bool, secrets: &[&str]) -> String {
        let secrets: Vec<&[u8]> = secrets.iter().map(|secret| secret.as_bytes()).collect();
        String::from_utf8(mask(body.as_bytes().to_vec(), complete, &secrets)).unwrap()
    }

    #[test]
    fn rule_05_echoed_secrets_are_blanked() {
        for (body, complete, secrets, expected) in [
            ("", true, &["canary"][..], ""),
            ("nothing here", true, &["canary"], "nothing here"),
            ("nothing here", true, &[], "nothing here"),
            ("nothing here", true, &[""], "nothing here"),
            ("got canary-secret!", true, &["canary-secret"], "got [masked]!"),
            ("canary-1 and canary-2", true, &["canary-1", "canary-2"], "[masked] and [masked]"),
            ("canary-1canary-1 twice", true, &["canary-1"], "[masked] twice"),
            ("first-second overlap", true, &["first-sec", "sec", "second"], "[masked] overlap"),
            (r#"{"key":"ca\/na\"ry+x"}"#, true, &[r#"ca/na"ry+x"#], r#"{"key":"[masked]"}"#),
            (r#"{"key":"ca/na\"ry+x"}"#, true, &[r#"ca/na"ry+x"#], r#"{"key":"[masked]"}"#),
            ("key=canary%2Fx%3D&a=1", true, &["canary/x="], "key=[masked]&a=1"),
            ("key=canary%2fx%3d&a=1", true, &["canary/x="], "key=[masked]&a=1"),
            ("whole answer ends in cana", true, &["canary-secret"], "whole answer ends in cana"),
            ("answer was cut at canary-sec", false, &["canary-secret"], "answer was cut at [masked]"),
            ("answer was cut at canary-secret", false, &["canary-secret"], "answer was cut at [masked]"),
            ("abc", true, &["b"], "a[m"),
        ] {
            assert_eq!(masked(body, complete, secrets), expected, "{body} without {secrets:?}");
        }
    }

    #[test]
    fn rule_05_bytes_that_are_no_text_pass_through() {
        assert_eq!(
            mask(b"\x00\xff\xfecanary\x1b[31m".to_vec(), true, &[b"canary"]),
            b"\x00\xff\xfe[masked]\x1b[3"
        );
    }

    proptest! {
        #[test]
        fn rule_05_no_secret_survives_and_nothing_grows(
            before in "[a-d/]{0,20}", secret in "[a-d/]{3,6}", after in "[a-d/]{0,20}", cut in 0usize..46
        ) {
            let whole = format!("{before}{secret}{after}");
            let kept = &whole.as_bytes()[..cut.min(whole.len())];
            let result = mask(kept.to_vec(), kept.len() == whole.len(), &[secret.as_bytes()]);
            prop_assert!(result.len() <= kept.len());
            prop_assert!(!result.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}
