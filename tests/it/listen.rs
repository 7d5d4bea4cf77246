//! `herald listen` from outside: real callbacks over HTTP, and what a developer or a script reads.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use herald::clock;
use herald::domain::signature::{SigningKey, sign};
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Long enough for the slowest machine; only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
const API_KEY: &str = "example-api-key";

struct Listener {
    child: Child,
    url: String,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    async fn start(flags: &[&str]) -> Listener {
        let mut child = command(flags).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = if flags.contains(&"--json") {
            let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
            timeout(PATIENCE, errors.next_line()).await.unwrap().unwrap().unwrap()
        } else {
            timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap()
        };
        let url = first.strip_prefix("Listening on ").unwrap().split(". ").next().unwrap().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{first}");
        Listener { child, url, lines }
    }

    /// Posts a body with these headers; the answer's status.
    async fn post(&self, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> u16 {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let request = client.post(format!("{}/callback", self.url)).body(body);
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let request =
            headers.iter().fold(request, |request, (name, text)| request.header(*name, value(text)));
        request.send().await.unwrap().status().as_u16()
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().expect("one more line")
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    }

    async fn end(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }

    /// Everything that is still to be read, once the process has ended.
    async fn rest(mut self) -> String {
        let mut rest = String::new();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            rest.push_str(&line);
            rest.push('\n');
        }
        rest
    }
}

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.args(["listen", "--port", "0"]).args(flags);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn rule_10_a_right_callback_is_shown_whole_and_without_its_secrets() {
    let key = SigningKey::generate();
    let key_text = key.text();
    let key_text = key_text.expose_str().unwrap();
    let flags = ["--api-key", API_KEY, "--signing-key", key_text, "--count", "1"];
    let mut listener = Listener::start(&flags).await;
    let body = r#"{"type":"RedirectSessionCancelled","data":{"amount":1.0}}"#;
    let now = clock::now().timestamp();
    let signature = sign(&[key], "msg_1", now, body.as_bytes());
    let headers = [
        ("x-api-key", API_KEY),
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", &now.to_string()),
        ("webhook-signature", &signature),
    ];
    assert_eq!(listener.post(&headers, body).await, 204);
    assert!(listener.end().await.success());
    let shown = listener.rest().await;
    let expected = r#"  webhook-id  msg_1 (attempt 1)
  type        RedirectSessionCancelled
  x-api-key   ok
  signature   ok
    {
      "type": "RedirectSessionCancelled",
      "data": {
        "amount": 1.0
      }
    }
"#;
    assert!(shown.contains("Z POST /callback → 204\n"), "{shown}");
    assert!(shown.contains(expected), "{shown}");
    assert!(!shown.contains(API_KEY) && !shown.contains(key_text) && !shown.contains(&signature), "{shown}");
}

#[tokio::test]
async fn wrong_keys_and_signatures_stand_out() {
    let key = SigningKey::generate().text();
    let flags = ["--api-key", API_KEY, "--signing-key", key.expose_str().unwrap(), "--count", "2"];
    let mut listener = Listener::start(&flags).await;
    assert_eq!(listener.post(&[("x-api-key", "canary-of-another")], "{}").await, 204);
    assert_eq!(listener.post(&[], "{}").await, 204);
    assert!(listener.end().await.success());
    let shown = listener.rest().await;
    assert!(shown.contains("x-api-key   WRONG (another key)"), "{shown}");
    assert!(shown.contains("x-api-key   WRONG (no x-api-key was sent)"), "{shown}");
    assert_eq!(shown.matches("signature   INVALID (no webhook-id was sent)").count(), 2, "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn the_first_fail_and_repeats_are_counted_by_id() {
    let mut listener = Listener::start(&["--json", "--fail", "2", "--answer", "202", "--count", "4"]).await;
    for (id, attempt, status) in [("msg_a", 1, 500), ("msg_a", 2, 500), ("msg_b", 1, 202), ("msg_a", 3, 202)]
    {
        assert_eq!(listener.post(&[("webhook-id", id)], "[1, 2]").await, status);
        let shown = listener.json().await;
        for (member, expected) in [
            ("webhookId", json!(id)),
            ("attempt", json!(attempt)),
            ("answer", json!(status)),
            ("method", json!("POST")),
            ("path", json!("/callback")),
            ("apiKey", json!("unchecked")),
            ("signature", json!("unchecked")),
            ("body", json!([1, 2])),
        ] {
            assert_eq!(shown[member], expected, "{member} in {shown}");
        }
    }
    assert!(listener.end().await.success());
}

#[tokio::test]
async fn a_secret_of_the_webhooks_surface_verifies_too() {
    let mut listener = Listener::start(&["--json", "--signing-key", "c2VjcmV0c2VjcmV0"]).await;
    let now = clock::now().timestamp();
    let signature = sign(&[SigningKey::from_utf8_secret("c2VjcmV0c2VjcmV0")], "msg_1", now, b"{}");
    for (time, verdict) in [(now, "ok"), (now + 1, "invalid")] {
        let headers = [
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &time.to_string()),
            ("webhook-signature", &signature),
        ];
        assert_eq!(listener.post(&headers, "{}").await, 204);
        assert_eq!(listener.json().await["signature"], verdict);
    }
}

