//! docs/security.md: every rule of security with the code that keeps it and the tests that show it. The tests are found by their names,
//! which begin with the rule's number; a rule without one fails here, and so does a page that no longer says what there is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::files;

struct Rule {
    number: u8,
    says: &'static str,
    code: &'static [&'static str],
}

const fn rule(number: u8, says: &'static str, code: &'static [&'static str]) -> Rule {
    Rule { number, says, code }
}

/// Numbers stay: tests are named after them.
const RULES: [Rule; 25] = [
    rule(
        1,
        "Two checks: a literal host is judged when its URL is parsed, and every address, literal or resolved, once more for each \
         new connection. Only addresses that were judged are dialled, and one bad address among many refuses all.",
        &["src/domain/callback_url.rs", "src/engine/outbound/connect.rs"],
    ),
    rule(
        2,
        "Private, local, reserved and metadata addresses are never called, IPv4 inside IPv6 included. Operators may allow networks, \
         partners never.",
        &["src/domain/egress.rs"],
    ),
    rule(
        3,
        "No proxy from the environment, no redirects, no decompression. A request is sent again only if a reused connection closed \
         before any byte came back.",
        &[
            "src/engine/outbound/mod.rs",
            "src/engine/outbound/tunnel.rs",
            "src/domain/egress_proxy.rs",
            "src/engine/outbound/exchange.rs",
            "src/engine/outbound/pool.rs",
        ],
    ),
    rule(
        4,
        "Outside development https only, on ports 443 and 8443 unless configured. Never user information, fragments or control \
         characters; at most 2,048 characters.",
        &["src/domain/callback_url.rs", "src/domain/egress.rs"],
    ),
    rule(
        5,
        "Each phase of a call has its own limit, and the total covers the body. Headers are capped, 16 KiB of a body are kept, as \
         bytes, and a secret that is echoed is blanked.",
        &["src/engine/outbound/connect.rs", "src/engine/outbound/exchange.rs", "src/engine/outbound/mask.rs"],
    ),
    rule(
        6,
        "To a partner, blocked, refused and unresolvable look alike; the operator sees which.",
        &["src/engine/post.rs", "src/surfaces/herald/wire/delivery.rs"],
    ),
    rule(
        7,
        "`Retry-After` is read in all its forms, capped, never shortens the schedule and never panics.",
        &["src/domain/retry_after.rs", "src/domain/retry.rs"],
    ),
    rule(
        8,
        "Every delivery is signed as Standard Webhooks says, over the bytes that are sent, with an overlap when keys rotate.",
        &["src/domain/signature.rs", "src/engine/post.rs"],
    ),
    rule(
        9,
        "What is secret is sealed at rest, bound to its row, by a key ring whose keys can be changed while the server works. Outside \
         development nothing starts without one.",
        &["src/domain/key_ring.rs", "src/hub/rotation.rs", "src/store/sealed.rs", "src/config.rs"],
    ),
    rule(
        10,
        "A secret is in no answer, log, metric, panic, `Debug` or dump of the database, but for a new key, once, in the answer that \
         makes it.",
        &["src/domain/secret.rs", "src/surfaces/kit/access_log.rs", "src/config/raw.rs"],
    ),
    rule(
        11,
        "A partner's key is 256 random bits of which the hash is kept; it is compared in constant time, has scopes, may end and can \
         be revoked.",
        &["src/domain/partner_key.rs", "src/hub/partners.rs", "src/surfaces/kit/authorize.rs"],
    ),
    rule(
        12,
        "Every query names the partner. Another partner's id answers as the surface publishes it, never with data.",
        &["src/store"],
    ),
    rule(
        13,
        "What becomes a header of a callback holds no CR, LF, NUL or non-ASCII, and credentials are marked sensitive.",
        &["src/domain/credentials.rs", "src/surfaces/redirect/outbound.rs"],
    ),
    rule(
        14,
        "Inbound: bodies, JSON's depth, the time for headers, connections, requests per partner, the backlog and what filters take are bounded; \
         forwarded headers count only from configured proxies; SIGTERM drains within a bound.",
        &[
            "src/listener.rs",
            "src/surfaces/kit/body.rs",
            "src/surfaces/kit/guard.rs",
            "src/domain/notification.rs",
            "src/hub/admission.rs",
            "src/domain/client_address.rs",
        ],
    ),
    rule(
        15,
        "Malformed JSON of every kind is a 4xx that names the field, never a 500.",
        &["src/surfaces/kit/fields.rs"],
    ),
    rule(
        16,
        "Cursors are opaque and bounded; a foreign or altered one is a 400.",
        &["src/surfaces/kit/cursor.rs"],
    ),
    rule(
        17,
        "An error never shows SQL, an address, a path or a backtrace.",
        &["src/domain/error.rs", "src/surfaces/kit/problem.rs", "src/surfaces/redirect/error.rs"],
    ),
    rule(
        18,
        "At least once, never lost: what was answered with success is committed, with the means to deliver it.",
        &["src/hub/ingest", "src/app.rs"],
    ),
    rule(
        19,
        "No transaction is open during a call. Claims are leases, every finish is guarded by one, and a late finisher changes \
         nothing.",
        &["src/store/queue.rs", "src/engine/recorder.rs"],
    ),
    rule(
        20,
        "A slow, hanging or dead callback does not slow the others.",
        &["src/engine/lanes.rs", "src/engine/traffic.rs", "src/domain/breaker.rs", "src/domain/outage.rs"],
    ),
    rule(
        21,
        "2xx is success, 410 disables, days of nothing but failures disable visibly. A disabled or paused subscription holds its \
         events and drains when it is resumed.",
        &["src/domain/retry.rs", "src/engine/verdict.rs"],
    ),
    rule(
        22,
        "Retries are spread over days; what is given up is kept, listed and can be sent again.",
        &["src/domain/retry.rs"],
    ),
    rule(
        23,
        "A delivery whose sending ends the process ends too; waiting counts neither attempts nor crashes.",
        &["src/engine/claimer.rs", "src/engine/lanes.rs"],
    ),
    rule(
        24,
        "A database that goes away delays by seconds at most. A worker that dies is restarted, or `/readyz` fails.",
        &["src/engine/mod.rs", "src/telemetry/health.rs"],
    ),
    rule(
        25,
        "Tables stay bounded: history is dropped by the day, ids and answers are forgotten.",
        &["src/engine/janitor/retention.rs", "src/store/partitions.rs"],
    ),
];

/// A test and the file that holds it.
struct Test {
    name: String,
    file: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every test whose name begins with a rule's number.
fn tests() -> Vec<Test> {
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        for path in files(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.extend(named_tests(&text).into_iter().map(|name| Test { name, file: file.clone() }));
        }
    }
    found.sort_by(|one, other| (&one.name, &one.file).cmp(&(&other.name, &other.file)));
    found
}

/// The functions of a file that are marked as tests and named after a rule. One that is ignored shows nothing.
fn named_tests(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let name = |line: &str| {
        let (_, rest) = line.split_once("fn rule_")?;
        line.starts_with("fn ")
            .then_some(())
            .or_else(|| line.starts_with("async fn ").then_some(()))
            .map(|()| format!("rule_{}", rest.split(['(', '<']).next().unwrap_or_default()))
    };
    let marks = |at: usize| lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).copied();
    lines
        .iter()
        .enumerate()
        .filter(|(at, _)| {
            marks(*at).any(|mark| mark == "#[test]" || mark.starts_with("#[tokio::test"))
                && !marks(*at).any(|mark| mark.starts_with("#[ignore"))
        })
        .filter_map(|(_, line)| name(line))
        .collect()
}

