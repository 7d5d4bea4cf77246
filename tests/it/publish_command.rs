//! `herald publish` from outside: a file or a pipe goes in, and what came of each line comes out.

use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::herald::DEV_KEY;
use crate::support::partner::PATIENCE;
use crate::support::receiver::Receiver;

/// Runs the command to its end with this input.
async fn publish(url: &str, flags: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_herald"))
        .env_clear()
        .env("HERALD_API_KEY", DEV_KEY)
        .args(["publish", "--operator-url", url])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async move {
        // A command that fails early does not read to the end.
        let _closed = stdin.write_all(input.as_bytes()).await;
    };
    let ((), output) = tokio::join!(write, timeout(PATIENCE, child.wait_with_output()));
    output.unwrap().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_file_is_published_and_arrives() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let events: String = (0..2_500)
        .map(|n| format!("{{\"type\":\"RedirectSessionCancelled\",\"data\":{{ \"n\" : {n} }}}}\n"))
        .collect();
    std::fs::write(&file, events).unwrap();
    let output = publish(&app.operator().base, &[file.to_str().unwrap(), "--results"], "").await;
    assert!(output.status.success(), "{}", said(&output));
    let results = lines(&output);
    assert_eq!(results.len(), 2_500);
    for (place, result) in results.iter().enumerate() {
        assert_eq!((&result["line"], &result["matched"]), (&json!(place + 1), &json!(1)));
    }
    assert!(said(&output).starts_with("2500 published, "), "{}", said(&output));
    assert!(!said(&output).contains('\r'), "no progress bar where nobody looks");
    let calls = receiver.wait_for(2_500).await;
    assert!(calls.iter().any(|call| call.body.ends_with(b"\"data\":{ \"n\" : 2499 }}")));
    app.stop().await;
}

#[tokio::test]
async fn refused_lines_are_named_and_the_others_published() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let input = "{\"type\":\"a\",\"data\":1,\"id\":\"one\"}\n\n{\"type\":\"a\"}\nnonsense\n{\"type\":\"a\",\"data\":2,\"id\":\"one\"}\n\
                 {\"type\":\"a\",\"data\":3}\n{\"id\":null,\"type\":\"a\",\"data\":4}";
    let output = publish(&app.operator().base, &["--results"], input).await;
    assert_eq!(output.status.code(), Some(1));
    let by_line = |number: u64| lines(&output).into_iter().find(|line| line["line"] == number).unwrap();
    assert_eq!(by_line(1)["matched"], 0);
    assert_eq!(by_line(3)["refused"], json!(["data is required"]));
    assert!(by_line(4)["refused"].is_array());
    assert!(by_line(5)["refused"][0].as_str().unwrap().starts_with("id stands for"));
    assert_eq!(by_line(6)["matched"], 0);
    assert_eq!(by_line(7)["refused"], json!(["id must be a string"]));
    let said = said(&output);
    for part in
        ["line 3: data is required\n", "line 4: is not valid JSON", "line 5: id ", "2 published, 4 refused"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    let id = by_line(6)["id"].as_str().unwrap().to_owned();
    assert_eq!(app.get(&format!("/herald/v1/events/{id}")).await["data"], 3);
    app.stop().await;
}

#[tokio::test]
async fn a_mark_alone_before_the_first_line_is_a_blank_line() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let input = "\u{feff}\r\n{\"type\":\"a\",\"data\":1}\n\u{c}\n{\"type\":\"a\",\"data\":2}\n";
    let output = publish(&app.operator().base, &["--results"], input).await;
    assert!(output.status.success(), "{}", said(&output));
    let numbers: Vec<_> = lines(&output).into_iter().map(|result| result["line"].clone()).collect();
    assert_eq!(numbers, [2, 4]);
    assert!(said(&output).starts_with("2 published, "), "{}", said(&output));
    for empty in ["", "\u{feff}", "\u{feff}\r\n"] {
        let output = publish(&app.operator().base, &["--results"], empty).await;
        assert!(output.status.success() && output.stdout.is_empty(), "{empty:?}: {}", said(&output));
        assert!(said(&output).starts_with("0 published, "), "{empty:?}: {}", said(&output));
    }
    app.stop().await;
}

