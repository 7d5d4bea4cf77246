//! Secrets that are looked for afterwards, everywhere (SECURITY rule 10): a server that logs all it can, stories that go well and stories that
//! do not, and then a search through its logs, its metrics, every answer it gave and every row of its database.

mod notifications;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use herald::domain::key_ring::KeyRing;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::{PATIENCE, Partner, own_path, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::scratch::Scratch;

const OPERATORS_KEY: &str = "canary-key-of-the-operator-0001";
const CALLBACK_KEY: &str = "canary-callback-key-0002";
const CALLBACK_KEY_LATER: &str = "canary-callback-key-0003";
const REFUSED_CALLBACK_KEY: &str = "canary-refused~callback~key-0004";
const WRONG_KEY: &str = "canary-wrong-api-key-0005";
const BASIC_PASSWORD: &str = "canary-basic-password-0006";
const QUERY_PASSWORD: &str = "canary-query-password-0007";
/// Base64 text, as its surface wants it.
const WEBHOOK_SECRET: &str = "Y2FuYXJ5d2ViaG9va3NlY3JldDAwMDg=";
const WRONG_WEBHOOK_SECRET: &str = "Y2FuYXJ5d3JvbmdzZWNyZXQwMDA5AAAA";

/// Where a secret was found, in which form.
type Found = String;

/// Texts to search, each with a name.
#[derive(Default)]
struct Haystack(Vec<(String, String)>);

impl Haystack {
    fn add(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.push((name.into(), text.into()));
    }

    /// Looks for a secret in each of the ways in which it might be written down.
    fn find(&self, secret: &str) -> Vec<Found> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut forms = vec![
            secret.to_owned(),
            secret.replace('/', "\\/"),
            url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
            hex(secret.as_bytes()),
            STANDARD_NO_PAD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
        ];
        // A JSON string may spell what is no letter by its number, and so one within another.
        let numbered = |one: char, before: &str| match one.is_ascii_alphanumeric() {
            true => one.to_string(),
            false => format!("{before}u{:04x}", u32::from(one)),
        };
        forms.extend(
            ["\\", "\\\\"].map(|before| secret.chars().map(|one| numbered(one, before)).collect::<String>()),
        );
        // What a `whsec_` key or a base64 secret stands for.
        let inside = secret.strip_prefix("whsec_").unwrap_or(secret);
        if let Ok(bytes) = STANDARD.decode(inside) {
            forms.push(hex(&bytes));
            forms.push(format!("{bytes:?}").trim_matches(['[', ']']).to_owned());
        }
        forms.push(format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned());
        let mut found = Vec::new();
        for (name, text) in &self.0 {
            for form in forms.iter().filter(|form| text.contains(form.as_str())) {
                let at = text.find(form.as_str()).unwrap();
                let around: String = text.chars().skip(at.saturating_sub(200)).take(500).collect();
                found.push(format!("{secret} as {form} in {name}: …{around}…"));
            }
        }
        found
    }
}

/// The binary, logging everything into files.
struct Server {
    child: Child,
    folder: Scratch,
    api: String,
    operator: String,
}