/// The numbers that a name begins with: `rule_01_and_02_…` shows both.
fn numbers(name: &str) -> Vec<u8> {
    let words = name.split('_').skip(1);
    words
        .take_while(|word| *word == "and" || word.parse::<u8>().is_ok())
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn page(tests: &[Test]) -> String {
    let mut page = String::from(
        "# What holds, and what shows it\n\n\
         Each rule with the code that keeps it and the tests that fail when it is broken. This page is written from the names of the\n\
         tests: `HERALD_WRITE_DOCS=1 cargo test --test it house::security` writes it anew, and without that variable the same test fails\n\
         when the page is out of date or a rule has no test. What the rules are for: [threat-model.md](threat-model.md). Which changes of\n\
         this code no test notices, and why that is so: [mutants.md](mutants.md).\n",
    );
    for rule in &RULES {
        let code: Vec<String> = rule.code.iter().map(|place| format!("[{place}](../{place})")).collect();
        write!(page, "\n## Rule {}\n\n{}\n\nCode: {}\n\n", rule.number, rule.says, code.join(", ")).unwrap();
        page.push_str("| test | in |\n|---|---|\n");
        for test in tests.iter().filter(|test| numbers(&test.name).contains(&rule.number)) {
            writeln!(page, "| `{}` | {} |", test.name, test.file).unwrap();
        }
    }
    page
}

#[test]
fn every_rule_of_security_has_its_code_and_a_test() {
    let tests = tests();
    for (place, rule) in RULES.iter().enumerate() {
        assert_eq!(usize::from(rule.number), place + 1);
        let shown = tests.iter().any(|test| numbers(&test.name).contains(&rule.number));
        assert!(shown, "rule {} has no test: name one rule_{:02}_…", rule.number, rule.number);
        for place in rule.code {
            assert!(root().join(place).exists(), "rule {}: {place} is not there any more", rule.number);
        }
    }
    for test in &tests {
        let known = |number: &u8| (1..=RULES.len()).contains(&usize::from(*number));
        let numbers = numbers(&test.name);
        assert!(!numbers.is_empty() && numbers.iter().all(known), "{}: there is no such rule", test.name);
    }
}

#[test]
fn the_security_page_says_what_there_is() {
    let (file, page) = (root().join("docs/security.md"), page(&tests()));
    if std::env::var_os("HERALD_WRITE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(Path::new(&file)).unwrap_or_default();
    assert!(
        written == page,
        "docs/security.md is out of date: HERALD_WRITE_DOCS=1 cargo test --test it house::security writes it anew"
    );
}

#[test]
fn a_test_is_known_by_its_mark_and_its_name() {
    let text = "#[test]\nfn rule_01_a() {\n#[tokio::test]\nasync fn rule_02_and_03_b() {\nfn rule_04_c() {\n\
                #[test]\n#[ignore = \"x\"]\nfn rule_05_d() {\n#[test]\nfn other() { rule_06_e() }\n    #[test]\n    fn rule_07_f(raw in 0..6) {";
    assert_eq!(named_tests(text), ["rule_01_a", "rule_02_and_03_b", "rule_07_f"]);
    assert_eq!(numbers("rule_02_and_03_b"), [2, 3]);
    assert_eq!(numbers("rule_x"), Vec::<u8>::new());
}
