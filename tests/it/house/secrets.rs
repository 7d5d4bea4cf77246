//! What a type that derives `Debug` may hold: nothing that is named like a secret, unless its own type keeps it from being printed.

use std::path::Path;

use super::files;
use super::source::{code, without_tests};

/// Parts of names that secrets go by.
const NAMED_LIKE_SECRETS: [&str; 8] =
    ["secret", "password", "credential", "token", "api_key", "signing_key", "hash", "authorization"];

/// Types that print what they are given.
const PLAIN: [&str; 6] = ["String", "str", "Vec<u8>", "[u8", "Bytes", "Value"];

/// Sealed, the hash of what is stored in the clear beside it, or only named like a secret. Each with its file and field.
const NO_SECRETS: [(&str, &str); 2] =
    [("domain/redirect_session.rs", "token"), ("store/event_keys.rs", "content_hash")];

/// The fields of the structs and variants of a file that derive `Debug`, by name and type. What has no name goes by that of its struct or
/// variant.
fn debug_fields(code: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for (at, _) in code.match_indices("#[derive(") {
        let Some((derives, rest)) = code[at..].split_once(")]") else { continue };
        let head = rest.split(['{', ';', '(']).next().unwrap_or_default();
        let Some((_, name)) = head.split_once("struct ").or(head.split_once("enum ")) else { continue };
        if !derives.contains("Debug") {
            continue;
        }
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = rest.find(';').unwrap_or(rest.len());
        if let Some(open) = rest.find('(').filter(|open| *open < end && !rest[..*open].contains('{')) {
            fields.push((name, rest[open + 1..end].trim_end_matches([')', ' ']).to_owned()));
            continue;
        }
        let Some(open) = rest.find('{').filter(|open| *open < end) else { continue };
        let mut depth = 0;
        let body: String = rest[open..]
            .chars()
            .take_while(|c| {
                depth += match c {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                depth > 0
            })
            .collect();
        for line in body.lines().map(str::trim) {
            let line = line
                .trim_start_matches("pub ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub(crate) ");
            if let Some((name, type_name)) = line.split_once(": ").or(line.split_once('(')) {
                fields.push((name.to_owned(), type_name.trim_end_matches([',', ')']).to_owned()));
            }
        }
    }
    fields
}

fn shown(file: &str, code: &str) -> Vec<String> {
    debug_fields(code)
        .into_iter()
        .filter(|(name, _)| {
            let plain = |name: &str| name.replace('_', "").to_lowercase();
            NAMED_LIKE_SECRETS.iter().any(|word| plain(name).contains(&plain(word)))
        })
        .filter(|(_, type_name)| PLAIN.iter().any(|plain| type_name.contains(plain)))
        .filter(|(name, _)| !NO_SECRETS.contains(&(file, name.as_str())))
        .map(|(name, type_name)| {
            format!("{file}: `{name}: {type_name}` would be printed by `Debug`; make it a Secret")
        })
        .collect()
}

#[test]
fn rule_10_no_type_prints_a_secret_with_debug() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let complaints: Vec<String> = files(&source)
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            let name = file.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
            shown(&name, &without_tests(&code(&text)))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn rule_10_a_type_that_would_print_a_secret_is_noticed() {
    for (code, noticed) in [
        ("#[derive(Debug)]\nstruct S {\n    pub api_key: String,\n}", true),
        (
            "#[derive(Clone, Debug)]\npub enum E {\n    A {\n        password: Option<Vec<u8>>,\n    },\n}",
            true,
        ),
        ("#[derive(Clone)]\nstruct S {\n    api_key: String,\n}", false),
        ("#[derive(Debug)]\nstruct S {\n    api_key: Secret,\n}", false),
        ("#[derive(Debug)]\nstruct S;\nstruct T {\n    api_key: String,\n}", false),
        ("#[derive(Debug)]\nstruct S {\n    name: String,\n}", false),
        ("#[derive(Debug)]\npub struct ApiKey(String);", true),
        ("#[derive(Debug)]\npub struct ApiKey(Secret);", false),
        ("#[derive(Debug)]\npub struct Name(String);", false),
        ("#[derive(Clone)]\npub struct ApiKey(String);", false),
        ("#[derive(Debug)]\nenum Login {\n    Nobody,\n    Token(String),\n}", true),
        ("#[derive(Debug)]\nenum Login {\n    Token(Secret),\n}", false),
        ("#[derive(Debug)]\nstruct Row {\n    hash: Vec<u8>,\n}", true),
    ] {
        assert_eq!(!shown("x.rs", code).is_empty(), noticed, "{code}");
    }
}