impl Server {
    async fn start(database: &TestDatabase, ring: &str) -> Server {
        let folder = Scratch::new("canaries");
        std::fs::create_dir_all(folder.path()).unwrap();
        let log = |name: &str| File::create(folder.path().join(name)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_herald"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "full")
            .env("DATABASE_URL", database.url())
            .env("HERALD_MODE", "development")
            .env("HERALD_DATA_DIR", folder.path().join("data"))
            .env("HERALD_LISTEN", "127.0.0.1:0")
            .env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0")
            .env("HERALD_DEV_API_KEY", OPERATORS_KEY)
            .env("HERALD_SECRET_KEYS", ring)
            .env("HERALD_DELIVERY_TIMEOUT_MS", "500")
            .env("HERALD_RETRY_DELAYS_S", "1,600")
            .env("HERALD_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(log("stdout"))
            .stderr(log("stderr"))
            .spawn()
            .unwrap();
        let mut server = Server { child, folder, api: String::new(), operator: String::new() };
        let deadline = Instant::now() + PATIENCE;
        while server.operator.is_empty() || server.api.is_empty() {
            assert!(Instant::now() < deadline, "{}", server.read("stderr"));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let said = server.read("stdout");
            let after = |label: &str| {
                let line = said.lines().find_map(|line| line.trim().strip_prefix(label))?;
                Some(line.split_whitespace().next().unwrap_or_default().to_owned())
            };
            server.api = after("API  ").unwrap_or_default();
            server.operator = after("operator  ").unwrap_or_default();
        }
        server
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(Path::new(self.folder.path()).join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn stop(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(asked.success());
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sends a request, and keeps the answer with its headers for the search.
async fn asked(haystack: &mut Haystack, what: &str, request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
    let text = answer.text().await.unwrap();
    haystack.add(format!("the answer to {what}"), format!("{headers}\n{text}"));
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// An answer that is allowed to hold what it holds: the one that makes a key.
async fn made(request: reqwest::RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
    answer.json().await.unwrap()
}

async fn dump(database: &TestDatabase, haystack: &mut Haystack) {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', table_schema, table_name) from information_schema.tables
         where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut rows = 0;
    for table in tables {
        let texts: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("select t::text from {table} t")))
            .fetch_all(&database.pool)
            .await
            .unwrap();
        rows += texts.len();
        haystack.add(format!("the table {table}"), texts.join("\n"));
        // Bytes that hold text are dumped as hex; they are searched as text, too.
        haystack.add(format!("the table {table}, as text"), unhexed(&texts.join("\n")));
    }
    assert!(rows > 30, "there is something to search: {rows}");
}

/// Every run of hex after `\x` as the text that it stands for.
fn unhexed(dump: &str) -> String {
    let mut text = String::new();
    for run in dump.split("\\x").skip(1) {
        let digits: Vec<u32> = run.chars().map_while(|c| c.to_digit(16)).collect();
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
        text.push_str(&String::from_utf8_lossy(&bytes));
        text.push('\n');
    }
    text
}

fn subscription(url: &str, key: &str) -> Value {
    json!({ "callbackUrl": url, "apiKey": key, "eventTypes": ["RedirectSessionCancelled"] })
}

#[tokio::test]
async fn rule_10_no_secret_is_found_in_logs_metrics_answers_or_the_database() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (_, ring) = KeyRing::generate();
    let ring = ring.expose_str().unwrap().to_owned();
    let mut server = Server::start(&database, &ring).await;
    let mut haystack = Haystack::default();
    let mut secrets: Vec<String> = [
        OPERATORS_KEY,
        CALLBACK_KEY,
        CALLBACK_KEY_LATER,
        REFUSED_CALLBACK_KEY,
        WRONG_KEY,
        BASIC_PASSWORD,
        QUERY_PASSWORD,
        WEBHOOK_SECRET,
        WRONG_WEBHOOK_SECRET,
        ring.split_once(':').unwrap().1,
    ]
    .map(str::to_owned)
    .into();
    let operator = Partner::new(&server.operator, OPERATORS_KEY);

    // A partner with a key.
    let partner = made(operator.request(Method::POST, "/partners").json(&json!({ "name": "Shop" }))).await;
    let partner_id = text(&partner["id"]);
    let path = format!("/partners/{partner_id}/keys");
    let key = made(operator.request(Method::POST, &path).json(&json!({ "scopes": ["partner"] }))).await;
    let key = text(&key["key"]);
    secrets.push(key.clone());
    let partner = Partner::new(&server.api, &key);

    // Keys that open nothing, in every form.
    for (header, value) in [
        ("x-api-key", WRONG_KEY.to_owned()),
        ("authorization", format!("Bearer {WRONG_KEY}")),
        ("authorization", WRONG_KEY.to_owned()),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("user:{BASIC_PASSWORD}")))),
    ] {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for path in
            ["/herald/v1/deliveries", "/redirect-sessions/x", "/sync/webhooks/subscriptions", "/rest/x"]
        {
            let url = format!("{}{path}?password={QUERY_PASSWORD}", server.api);
            asked(&mut haystack, "a wrong key", client.get(url).header(header, &value)).await;
        }
    }

    // Requests that are refused, with a secret in them wherever one may stand.
    let id = Uuid::new_v4();
    let place = format!("/redirect-session-events/subscriptions/{id}");
    let refused = json!({ "callbackUrl": "ftp://x", "apiKey": REFUSED_CALLBACK_KEY, "eventTypes": 1 });
    for body in [
        refused.to_string(),
        json!({ "apiKey": { "value": CALLBACK_KEY } }).to_string(),
        json!({ "apiKey": [CALLBACK_KEY], "callbackUrl": null }).to_string(),
        format!("{{\"apiKey\":\"{CALLBACK_KEY}\",\"apiKey\":\"{CALLBACK_KEY}\"}}"),
        format!("{{\"apiKey\":\"{CALLBACK_KEY}\\ud800\"}}"),
        format!("{{\"apiKey\":\"{CALLBACK_KEY}\""),
        format!("[\"{CALLBACK_KEY}\"]"),
        format!("\"{CALLBACK_KEY}"),
    ] {
        let request = partner.request(Method::PUT, &place).header("content-type", "application/json");
        let (status, answer) = asked(&mut haystack, &body, request.body(body.clone())).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }

    // A subscription: made, read, changed, refused as a duplicate, its signing key made anew.
    let body = subscription(&receiver.url, CALLBACK_KEY);
    let request_id = Uuid::new_v4().to_string();
    for _ in 0..2 {
        let request = partner.request(Method::PUT, &place).header("x-request-id", &request_id).json(&body);
        assert_eq!(asked(&mut haystack, "subscribing", request).await.0, 201);
    }
    let request = partner.request(Method::PUT, &place).header("x-request-id", &request_id);
    let other = subscription(&receiver.url, CALLBACK_KEY_LATER);
    assert_eq!(asked(&mut haystack, "another request under the same id", request.json(&other)).await.0, 400);
    let request = partner.request(Method::POST, "/redirect-session-events/subscriptions").json(&body);
    assert_eq!(asked(&mut haystack, "a duplicate", request).await.0, 409);
    let request = partner.request(Method::PATCH, &place).header("if-match", "\"99\"").json(&other);
    assert_eq!(asked(&mut haystack, "an old version", request).await.0, 409);
    for _ in 0..2 {
        let rolled = made(partner.request(Method::POST, &own_path(id, "/signing-keys"))).await;
        secrets.push(text(&rolled["key"]));
    }
    let signing_key = secrets.last().cloned().unwrap_or_default();

    // A subscription of the surface whose secrets come from the partner.
    let events = json!({
        "name": "orders", "events": ["order_paid"], "url": receiver.url, "contentType": "application/json",
        "secret": WEBHOOK_SECRET,
    });
    let create = "/sync/webhooks/subscriptions/create";
    let (status, created) =
        asked(&mut haystack, "creating webhooks", partner.request(Method::POST, create).json(&events)).await;
    assert_eq!(status, 200, "{created}");
    let webhook = text(&created[0]["subscription"]["id"]);
    for (secret, expected) in [(WRONG_WEBHOOK_SECRET, 403), (WEBHOOK_SECRET, 200)] {
        let path = format!("/sync/webhooks/subscriptions/{webhook}/update");
        for format in ["json", "xml", "csv", "jsv"] {
            let request = partner.request(Method::POST, &format!("{path}?format={format}"));
            let request = request.json(&json!({ "currentSecret": secret }));
            assert_eq!(asked(&mut haystack, "changing a webhook", request).await.0, expected, "{format}");
        }
    }
    let path = format!("/sync/webhooks/subscriptions/{webhook}?secret={WRONG_WEBHOOK_SECRET}");
    asked(&mut haystack, "reading a webhook", partner.request(Method::GET, &path)).await;

    // Deliveries: one that a receiver answers with the secret, one that hangs, one that arrives.
    let numbered = CALLBACK_KEY.replace('-', "\\u002d");
    let echo = format!("you sent {CALLBACK_KEY} and {numbered}, and signed it with {signing_key}");
    receiver.reply([Reply::Body(500, echo.into_bytes()), Reply::Stall(Duration::from_secs(60))]);
    let mut token = String::new();
    for _ in 0..3 {
        let session = Uuid::new_v4();
        let url = "https://shop.example/";
        let urls = json!({ "successUrl": url, "failureUrl": url, "abortUrl": url, "qrCodeSuccessUrl": url });
        let opened = partner
            .request(Method::PUT, &format!("/redirect-sessions/{session}"))
            .json(&json!({ "type": "NewCustomer", "redirectData": urls }));
        let opened: Value = opened.send().await.unwrap().json().await.unwrap();
        token = text(&opened["token"]);
        secrets.push(token.clone());
        assert_eq!(partner.cancel(session).await, Some(200));
    }
    assert!(!token.is_empty());
    receiver.wait_for(3).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = partner.deliveries().await;
        if all.len() == 3 && all.iter().all(|one| one["attemptCount"].as_i64().unwrap() > 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let request = partner.request(Method::PATCH, &place).json(&other);
    assert_eq!(asked(&mut haystack, "changing", request).await.0, 200);
    for delivery in partner.deliveries().await {
        let path = format!("/herald/v1/deliveries/{}", text(&delivery["id"]));
        asked(&mut haystack, "a delivery", partner.request(Method::GET, &path)).await;
    }
    for path in ["/redirect-session-events/subscriptions", "/herald/v1/deliveries", &place, &own_path(id, "")]
    {
        asked(&mut haystack, path, partner.request(Method::GET, path)).await;
    }
    for path in ["/metrics", "/readyz", "/livez"] {
        asked(&mut haystack, path, operator.request(Method::GET, path)).await;
    }

    secrets.extend(notifications::story(&mut haystack, &partner, &operator, &partner_id).await);

    dump(&database, &mut haystack).await;
    server.stop().await;
    // In development the announcement on standard output says the key that opens it all. Nothing else does.
    haystack.add("standard output", server.read("stdout").replace(OPERATORS_KEY, ""));
    haystack.add("the log", server.read("stderr"));
    let logged = server.read("stderr");
    // Every statement and every request is in it.
    assert!(logged.contains("DEBUG") && logged.lines().count() > 200, "{logged}");
    let found: Vec<Found> = secrets.iter().flat_map(|secret| haystack.find(secret)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_secret_is_found_in_whatever_form_it_is_written() {
    for text in [
        "a canary/secret here",
        r"a canary\/secret here",
        "canary%2Fsecret",
        "63616e6172792f736563726574",
        "Y2FuYXJ5L3NlY3JldA",
        "key: [99, 97, 110, 97, 114, 121, 47, 115, 101, 99, 114, 101, 116]",
    ] {
        let mut haystack = Haystack::default();
        haystack.add("a text", text);
        assert!(!haystack.find("canary/secret").is_empty(), "{text}");
    }
    let mut haystack = Haystack::default();
    haystack.add("a text", unhexed(r#"(1,"\\x63616e617279",2)"#));
    assert!(!haystack.find("canary").is_empty());
    assert!(haystack.find("another").is_empty());
}
