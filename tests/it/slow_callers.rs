//! Clients that hold on to connections (SECURITY rule 14): a thousand that never finish their headers, while others are served, more than
//! there are places, and those that do not read what they asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use herald::listener::{self, Bounds, UNREAD_WITHIN};
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::herald::Herald;
use crate::support::partner::PATIENCE;
use crate::support::scratch::Scratch;

const SLOW: usize = 1_000;
/// The server's own bound is 15 s, whatever a client sends meanwhile.
const LET_GO_WITHIN: Duration = Duration::from_secs(40);
/// How long others are served beside them.
const BESIDE_FOR: Duration = Duration::from_secs(5);

/// Both this program and the server, which inherits it, need more descriptors than some machines give by default.
#[expect(unsafe_code, reason = "the standard library cannot raise a limit")]
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read and write the struct that they are given.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    assert_eq!(done, 0);
}

/// Says a byte of its headers each second until it is let go; returns after how long. Counts itself once it has begun.
async fn dawdle(address: String, begun: Arc<AtomicUsize>) -> Duration {
    // The kernel's line of those that were not accepted yet may be full for a moment.
    let mut stream = loop {
        match TcpStream::connect(&address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    stream.write_all(b"GET /redirect-sessions/x HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    begun.fetch_add(1, Ordering::Relaxed);
    loop {
        let mut answer = [0; 256];
        tokio::select! {
            read = stream.read(&mut answer) => match read {
                Ok(0) | Err(_) => return began.elapsed(),
                // It may be told why.
                Ok(_) => {}
            },
            _ = pace.tick() => {
                if stream.write_all(b"z").await.is_err() {
                    return began.elapsed();
                }
            }
        }
    }
}

#[tokio::test]
async fn rule_14_a_thousand_slow_headers_keep_nobody_waiting_and_are_let_go() {
    raise_descriptor_limit();
    let folder = Scratch::new("slow");
    std::fs::create_dir_all(folder.path()).unwrap();
    let herald = Herald::start(folder.path(), &[("HERALD_LOG", "warn")]).await;
    let address = herald.base.strip_prefix("http://").unwrap().to_owned();
    let (begun, mut slowest) = (Arc::new(AtomicUsize::new(0)), Duration::ZERO);
    let slow: Vec<_> = (0..SLOW).map(|_| tokio::spawn(dawdle(address.clone(), begun.clone()))).collect();
    let beside = Instant::now();
    while begun.load(Ordering::Relaxed) < SLOW {
        assert!(beside.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    herald.cancel_one().await;
    let still = slow.iter().filter(|client| !client.is_finished()).count();
    assert_eq!(still, SLOW, "the healthy requests were served beside the slow ones");
    let beside = Instant::now();
    while beside.elapsed() < BESIDE_FOR {
        let began = Instant::now();
        let (status, _) = herald.ask(Method::GET, "/herald/v1/deliveries", None).await;
        assert_eq!(status, 200);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "a healthy request took {slowest:?}");

    for client in slow {
        let lasted = tokio::time::timeout(PATIENCE, client).await.expect("it is let go").unwrap();
        assert!(lasted < LET_GO_WITHIN, "{lasted:?}");
    }
    assert!(herald.terminate().await.success());
}

const LARGE_BYTES: usize = 8 * 1024 * 1024;

/// A listener with so many places and so much patience; `/large` is more than any kernel keeps for a client that does not read.
fn listen(
    connections_max: usize,
    unread_within: Duration,
) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let socket = listener::bind("127.0.0.1:0".parse().unwrap(), "").unwrap();
    let address = socket.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/large", get(|| async { vec![b'x'; LARGE_BYTES] }));
    let bounds = Bounds { connections_max, unread_within, drain: Duration::ZERO };
    (address, stop, tokio::spawn(listener::serve(socket, router, bounds, stopping)))
}

/// A client whose kernel keeps little for it has asked for something large.
async fn ask_for_much(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    stream
}

#[tokio::test]
async fn rule_14_who_does_not_read_is_let_go_and_leaves_its_place_to_another() {
    let patience = Duration::from_millis(500);
    let (address, _stop, _serving) = listen(1, patience);
    let began = Instant::now();
    let unread = ask_for_much(address).await;
    let mut other = TcpStream::connect(address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, other.read(&mut [0; 1_024])).await;
    assert!(answer.expect("the place is free again").unwrap() > 0);
    assert!(began.elapsed() >= patience, "who has just asked is given time to read");
    drop(unread);
}

#[tokio::test]
async fn rule_14_who_reads_slowly_but_steadily_gets_all_of_it() {
    let patience = Duration::from_secs(3);
    let (address, _stop, _serving) = listen(1, patience);
    let began = Instant::now();
    let mut stream = ask_for_much(address).await;
    let (mut read, mut bytes) = (0, vec![0; 128 * 1024]);
    loop {
        let step = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        if step == 0 {
            break;
        }
        read += step;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(read > LARGE_BYTES, "{read} bytes, the head among them");
    assert!(began.elapsed() > patience, "it was not slow enough to show anything");
}

#[tokio::test]
async fn rule_14_connections_beyond_the_cap_wait_until_another_leaves() {
    let (address, stop, serving) = listen(2, UNREAD_WITHIN);
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stream.read(&mut [0; 1_024]).await.unwrap()
    };
    let mut placed = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream).await > 0);
        placed.push(stream);
    }
    // The kernel takes it, and nobody answers.
    let mut third = TcpStream::connect(address).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), ask(&mut third)).await;
    assert!(early.is_err(), "it was served although both places are taken");
    assert!(ask(&mut placed[0]).await > 0, "who has a place keeps it");
    placed.pop();
    let answer = tokio::time::timeout(PATIENCE, third.read(&mut [0; 1_024])).await.unwrap().unwrap();
    assert!(answer > 0, "its turn has come");
    stop.send(true).unwrap();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}
