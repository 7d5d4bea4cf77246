//! Prints callbacks, for people or as one line of JSON each. All that a sender wrote goes through `printable` first.

use std::io::{self, Write as _};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::callback::{Callback, Verdict};
use super::printable;
use crate::domain::time::wire_time;

#[derive(Debug, Clone, Copy)]
pub enum Format {
    Text,
    JsonLines,
}

/// Prints one callback. `attempt` is how often its id has been seen, this time included.
pub fn show(format: Format, callback: &Callback, attempt: Option<u64>, answer: StatusCode) {
    let shown = match format {
        Format::Text => text(callback, attempt, answer),
        Format::JsonLines => json_line(callback, attempt, answer),
    };
    print(&shown);
}

/// Says something that is not a callback: to standard error where standard output is for scripts.
pub fn announce(json: bool, message: &str) {
    if json {
        let _ = writeln!(io::stderr(), "{message}");
    } else {
        print(message);
    }
}

/// A reader that has gone away (`| head`) is no reason to stop answering, so failures are passed over.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn text(callback: &Callback, attempt: Option<u64>, answer: StatusCode) -> String {
    let id = match (&callback.webhook_id, attempt) {
        (Some(id), Some(attempt)) => format!("{} (attempt {attempt})", printable::line(id)),
        _ => "—".to_owned(),
    };
    let types = match callback.event_types.as_slice() {
        [] => "—".to_owned(),
        types => printable::line(&types.join(", ")),
    };
    let body = match std::str::from_utf8(&callback.body) {
        Ok("") => "(no body)".to_owned(),
        Ok(text) if is_json(text) => printable::block(&printable::indented(text)),
        Ok(text) => printable::block(text),
        Err(_) => callback.body.escape_ascii().to_string(),
    };
    format!(
        "\n{} {} {} → {}\n  webhook-id  {id}\n  type        {types}\n  x-api-key   {}\n  signature   {}\n    {}",
        wire_time(callback.at),
        printable::line(callback.method.as_str()),
        printable::line(&callback.path),
        answer.as_u16(),
        verdict(&callback.api_key, "WRONG"),
        verdict(&callback.signature, "INVALID"),
        // Deeper than our own lines, so that no line of a body can pass for a verdict.
        body.replace('\n', "\n    "),
    )
}

fn verdict(verdict: &Verdict, wrong: &str) -> String {
    match verdict {
        Verdict::Unchecked => "—".to_owned(),
        Verdict::Right => "ok".to_owned(),
        Verdict::Wrong(why) => format!("{wrong} ({why})"),
    }
}

/// What a script reads. A body that is JSON stands as it is, other text as a string, other bytes in base64.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    method: &'a str,
    path: &'a str,
    webhook_id: Option<&'a str>,
    attempt: Option<u64>,
    event_types: &'a [String],
    api_key: &'static str,
    signature: &'static str,
    answer: u16,
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

fn json_line(callback: &Callback, attempt: Option<u64>, answer: StatusCode) -> String {
    let (body, body_base64) = match std::str::from_utf8(&callback.body) {
        Ok("") => (None, None),
        Ok(text) if is_json(text) => (RawValue::from_string(printable::compact(text)).ok(), None),
        Ok(text) => (serde_json::value::to_raw_value(text).ok(), None),
        Err(_) => (None, Some(STANDARD.encode(&callback.body))),
    };
    let line = Line {
        time: wire_time(callback.at),
        method: callback.method.as_str(),
        path: &callback.path,
        webhook_id: callback.webhook_id.as_deref(),
        attempt,
        event_types: &callback.event_types,
        api_key: word(&callback.api_key, "wrong"),
        signature: word(&callback.signature, "invalid"),
        answer: answer.as_u16(),
        body,
        body_base64,
    };
    // Outside its strings JSON has no character that needs escaping, so what is escaped here stays the same JSON.
    printable::line(&serde_json::to_string(&line).expect("a struct of texts and numbers always serialises"))
}

fn word(verdict: &Verdict, wrong: &'static str) -> &'static str {
    match verdict {
        Verdict::Unchecked => "unchecked",
        Verdict::Right => "ok",
        Verdict::Wrong(_) => wrong,
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
