//! Blanks secrets in what a receiver answered, before anybody stores it.
//!
//! A receiver that echoes one writes it as its format wants it: in a JSON string, in a URL, in HTML. So every byte of a secret may stand there in
//! any of its spellings, see [`spelling`]. All ways of reading a body are followed at once, a bit for each: what a place costs depends on the length
//! of the secret, never on what the body is made of.

mod spelling;

const BLANK: &[u8] = b"[masked]";

/// Replaces every secret in the body, however each of its characters is escaped. Where the body was cut short, the
/// beginning of a secret at its very end goes too. The result is never longer than the body, so that a one-letter
/// secret cannot blow it up.
pub(super) fn mask(body: Vec<u8>, complete: bool, secrets: &[&[u8]]) -> Vec<u8> {
    // What most receivers answer.
    if body.is_empty() {
        return body;
    }
    let mut hidden = vec![false; body.len()];
    for secret in secrets {
        // No spelling is shorter than what it spells.
        if !secret.is_empty() && (!complete || secret.len() <= body.len()) {
            hide(&body, complete, &Needle::new(secret), &mut hidden);
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

/// A secret as sets of places in it: bit `n` stands for its first `n` bytes.
struct Needle {
    words: usize,
    /// For each byte, behind which of the secret's bytes it is: so many words for each.
    behind: Vec<u64>,
    /// Where something of the secret is read, and not all.
    inside: Vec<u64>,
    length: usize,
}

impl Needle {
    fn new(secret: &[u8]) -> Self {
        let words = secret.len() / 64 + 1;
        let mut needle =
            Self { words, behind: vec![0; 256 * words], inside: vec![0; words], length: secret.len() };
        for (place, byte) in secret.iter().enumerate() {
            set(&mut needle.behind[usize::from(*byte) * words..], place + 1);
            if place > 0 {
                set(&mut needle.inside, place);
            }
        }
        needle
    }

    /// Whether any spelling of its first byte begins so.
    fn may_begin_with(&self, byte: u8) -> bool {
        self.behind(byte)[0] & 0b10 != 0 || spelling::INTRODUCERS.contains(&byte)
    }

    fn behind(&self, byte: u8) -> &[u64] {
        &self.behind[usize::from(byte) * self.words..][..self.words]
    }

    /// Where those places lead to that these bytes follow.
    fn forward(&self, places: &mut [u64], bytes: &[u8]) {
        for byte in bytes {
            let mut carried = 0;
            for (word, behind) in places.iter_mut().zip(self.behind(*byte)) {
                let next = *word >> 63;
                *word = (*word << 1 | carried) & behind;
                carried = next;
            }
        }
        if bytes.is_empty() {
            places.iter_mut().zip(&self.inside).for_each(|(word, inside)| *word &= inside);
        }
    }

    /// Where those places come from that these bytes precede.
    fn backward(&self, places: &mut [u64], bytes: &[u8]) {
        for byte in bytes.iter().rev() {
            let mut carried = 0;
            for (word, behind) in places.iter_mut().zip(self.behind(*byte)).rev() {
                let kept = *word & behind;
                *word = kept >> 1 | carried;
                carried = kept << 63;
            }
        }
        if bytes.is_empty() {
            places.iter_mut().zip(&self.inside).for_each(|(word, inside)| *word &= inside);
        }
    }
}

fn set(places: &mut [u64], place: usize) {
    places[place / 64] |= 1 << (place % 64);
}

/// Whether these are the places of one who has read no part of a secret.
fn nothing_is_read(places: &[u64]) -> bool {
    places[0] == 1 && places[1..].iter().all(|word| *word == 0)
}

/// Hides what stands both behind a beginning of the secret and before the rest of it.
fn hide(body: &[u8], complete: bool, needle: &Needle, hidden: &mut [bool]) {
    let (words, end) = (needle.words, body.len());
    let mut scratch = vec![0; words];
    // What of the secret has been read before each place of the body: nothing of it, always.
    let mut read = vec![0; (end + 1) * words];
    for place in 0..=end {
        set(&mut read[place * words..], 0);
    }
    for place in 0..end {
        // As most places are, and all of them in most answers.
        if !needle.may_begin_with(body[place]) && nothing_is_read(&read[place * words..][..words]) {
            continue;
        }
        spelling::at(&body[place..], !complete, |length, bytes| {
            scratch.copy_from_slice(&read[place * words..][..words]);
            needle.forward(&mut scratch, bytes);
            let then = &mut read[(place + length) * words..][..words];
            then.iter_mut().zip(&scratch).for_each(|(word, more)| *word |= more);
        });
    }
    let is_whole = |places: &[u64]| places[needle.length / 64] >> (needle.length % 64) & 1 == 1;
    let is_begun =
        |places: &[u64]| places.iter().zip(&needle.inside).any(|(word, inside)| word & inside != 0);
    if !read.chunks_exact(words).any(is_whole) && (complete || !is_begun(&read[end * words..])) {
        return;
    }
    // What may have been read before each place for the rest to follow: all of it, always, and at a cut whatever it was.
    let mut awaited = vec![0; (end + 1) * words];
    for place in 0..=end {
        set(&mut awaited[place * words..], needle.length);
    }
    if !complete {
        awaited[end * words..].fill(u64::MAX);
    }
    for place in (0..end).rev() {
        spelling::at(&body[place..], !complete, |length, bytes| {
            let then = &awaited[(place + length) * words..][..words];
            scratch.copy_from_slice(&read[place * words..][..words]);
            needle.forward(&mut scratch, bytes);
            if scratch.iter().zip(then).any(|(word, then)| word & then != 0) {
                hidden[place..place + length].fill(true);
            }
            scratch.copy_from_slice(then);
            needle.backward(&mut scratch, bytes);
            let here = &mut awaited[place * words..][..words];
            here.iter_mut().zip(&scratch).for_each(|(word, more)| *word |= more);
        });
    }
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
            (r"key=a\u002b\u002Fb", true, &["a+/b"], "key=[masked]"),
            (r#"{"key":"a\\u002bb\\\/c"}"#, true, &["a+b/c"], r#"{"key":"[masked]"}"#),
            (r"'a\x2bb\53', \053\x2f", true, &["+/"], r"'a\x2bb\53', [masked]"),
            (r"\u{e9}\xe9\351\U000000e9", true, &["éééé"], "[masked]"),
            (r"\ud83d\uDE00 \ud83d", true, &["😀"], r"[masked] \ud83d"),
            ("a%20b, a+b, a%2520b", true, &["a b"], "[masked], [masked], a%2520b"),
            ("%C3%A9 %e9 &#233; &#xE9;", true, &["é"], "[masked] [masked] [masked] [masked]"),
            ("<b>a&amp;&lt;&quot;&#39;&#x2F;</b>", true, &["a&<\"'/"], "<b>[masked]</b>"),
            ("a&plus;b&equals;&sol;", true, &["a+b=/"], "[masked]"),
            // A character may be what an escape begins with.
            (r"\\ \\\\", true, &[r"\\"], r"[masked] [masked]"),
            ("a%2B a%252B", true, &["a%2B"], "[masked] [masked]"),
            ("&amp;amp;", true, &["&amp;"], "[masked]"),
            (r"got\u006", true, &["got"], r"[masked]\u006"),
            (r"cut at ca\u006", false, &["canary"], "cut at [masked]"),
            (r"cut at ca\", false, &["canary"], "cut at [ma"),
            ("cut at ca%6", false, &["canary"], "cut at [mas"),
            ("cut at ca&#1", false, &["canary"], "cut at [mask"),
            ("whole answer ends in cana", true, &["canary-secret"], "whole answer ends in cana"),
            ("answer was cut at canary-sec", false, &["canary-secret"], "answer was cut at [masked]"),
            ("answer was cut at canary-secret", false, &["canary-secret"], "answer was cut at [masked]"),
            ("abc", true, &["b"], "a[m"),
        ] {
            // The blank may be longer than what it is put for.
            let expected = &expected[..expected.len().min(body.len())];
            assert_eq!(masked(body, complete, secrets), expected, "{body} without {secrets:?}");
        }
    }

    #[test]
    fn rule_05_an_answer_that_is_nothing_but_escapes_is_blanked() {
        for unit in ["\\", "%", "&", "\\\\u005c", "%5", "&#92;", "\\x5"] {
            let secret = unit.repeat(512 / unit.len());
            let body = unit.repeat(65_536 / unit.len());
            // Would take for ever if each way of reading it were tried by itself.
            for complete in [true, false] {
                let masked = mask(body.clone().into_bytes(), complete, &[secret.as_bytes(), b"\\\\\\"]);
                assert_eq!(masked, BLANK, "{unit}");
            }
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
            before in "[a-d/]{0,20}", secret in "[a-d/]{3,6}", after in "[a-d/]{0,20}",
            ways in prop::collection::vec(0..4u8, 6), cut in 0usize..80
        ) {
            let spelt: String = secret.chars().zip(ways).map(|(one, way)| match way {
                0 => one.to_string(),
                1 => format!("\\u{:04x}", u32::from(one)),
                2 => format!("%{:02X}", u32::from(one)),
                _ => format!("&#{};", u32::from(one)),
            }).collect();
            let whole = format!("{before}{spelt}{after}");
            let kept = &whole.as_bytes()[..cut.min(whole.len())];
            let result = mask(kept.to_vec(), kept.len() == whole.len(), &[secret.as_bytes()]);
            prop_assert!(result.len() <= kept.len());
            for left in [&secret, &spelt] {
                prop_assert!(!result.windows(left.len()).any(|window| window == left.as_bytes()));
            }
        }
    }
}