#[tokio::test]
async fn a_line_with_no_room_for_an_id_is_published_and_one_that_is_too_long_named() {
    const BYTES_MAX: usize = 256 * 1024;
    let line = |bytes: usize| {
        let around = r#"{"type":"a","data":""}"#.len();
        format!(r#"{{"type":"a","data":"{}"}}"#, "x".repeat(bytes - around))
    };
    let (fits_alone, fits_with_id, too_long) = (line(BYTES_MAX), line(BYTES_MAX - 44), line(BYTES_MAX + 1));
    let little = r#"{"type":"a","data":1}"#;
    let endless = "x".repeat(5 * BYTES_MAX);
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let input =
        format!("{little}\n{fits_alone}\n{endless}\n{too_long}\n{fits_with_id}\r\n{little}\n{endless}");
    let output = publish(&app.operator().base, &["--results"], &input).await;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let results = lines(&output);
    let told = |member: &str| -> Vec<u64> {
        let has = results.iter().filter(|result| result.get(member).is_some());
        let mut numbers: Vec<u64> = has.map(|result| result["line"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!((told("id"), told("refused")), (vec![1, 2, 5, 6], vec![3, 4, 7]), "{said}");
    for part in ["line 3: is larger than 262144 bytes\n", "line 7: is larger", "4 published, 3 refused"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    app.stop().await;
}

/// A server that reads a first request, hangs up, and from then on answers as it is told. Its URL, and the bodies that it got.
async fn odd_server(
    hangs_up_first: bool,
    answer: impl Fn(usize, &str) -> Response + Clone + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let bodies = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = bodies.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        if hangs_up_first {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with('\n') || !request.contains("\r\n\r\n{") {
                let mut some = vec![0; 4_096];
                let read = connection.read(&mut some).await.unwrap();
                request.push_str(std::str::from_utf8(&some[..read]).unwrap());
            }
            seen.lock().unwrap().push(request.split_once("\r\n\r\n").unwrap().1.to_owned());
        }
        let answer = async move |body: String| {
            let place = {
                let mut seen = seen.lock().unwrap();
                seen.push(body.clone());
                seen.len()
            };
            answer(place, &body)
        };
        axum::serve(listener, Router::new().route("/events", post(answer))).await.unwrap();
    });
    (url, bodies)
}

fn published(body: &str) -> Response {
    (StatusCode::ACCEPTED, "{\"id\":\"x\",\"matched\":0}\n".repeat(body.lines().count())).into_response()
}

#[tokio::test]
async fn a_server_that_is_busy_unwell_or_hangs_up_is_asked_again_with_the_same_ids() {
    let unwell = [503, 429, 408, 500, 502, 504];
    let (url, bodies) = odd_server(true, move |place, body| match unwell.get(place - 2) {
        Some(status) => (StatusCode::from_u16(*status).unwrap(), [("retry-after", "0")]).into_response(),
        None => published(body),
    })
    .await;
    let output = publish(&url, &[], "{\"type\":\"a\",\"data\":1}\n").await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout.is_empty());
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 8);
    assert!(!said(&output).contains("without an id"), "{}", said(&output));
    assert!(bodies.iter().all(|body| *body == bodies[0] && body.starts_with("{\"id\":\"")), "{bodies:?}");
}

#[tokio::test]
async fn whoever_repeats_a_line_without_an_id_says_so() {
    let (url, bodies) = odd_server(true, |_, body| published(body)).await;
    let long = format!(r#"{{"type":"a","data":"{}"}}"#, "x".repeat(256 * 1024 - 22));
    let output = publish(&url, &[], &format!("{long}\n")).await;
    assert!(output.status.success(), "{}", said(&output));
    let bodies = bodies.lock().unwrap();
    assert!(bodies[0] == bodies[1] && bodies.len() == 2);
    let said = said(&output);
    assert!(
        said.contains("line 1: is sent again without an id, and may have been published twice"),
        "{said}"
    );
}

#[tokio::test]
async fn what_a_server_says_is_shown_as_it_is_but_moves_no_cursor() {
    let says = "it's \"so\" \u{1b}[2J";
    let (url, _) = odd_server(false, move |place, _| match place {
        1 => {
            let errors = json!({ "errors": [{ "field": "line 1", "message": says }] });
            (StatusCode::BAD_REQUEST, errors.to_string()).into_response()
        }
        _ => (StatusCode::FORBIDDEN, json!({ "detail": says }).to_string()).into_response(),
    })
    .await;
    let output = publish(&url, &[], "{\"type\":\"a\"}\n{\"type\":\"b\"}\n").await;
    let said = said(&output);
    for part in ["line 1: it's \"so\" \\u001b[2J\n", "403 Forbidden it's \"so\" \\u001b[2J\n"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_said_at_once() {
    let nobody = Receiver::nobody().await;
    for (url, flags, part) in [
        (nobody.as_str(), vec![], "refused"),
        ("https://127.0.0.1:1", vec![], "speaks no TLS"),
        (nobody.as_str(), vec!["/nowhere/at/all"], "cannot read /nowhere/at/all"),
    ] {
        let output = publish(url, &flags, "{\"type\":\"a\",\"data\":1}\n").await;
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(part), "{part} in {}", said(&output));
        assert!(!said(&output).contains(DEV_KEY));
    }
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let operator = app.operator();
    let (_, partner) = operator.ask(Method::POST, "/partners", Some(json!({ "name": "Another" }))).await;
    let path = format!("/partners/{}/keys", partner["id"].as_str().unwrap());
    let (_, key) = operator.ask(Method::POST, &path, Some(json!({ "scopes": ["partner"] }))).await;
    let key = key["key"].as_str().unwrap();
    let output = publish(&operator.base, &["--api-key", key], "{\"type\":\"a\",\"data\":1}\n").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("403"), "{}", said(&output));
    app.stop().await;
}
