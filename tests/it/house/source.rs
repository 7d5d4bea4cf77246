//! A Rust file as far as the house rules need it: its code without comments, literals and tests, and the paths that
//! the code names. No parser, so it knows nothing of types, macros or names brought in by a `use` above.

use std::path::Path;

/// The text of a file with every comment and every literal's content blanked; line breaks stay where they are.
pub fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => find(&chars, at, |rest| rest[0] == '\n', 0),
            ('/', Some('*')) => end_of_block_comment(&chars, at),
            ('"', _) => end_of_string(&chars, at),
            ('r', Some('"' | '#')) if !continues_a_name(&chars, at) => end_of_raw_string(&chars, at),
            ('\'', Some('\\')) => find(&chars, at + 3, |rest| rest[0] == '\'', 1),
            ('\'', _) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => {
                kept.push(chars[at]);
                at += 1;
                continue;
            }
        };
        kept.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    kept
}

/// The first place from `at` on where `here` holds, plus `beyond`; the end of the text if there is none.
fn find(chars: &[char], at: usize, here: impl Fn(&[char]) -> bool, beyond: usize) -> usize {
    (at..chars.len()).find(|i| here(&chars[*i..])).map_or(chars.len(), |i| i + beyond)
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i < chars.len() {
        match chars[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// `r"…"`, `r#"…"#` and so on; a raw name such as `r#type` is only stepped over.
fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at + 1 + hashes;
    }
    let closes =
        |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
    find(chars, at + 2 + hashes, closes, 1 + hashes)
}

fn continues_a_name(chars: &[char], at: usize) -> bool {
    // The b of br"…" is no reason to take the r for the end of a name.
    let before = |back: usize| at.checked_sub(back).map_or(' ', |i| chars[i]);
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    in_name(before(1)) && (in_name(before(2)) || !matches!(before(1), 'b' | 'c'))
}

/// Code without the items that are compiled for tests only.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let Some(start) = code.find(MARK) else { return code.to_owned() };
    let item = start + MARK.len();
    let mut depth = 0;
    let end = code[item..].char_indices().find_map(|(i, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0 && matches!(c, '}' | ';')).then_some(item + i + 1)
    });
    format!("{}{}", &code[..start], without_tests(&code[end.unwrap_or(code.len())..]))
}

/// Every path that the code names, its groups spelled out: `use a::{b, c::*}` is `a::b` and `a::c`.
pub fn paths(code: &str) -> Vec<Vec<&str>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_name(tokens[at]) { at = path(&tokens, at, &[], &mut found) } else { at += 1 }
    }
    found
}

/// Reads one path (or group of paths) that continues `prefix`; returns where it ends.
fn path<'a>(tokens: &[&'a str], mut at: usize, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> usize {
    let mut names = prefix.to_vec();
    while at < tokens.len() {
        match tokens[at] {
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if is_name(tokens[at]) { path(tokens, at, &names, found) } else { at + 1 };
                }
                return at + 1;
            }
            name if is_name(name) => {
                names.push(name);
                at += 1;
            }
            _ => break,
        }
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    found.push(names);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let name_end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let end = if rest.starts_with("::") { 2 } else { name_end.max(first.len_utf8()) };
        let (token, after) = rest.split_at(end);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// The module that a file below `src/` is: `surfaces/kit/mod.rs` is `surfaces::kit`.
pub fn module(file: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        file.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|last| last == "mod") {
        names.pop();
    }
    names
}

/// A path as seen from the crate's root; `None` for what is neither `crate::` nor `super::`.
pub fn from_root(module: &[String], path: &[&str]) -> Option<Vec<String>> {
    let ups = path.iter().take_while(|name| **name == "super").count();
    let (base, rest) = match path[0] {
        "crate" | "herald" => (&[][..], &path[1..]),
        "super" => (&module[..module.len().saturating_sub(ups)], &path[ups..]),
        _ => return None,
    };
    Some(base.iter().cloned().chain(rest.iter().map(|name| (*name).to_owned())).collect())
}
