//! The rules of the house, kept by reading the source: who may import whom, what each room may know, and the habits
//! that no lint of the compiler watches. ARCHITECTURE.md says why; a rule changes there and here in one commit.
//!
//! Items compiled for tests only are left out of all rules but those about files.

mod secrets;
mod security;
mod source;

use std::path::{Path, PathBuf};

use source::{code, from_root, module, paths, without_tests};

/// The rooms, each with the rooms it may import from. `surfaces::*` stands for any published API.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &[]),
    ("descriptors", &[]),
    ("listener", &[]),
    ("embedded_postgres", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("store", &["domain"]),
    ("own_thread", &[]),
    ("hub", &["clock", "domain", "own_thread", "store", "telemetry"]),
    ("engine", &["clock", "domain", "hub", "own_thread", "store", "telemetry"]),
    ("surfaces::kit", &["clock", "domain", "hub", "store", "telemetry"]),
    ("surfaces::*", &["clock", "domain", "hub", "store", "surfaces::kit", "telemetry"]),
    ("operator", &["clock", "domain", "hub", "store", "surfaces::kit", "telemetry"]),
    (
        "app",
        &[
            "clock",
            "config",
            "domain",
            "engine",
            "hub",
            "listener",
            "operator",
            "store",
            "surfaces",
            "surfaces::*",
            "surfaces::kit",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "descriptors",
            "domain",
            "embedded_postgres",
            "engine",
            "hub",
            "listener",
            "operator",
            "store",
            "telemetry",
        ],
    ),
    ("surfaces", &["surfaces::*", "surfaces::kit"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// What a room must not know of: crates, and `async` for what must stay pure.
const IGNORANCE: &[(&str, &[&str])] = &[
    (
        "domain",
        &[
            "async",
            "await",
            "axum",
            "clap",
            "futures_util",
            "http_body_util",
            "hyper",
            "hyper_util",
            "prometheus_client",
            "reqwest",
            "serde",
            "serde_json",
            "sqlx",
            "tokio",
            "tower",
            "tracing",
        ],
    ),
    ("store", &["axum", "hyper", "hyper_util", "reqwest", "tower"]),
    ("hub", &["axum", "hyper", "hyper_util", "reqwest", "tower"]),
    ("engine", &["axum", "reqwest"]),
    ("surfaces", &["reqwest", "sqlx"]),
    ("operator", &["reqwest", "sqlx"]),
    ("telemetry", &["axum", "hyper", "sqlx"]),
];

/// Never outside tests; the second part is the file that the rule sends everybody to, if there is one.
const NEVER: &[(&str, &str)] = &[
    ("#[allow", ""),
    ("#![allow", ""),
    (".unwrap()", ""),
    ("todo!", ""),
    ("unimplemented!", ""),
    ("dbg!", ""),
    ("Utc::now", "clock.rs"),
    ("Local::now", "clock.rs"),
    ("SystemTime::now", "clock.rs"),
];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "util", "utils"];

const LINES_MAX: usize = 400;

/// What is wrong with one file. `file` is its path below `src/`.
fn complaints(file: &Path, text: &str) -> Vec<String> {
    let module = module(file);
    let room = room(&module);
    let is_test = module.last().is_some_and(|name| name == "tests" || name.ends_with("_tests"));
    let code = without_tests(&code(text));
    let mut complaints = about_the_file(&module, text);
    if !is_test {
        complaints.extend(about_imports(&module, &room, &code));
        complaints.extend(about_habits(file, &code));
    }
    complaints.into_iter().map(|complaint| format!("src/{}: {complaint}", file.display())).collect()
}

fn about_the_file(module: &[String], text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//! ") {
        complaints.push("begins without a //! that says what it is for".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("has {lines} lines, more than {LINES_MAX}: look for the second noun in it"));
    }
    if let Some(name) = module.iter().find(|name| EMPTY_NAMES.contains(&name.as_str())) {
        complaints.push(format!("`{name}` says nothing; name it after its noun"));
    }
    complaints
}

fn about_imports(module: &[String], room: &str, code: &str) -> Vec<String> {
    let Some(may_import) = allowed(ROOMS, room) else {
        return vec![format!(
            "is in the room `{room}`, of which tests/it/house.rs does not know what it may import"
        )];
    };
    let mut complaints = Vec::new();
    for path in paths(code) {
        if let Some(target) = from_root(module, &path) {
            let target_room = self::room(&target);
            let known = ROOMS.iter().any(|(name, _)| is_room(name, &target_room));
            let fine = target_room == room || may_import.iter().any(|name| is_room(name, &target_room));
            if known && !fine {
                complaints.push(format!("`{room}` may not import `{}`", target.join("::")));
            }
        }
    }
    let top = room.split("::").next().unwrap_or(room);
    for stranger in allowed(IGNORANCE, top).unwrap_or_default() {
        if paths(code).iter().any(|path| path[0] == *stranger) {
            complaints.push(format!("`{top}` must not know `{stranger}`"));
        }
    }
    complaints
}

fn about_habits(file: &Path, code: &str) -> Vec<String> {
    let dense: String = code.split_whitespace().collect();
    let broken = NEVER.iter().filter(|(text, except)| dense.contains(text) && Path::new(except) != file);
    broken.map(|(text, _)| format!("`{text}` is not for code outside tests")).collect()
}

/// The room of a module: its first name, and for the surfaces also the second.
fn room(module: &[String]) -> String {
    let names = if module.first().is_some_and(|first| first == "surfaces") { 2 } else { 1 };
    module[..names.min(module.len())].join("::")
}

fn is_room(pattern: &str, room: &str) -> bool {
    let surface = |room: &str| room.starts_with("surfaces::") && room != "surfaces::kit";
    pattern == room || (pattern == "surfaces::*" && surface(room))
}

fn allowed(table: &'static [(&str, &[&str])], room: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(name, _)| is_room(name, room)).map(|(_, names)| *names)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_source_keeps_the_rules_of_the_house() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files(&source);
    assert!(files.iter().any(|file| file.ends_with("domain/error.rs")), "the source was not found");
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|file| {
            complaints(file.strip_prefix(&source).unwrap(), &std::fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A rule that nothing can break keeps nothing: here is each of them broken once.
#[test]
fn each_rule_can_be_broken() {
    for (file, code, complaint) in [
        ("domain/x.rs", "use crate::clock;", "`domain` may not import `clock`"),
        ("domain/x.rs", "use crate::{hub::{self, Hub}, store};", "may not import `store`"),
        ("domain/x.rs", "use crate::{hub::{self, Hub}, store};", "may not import `hub::Hub`"),
        ("domain/deep/x.rs", "use super::super::super::engine::Engine;", "may not import `engine::Engine`"),
        ("domain/x.rs", "fn f() -> sqlx::Error { g() }", "`domain` must not know `sqlx`"),
        ("domain/x.rs", "#[derive(serde::Serialize)] struct S;", "`domain` must not know `serde`"),
        ("domain/x.rs", "use tokio::sync::Mutex;", "`domain` must not know `tokio`"),
        ("domain/x.rs", "pub async fn f() {}", "`domain` must not know `async`"),
        ("store/x.rs", "use crate::hub::Hub;", "`store` may not import `hub::Hub`"),
        ("hub/x.rs", "fn f() { crate::surfaces::kit::f() }", "`hub` may not import `surfaces::kit::f`"),
        ("hub/x.rs", "use axum::Json;", "`hub` must not know `axum`"),
        (
            "engine/x.rs",
            "use crate::surfaces::redirect::Dialect;",
            "may not import `surfaces::redirect::Dialect`",
        ),
        (
            "surfaces/redirect/x.rs",
            "use crate::surfaces::{kit, webhooks};",
            "may not import `surfaces::webhooks`",
        ),
        (
            "surfaces/redirect/x.rs",
            "use super::super::webhooks::wire;",
            "may not import `surfaces::webhooks::wire`",
        ),
        ("surfaces/redirect/mod.rs", "use crate::engine::Engine;", "may not import `engine::Engine`"),
        (
            "surfaces/kit/mod.rs",
            "use super::redirect;",
            "`surfaces::kit` may not import `surfaces::redirect`",
        ),
        ("surfaces/kit/mod.rs", "use sqlx::PgPool;", "`surfaces` must not know `sqlx`"),
        (
            "operator/mod.rs",
            "use crate::surfaces::redirect;",
            "`operator` may not import `surfaces::redirect`",
        ),
        ("engine/mod.rs", "use crate::app::App;", "`engine` may not import `app::App`"),
        ("cellar/mod.rs", "", "the room `cellar`"),
        ("hub/util.rs", "", "`util` says nothing"),
        ("hub/x.rs", "#[allow(dead_code)] fn f() {}", "`#[allow`"),
        ("hub/x.rs", "#![allow(dead_code)]", "`#![allow`"),
        ("hub/x.rs", "fn f() { todo!() }", "`todo!`"),
        ("hub/x.rs", "fn f() { g()\n  .unwrap(); }", "`.unwrap()`"),
        ("hub/x.rs", "fn f() { chrono::Utc::now(); }", "`Utc::now`"),
        ("hub/x.rs", "fn f() { std::time::SystemTime::now(); }", "`SystemTime::now`"),
        ("hub/x.rs", "#[cfg(test)] mod tests { } fn f() { g().unwrap() }", "`.unwrap()`"),
        ("hub/x.rs", "fn f() { let c = '\"'; g().unwrap() /* \" */ }", "`.unwrap()`"),
        ("hub/x.rs", "fn f<'a>(r#type: &'a str) { g(r\"\\\"); h().unwrap() }", "`.unwrap()`"),
    ] {
        let complaints = complaints(Path::new(file), &format!("//! For a test.\n{code}\n"));
        assert!(complaints.iter().any(|said| said.contains(complaint)), "{code}: {complaints:?}");
    }
    let bare = complaints(Path::new("hub/x.rs"), "fn f() {}\n");
    assert!(bare[0].contains("begins without a //!"), "{bare:?}");
    let long = complaints(Path::new("hub/x.rs"), &"//! Long.\n".repeat(LINES_MAX + 1));
    assert!(long[0].contains("401 lines"), "{long:?}");
}

#[test]
fn what_the_rules_allow_passes() {
    for (file, code) in [
        (
            "domain/x.rs",
            "use super::error::Error; use crate::domain::{id, Violations}; use std::time::Instant;",
        ),
        (
            "domain/x.rs",
            "/// As [`crate::hub::Hub`] knows; see sqlx::Error.\nfn f() { g(\"use crate::hub; todo!()\") }",
        ),
        ("surfaces/redirect/x.rs", "use super::wire; use super::super::kit; use crate::surfaces::kit::Api;"),
        (
            "surfaces/redirect/mod.rs",
            "mod wire; use crate::hub::{self, Hub}; use crate::surfaces::redirect::wire::W;",
        ),
        ("operator/mod.rs", "use crate::surfaces::kit::body;"),
        ("engine/lanes.rs", "#[cfg(test)] mod tests { use super::*; fn f() { g().unwrap() } }"),
        ("config/tests.rs", "fn f() { g().unwrap() }"),
        ("clock.rs", "pub fn now() { chrono::Utc::now() }"),
        ("cli/x.rs", "use crate::app::App; use super::serve; fn f(n: Option<u8>) { n.unwrap_or(0) }"),
        ("main.rs", "use herald::cli::Cli;"),
        ("lib.rs", "pub mod domain; pub mod engine;"),
    ] {
        let complaints = complaints(Path::new(file), &format!("//! For a test.\n{code}\n"));
        assert!(complaints.is_empty(), "{complaints:?}");
    }
}

/// What belongs to development, and to Herald's own PostgreSQL.
const NOT_IN_A_CONTAINER: &[&str] =
    &["HERALD_MODE", "HERALD_DATA_DIR", "HERALD_POSTGRES_BIN", "HERALD_DEV_API_KEY"];
/// What the composition decides by itself.
const COMPOSED: &[&str] = &["DATABASE_URL", "HERALD_LISTEN", "HERALD_OPERATOR_LISTEN"];

/// A setting in .env that docker-compose.yml does not pass on would be ignored without a word.
#[test]
fn what_stands_in_env_reaches_the_container() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let (raw, compose, example) =
        (read("src/config/raw.rs"), read("docker-compose.yml"), read(".env.example"));
    let names = |text: &str, before: &str, after: char| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(before)?.split_once(after));
        let mut names: Vec<String> = lines.map(|(name, _)| name.to_owned()).collect();
        names.retain(|name| name.starts_with("HERALD_"));
        names.sort_unstable();
        names
    };
    let mut settings: Vec<&str> =
        raw.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    settings.retain(|setting| !NOT_IN_A_CONTAINER.contains(setting) && !COMPOSED.contains(setting));
    settings.sort_unstable();
    let mut passed_on = names(&compose, "      ", ':');
    passed_on.retain(|setting| compose.contains(&format!("      {setting}: ${{{setting}:")));
    assert_eq!(passed_on, settings);
    assert_eq!(names(&example.replace('#', ""), "", '='), settings);
}

/// README.md's table of settings and the settings that there are.
#[test]
fn the_readme_names_every_setting_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let raw = std::fs::read_to_string(root.join("src/config/raw.rs")).unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut settings: Vec<&str> =
        raw.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let mut named: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    settings.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, settings);
}
