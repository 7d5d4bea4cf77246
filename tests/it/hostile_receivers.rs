//! The whole server against receivers that mean harm: what is recorded is what happened, whoever behaves is served meanwhile, and memory
//! stays within a bound. What the client does in each case, byte by byte, is in `outbound`.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use herald::config::RawConfig;
use serde_json::{Value, json};

use crate::outbound::receiver::{Peer, Receiver};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::herald::Herald;
use crate::support::partner::text;
use crate::support::receiver;
use crate::support::scratch::Scratch;

type Script = fn(Peer) -> BoxFuture<'static, ()>;

struct Case {
    name: &'static str,
    script: Script,
    /// What the partner is told: outcome and status. An answer that is no sound HTTP counts as not having reached anybody who could answer;
    /// one that did not end in time has no status, since nobody knows what it would have become.
    outcome: &'static str,
    status: Option<u16>,
}

const fn case(name: &'static str, script: Script, outcome: &'static str, status: Option<u16>) -> Case {
    Case { name, script, outcome, status }
}

/// Reads the request and says these bytes, then waits for the caller to hang up.
fn says(mut peer: Peer, bytes: &'static [u8]) -> BoxFuture<'static, ()> {
    async move {
        peer.request().await;
        peer.say(bytes).await;
        peer.stall().await;
    }
    .boxed()
}

/// Reads one byte and goes: what is left unread makes the kernel reset the connection.
fn resets(mut peer: Peer) -> BoxFuture<'static, ()> {
    async move {
        let _hung_up = tokio::io::AsyncReadExt::read_u8(&mut peer.io).await;
    }
    .boxed()
}

/// Holds the connection and looks at nothing that comes over it.
fn ignores(peer: Peer) -> BoxFuture<'static, ()> {
    async move {
        std::future::pending::<()>().await;
        drop(peer);
    }
    .boxed()
}

