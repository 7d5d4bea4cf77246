//! Makes received bytes fit to be shown: nothing that a sender wrote may move the cursor, colour the screen, reverse the
//! reading direction or start a line of its own; and JSON is laid out without being changed.
//!
//! JSON is not read into values on the way, because that would lose what a developer looks for: the order of members,
//! duplicates, `1.0` against `1`. Only the white space between tokens changes.

use std::fmt::Write as _;

/// Deeper levels are all indented alike; ten thousand of them must not make ten thousand columns.
const INDENTED_LEVELS_MAX: usize = 32;

/// On one line: every control or invisible character is shown as JSON would escape it.
pub fn line(text: &str) -> String {
    escape(text, |_| false)
}

/// Like [`line`], but line breaks stay.
pub fn block(text: &str) -> String {
    escape(text, |c| c == '\n')
}

/// Valid JSON, laid out over several lines.
pub fn indented(json: &str) -> String {
    let (mut laid_out, mut level) = (String::with_capacity(json.len() * 2), 0usize);
    let mut tokens = tokens(json).peekable();
    while let Some(token) = tokens.next() {
        laid_out.push_str(token);
        let closing_next = matches!(tokens.peek(), Some(&"}" | &"]"));
        match token {
            "{" | "[" => {
                level += 1;
                if !closing_next {
                    break_line(&mut laid_out, level);
                }
            }
            "," => break_line(&mut laid_out, level),
            ":" => laid_out.push(' '),
            _ => {}
        }
        if closing_next {
            level = level.saturating_sub(1);
            if !matches!(token, "{" | "[") {
                break_line(&mut laid_out, level);
            }
        }
    }
    laid_out
}

/// Valid JSON without white space between its tokens, so on one line.
pub fn compact(json: &str) -> String {
    tokens(json).collect()
}

fn break_line(text: &mut String, level: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", level.min(INDENTED_LEVELS_MAX)));
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) || !unprintable(c) {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("writing to a String cannot fail");
            }
        }
    }
    escaped
}

/// Control characters (C0, DEL, C1), and those of Unicode that are invisible, break lines or turn the text around.
fn unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// Strings, punctuation, and everything else up to the next of them, of JSON that is known to be valid.
fn tokens(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let length = match rest.bytes().next()? {
            b'"' => string_length(rest),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => rest
                .find(|c: char| {
                    c.is_ascii_whitespace() || matches!(c, '{' | '}' | '[' | ']' | ',' | ':' | '"')
                })
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        Some(token)
    })
}

/// Length of the string that `text` starts with, both quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (position, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return position + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_gets_through() {
        for (text, shown) in [
            ("plain – é 日本 🙂", "plain – é 日本 🙂"),
            ("\u{1b}[2J", "\\u001b[2J"),
            ("a\r\nb\tc\0", "a\\u000d\\u000ab\\u0009c\\u0000"),
            ("\u{7f}\u{9b}31m", "\\u007f\\u009b31m"),
            ("\u{202e}txt", "\\u202etxt"),
            ("\u{2028}\u{feff}", "\\u2028\\ufeff"),
            ("\u{e0041}", "\\udb40\\udc41"),
        ] {
            assert_eq!(line(text), shown);
        }
        assert_eq!(block("a\n\u{1b}b\r\n"), "a\n\\u001bb\\u000d\n");
    }

    #[test]
    fn json_is_laid_out_but_not_changed() {
        let json = r#" {"b":[1.0,2e400 , {}],"a" : "x\"}, \\","a":[ ] ,"n":null,"o":{"p":true}} "#;
        let expected = r#"{
  "b": [
    1.0,
    2e400,
    {}
  ],
  "a": "x\"}, \\",
  "a": [],
  "n": null,
  "o": {
    "p": true
  }
}"#;
        assert_eq!(indented(json), expected);
        assert_eq!(compact(json), r#"{"b":[1.0,2e400,{}],"a":"x\"}, \\","a":[],"n":null,"o":{"p":true}}"#);
        assert_eq!(indented(r#""only""#), r#""only""#);
        assert_eq!(indented("12"), "12");
        assert_eq!(compact(expected), compact(json));
    }

    #[test]
    fn deep_json_stays_small() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(indented(&deep).len() < 20_000 * (2 * INDENTED_LEVELS_MAX + 2));
        assert_eq!(compact(&deep), deep);
    }
}