#[tokio::test]
async fn gone_and_stalled_answers() {
    let listener = Listener::start(&["--gone"]).await;
    assert_eq!(listener.post(&[], "").await, 410);
    let listener = Listener::start(&["--stall-ms", "300"]).await;
    let before = Instant::now();
    assert_eq!(listener.post(&[], "").await, 204);
    assert!(before.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn what_a_sender_wrote_cannot_drive_the_terminal() {
    let bodies: [(&[u8], Value, &str); 4] = [
        (b"\x1b[2J\x07\r\nfake line", json!("\u{1b}[2J\u{7}\r\nfake line"), "\\u001b[2J\\u0007\\u000d"),
        (
            "{\"a\":\"\u{9b}31m\u{202e}\"}".as_bytes(),
            json!({"a": "\u{9b}31m\u{202e}"}),
            "\"a\": \"\\u009b31m\\u202e\"",
        ),
        (b"\xff\x1b\n", Value::Null, "\\xff\\x1b\\n"),
        (b"{\"cut\": ", json!("{\"cut\": "), "{\"cut\": "),
    ];
    let mut script = Listener::start(&["--json"]).await;
    let mut person = Listener::start(&["--count", "4"]).await;
    for (body, value, _) in &bodies {
        let headers = [("x-webhook-event", "\u{9b}31m"), ("webhook-id", "\u{202e}")];
        assert_eq!(script.post(&headers, *body).await, 204);
        assert_eq!(person.post(&headers, *body).await, 204);
        let line = script.line().await;
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let shown: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(&shown["body"], value);
        assert_eq!(shown.get("bodyBase64").is_some(), value.is_null());
    }
    assert!(person.end().await.success());
    let shown = person.rest().await;
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    for (_, _, escaped) in bodies {
        assert!(shown.contains(escaped), "{escaped} in {shown}");
    }
    assert!(shown.contains("\n    fake line") && !shown.contains("\nfake line"), "{shown}");
}

#[tokio::test]
async fn signals_end_it_well_even_while_it_stalls() {
    for signal in ["TERM", "INT"] {
        let mut listener = Listener::start(&["--json", "--stall-ms", "3600000"]).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let stalled = tokio::spawn(client.post(&listener.url).send());
        listener.json().await;
        listener.signal(signal).await;
        assert!(listener.end().await.success(), "{signal}");
        assert!(stalled.await.unwrap().is_err(), "the stalled answer never came");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_said_without_the_key() {
    let taken = Listener::start(&[]).await;
    let taken_port = taken.url.rsplit(':').next().unwrap();
    for (flags, said) in [
        (["--signing-key", "whsec_canary"], "--signing-key cannot be used"),
        (["--signing-key", "whsec_Y2FuYXJ5"], "24 to 64 bytes"),
        (["--port", taken_port], "choose another with --port"),
        (["--answer", "100"], "100 is not in 200..=599"),
        (["--count", "0"], "0 is not in 1.."),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command.arg("listen").args(flags).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut errors = String::new();
        timeout(PATIENCE, child.stderr.take().unwrap().read_to_string(&mut errors)).await.unwrap().unwrap();
        assert!(!child.wait().await.unwrap().success());
        assert!(errors.contains(said), "{errors}");
        assert!(!errors.contains("canary") && !errors.contains("Y2FuYXJ5"), "{errors}");
    }
}