/// The same, over and over.
fn repeats(mut peer: Peer, head: &'static [u8], bytes: Vec<u8>) -> BoxFuture<'static, ()> {
    async move {
        peer.request().await;
        peer.say(head).await;
        peer.say_for_ever(&bytes).await;
    }
    .boxed()
}

fn drips(mut peer: Peer, head: &'static [u8]) -> BoxFuture<'static, ()> {
    async move {
        peer.request().await;
        peer.say(head).await;
        peer.drip("z").await;
    }
    .boxed()
}

const CASES: [Case; 45] = [
    case("headers byte by byte", |peer| drips(peer, b"HTTP/1.1 200 OK\r\nX: "), "timedOut", None),
    case("a status line byte by byte", |peer| drips(peer, b"HTTP/1.1 200 "), "timedOut", None),
    case(
        "a body byte by byte",
        |peer| drips(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n"),
        "timedOut",
        None,
    ),
    case(
        "an endless chunked body",
        |peer| {
            let chunk = b"3e8\r\n".iter().chain(&[b'x'; 1000]).chain(b"\r\n").copied().collect();
            repeats(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk)
        },
        "delivered",
        Some(200),
    ),
    case(
        "an endless body without a length",
        |peer| repeats(peer, b"HTTP/1.1 500 No\r\n\r\n", vec![b'x'; 1000]),
        "refused",
        Some(500),
    ),
    case(
        "an endless chunk extension",
        |peer| repeats(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", vec![b'x'; 1000]),
        "unreachable",
        Some(200),
    ),
    case(
        "endless trailers",
        |peer| {
            repeats(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n".to_vec())
        },
        "unreachable",
        Some(200),
    ),
    case(
        "a header of 400 kB",
        |peer| repeats(peer, b"HTTP/1.1 200 OK\r\nX: ", vec![b'x'; 1000]),
        "unreachable",
        None,
    ),
    case(
        "headers without end",
        |peer| repeats(peer, b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n".to_vec()),
        "unreachable",
        None,
    ),
    case(
        "interim answers without end",
        |peer| repeats(peer, b"", b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()),
        "unreachable",
        None,
    ),
    case(
        "NUL, escapes and a script",
        |peer| {
            says(
                peer,
                b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n\x00\xff\x1b[31m<script>x</script>\xc3\x28~~~",
            )
        },
        "delivered",
        Some(200),
    ),
    case(
        "a header that is no text",
        |peer| says(peer, b"HTTP/1.1 204 No\r\nX-Odd: \xff\xfe\x80\r\n\r\n"),
        "delivered",
        Some(204),
    ),
    case(
        "200, then silence",
        |peer| says(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        "timedOut",
        None,
    ),
    case("silence", |peer| says(peer, b""), "timedOut", None),
    case(
        "a closed connection",
        |mut peer| {
            async move {
                peer.request().await;
            }
            .boxed()
        },
        "unreachable",
        None,
    ),
    case(
        "half an answer",
        |mut peer| {
            async move {
                peer.request().await;
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            }
            .boxed()
        },
        "unreachable",
        Some(200),
    ),
    case("another protocol", |peer| says(peer, b"SSH-2.0-OpenSSH_9.2\r\n"), "unreachable", None),
    case(
        "two lengths",
        |peer| says(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        "unreachable",
        None,
    ),
    case(
        "a length and chunks",
        |peer| {
            says(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        },
        "delivered",
        Some(200),
    ),
    case(
        "a length beyond all numbers",
        |peer| says(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
        "unreachable",
        None,
    ),
    case(
        "a switch of protocols",
        |peer| says(peer, b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        "refused",
        Some(101),
    ),
    case(
        "an absurd Retry-After",
        |peer| says(peer, b"HTTP/1.1 503 No\r\nRetry-After: 1e300\r\nContent-Length: 0\r\n\r\n"),
        "refused",
        Some(503),
    ),
    case(
        "a Retry-After of year 9999",
        |peer| {
            says(
                peer,
                b"HTTP/1.1 429 No\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n",
            )
        },
        "refused",
        Some(429),
    ),
    case(
        "status 999",
        |peer| says(peer, b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"),
        "refused",
        Some(999),
    ),
    case(
        "a redirect into the house",
        |peer| {
            says(
                peer,
                b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            )
        },
        "refused",
        Some(302),
    ),
    case(
        "a compressed bomb",
        |peer| {
            says(peer, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00")
        },
        "delivered",
        Some(200),
    ),
    case("a reset in the middle of the request", resets, "unreachable", None),
    case("a connection that is accepted and never read", ignores, "timedOut", None),
    case(
        "a connection that is closed at once",
        |peer| async move { drop(peer) }.boxed(),
        "unreachable",
        None,
    ),
    // Called as https: what is not reached in time is not reached.
    case("TLS: silence", ignores, "unreachable", None),
    case("TLS: a plain answer", |peer| says(peer, b"HTTP/1.1 400 No\r\n\r\n"), "unreachable", None),
    case("HTTP/2", |peer| says(peer, b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), "unreachable", None),
    case("no head at all", |peer| says(peer, b"hello\r\n\r\n"), "unreachable", None),
    case(
        "a NUL in a header",
        |peer| says(peer, b"HTTP/1.1 204 No\r\nX: a\x00b\r\n\r\n"),
        "unreachable",
        None,
    ),
    case(
        "a header that is folded",
        |peer| says(peer, b"HTTP/1.1 204 No\r\nX: a\r\n b\r\n\r\n"),
        "unreachable",
        None,
    ),
    case("bare line feeds", |peer| says(peer, b"HTTP/1.1 204 No\n\n"), "delivered", Some(204)),
    case(
        "an interim answer, then the answer",
        |peer| {
            says(peer, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 202 Yes\r\nContent-Length: 0\r\n\r\n")
        },
        "delivered",
        Some(202),
    ),
    case(
        "more than its length",
        |peer| says(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\n\r\n"),
        "delivered",
        Some(200),
    ),
    case(
        "a 204 with a body",
        |peer| says(peer, b"HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nbody"),
        "delivered",
        Some(204),
    ),
    case(
        "a chunk beyond all numbers",
        |peer| says(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        "unreachable",
        Some(200),
    ),
    case(
        "a chunk of negative size",
        |peer| says(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"),
        "unreachable",
        Some(200),
    ),
    case(
        "a negative status",
        |peer| says(peer, b"HTTP/1.1 -20 No\r\nContent-Length: 0\r\n\r\n"),
        "unreachable",
        None,
    ),
    case("status 304", |peer| says(peer, b"HTTP/1.1 304 Not Modified\r\n\r\n"), "refused", Some(304)),
    case(
        "status 410",
        |peer| says(peer, b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"),
        "refused",
        Some(410),
    ),
    case(
        "a Retry-After that is no text",
        |peer| says(peer, b"HTTP/1.1 503 No\r\nRetry-After: \xff\xfe\r\nContent-Length: 0\r\n\r\n"),
        "refused",
        Some(503),
    ),
];

#[tokio::test]
async fn rule_05_whatever_a_receiver_does_the_attempt_says_so_and_others_are_served() {
    let (database, well) = (cluster::database().await, receiver::Receiver::start().await);
    let impatient = RawConfig { delivery_timeout_ms: Some("1500".to_owned()), ..settings() };
    let app = App::start(&database, impatient).await;
    let mut receivers = Vec::new();
    for case in &CASES {
        let receiver = Receiver::start(case.script).await;
        let is_tls = case.name.starts_with("TLS");
        let url = if is_tls { receiver.url().replace("http:", "https:") } else { receiver.url() };
        let subscription = app.subscribe(&url).await;
        receivers.push((case, receiver, subscription));
    }
    app.subscribe(&well.url).await;
    app.cancel_one().await;
    well.wait_for(1).await;

    let mut wrong = Vec::new();
    for (case, _receiver, subscription) in &receivers {
        let query = format!("subscription=redirect/{subscription}");
        let id = text(&app.deliveries_that(&query).await[0]["id"]);
        let delivery = app.wait_for_attempts(&id, 1).await;
        let attempt = &delivery["attempts"][0];
        let expected = (json!(case.outcome), case.status.map_or(Value::Null, |status| json!(status)));
        let told = (attempt["outcome"].clone(), attempt.get("status").cloned().unwrap_or_default());
        let finished = delivery["state"] == "delivered";
        if told != expected || finished != (case.outcome == "delivered") {
            wrong.push(format!("{}: {told:?} ({}) instead of {expected:?}", case.name, delivery["state"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The workers live, and whoever behaves still gets everything.
    let session = app.cancel_one().await;
    let calls = well.wait_for(2).await;
    assert_eq!(calls[1].session(), session);
    assert_eq!(app.get("/herald/v1/deliveries?limit=1").await["items"].as_array().unwrap().len(), 1);
    let ready = app.operator().ask(reqwest::Method::GET, "/readyz", None).await;
    assert_eq!(ready.0, 200, "{}", ready.1);
}

/// What one post may hold: 16 KiB of a body, 32 KiB of headers, and the buffers of a connection.
const BYTES_PER_POST_MAX: u64 = 256 * 1024;
const POSTS: u64 = 200;

/// The most memory that a process ever had, in bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn rule_05_two_hundred_endless_bodies_at_once_take_bounded_memory() {
    let (folder, well) = (Scratch::new("endless"), receiver::Receiver::start().await);
    std::fs::create_dir_all(folder.path()).unwrap();
    let settings = [("HERALD_DELIVERY_TIMEOUT_MS", "10000"), ("HERALD_LOG", "warn")];
    let herald = Herald::start(folder.path(), &settings).await;
    let endless =
        Receiver::start(|peer| repeats(peer, b"HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 64 * 1024])).await;
    // A first delivery, so that what any delivery needs is there already.
    let warm = herald.subscribe(&well.url).await;
    herald.cancel_one().await;
    well.wait_for(1).await;
    herald.unsubscribe(warm).await;
    for place in 0..POSTS {
        herald.subscribe(&format!("{}/{place}", endless.url())).await;
    }
    let before = peak_bytes(herald.pid());
    herald.cancel_one().await;
    let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
    loop {
        let done = herald.deliveries_that("state=delivered").await.len();
        if done >= 100 && herald.deliveries_that("state=pending").await.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{done} are done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(endless.connections() as u64, POSTS);
    let grown = peak_bytes(herald.pid()).saturating_sub(before);
    assert!(grown < POSTS * BYTES_PER_POST_MAX, "{POSTS} endless bodies took {} KiB", grown / 1024);
    assert!(herald.terminate().await.success());
}
