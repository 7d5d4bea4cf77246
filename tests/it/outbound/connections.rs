//! When connections are reused, and the one case in which a request is sent twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use herald::engine::outbound::{Limits, Phase, ReplyKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::receiver::{Peer, Receiver};
use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Connection 1 answers one request and then does as told with the second; any other connection answers all.
async fn second_request_meets<F>(trick: impl Fn(Peer) -> F + Send + Sync + Clone + 'static) -> Receiver
where
    F: Future<Output = ()> + Send + 'static,
{
    Receiver::start(move |mut peer| {
        let trick = trick.clone();
        async move {
            peer.request().await;
            peer.say(OK).await;
            if peer.connection == 1 {
                peer.request().await;
                return trick(peer).await;
            }
            while peer.request().await {
                peer.say(OK).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn rule_03_a_reused_connection_that_was_closed_is_tried_once_more_on_a_fresh_one() {
    let receiver = second_request_meets(|peer| async move { drop(peer) }).await;
    let outbound = outbound(Limits::default());
    assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
    settle().await;
    assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
    assert_eq!((receiver.connections(), receiver.requests().len()), (2, 3));
}

#[tokio::test]
async fn rule_03_the_second_try_does_not_go_to_another_stale_connection() {
    let (all_in, go) = (Arc::new(tokio::sync::Barrier::new(3)), Arc::new(tokio::sync::Barrier::new(3)));
    let receiver = Receiver::start(move |mut peer| {
        let (all_in, go) = (Arc::clone(&all_in), Arc::clone(&go));
        async move {
            peer.request().await;
            if peer.connection <= 3 {
                all_in.wait().await; // three requests at once, so three connections
                peer.say(OK).await;
                go.wait().await;
                peer.request().await; // and on each of them the next request is left unanswered
                return;
            }
            peer.say(OK).await;
        }
    })
    .await;
    let (outbound, target) = (outbound(Limits::default()), receiver.url());
    let first = tokio::join!(
        post(&outbound, &target, AMPLE),
        post(&outbound, &target, AMPLE),
        post(&outbound, &target, AMPLE)
    );
    assert_eq!((status(&first.0), status(&first.1), status(&first.2)), (200, 200, 200));
    settle().await;
    assert_eq!(status(&post(&outbound, &target, AMPLE).await), 200);
    assert_eq!((receiver.connections(), receiver.requests().len()), (4, 5));
}

#[tokio::test]
async fn rule_03_a_fresh_connection_that_is_closed_means_exactly_one_post() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let reply = post(&outbound(Limits::default()), &receiver.url(), AMPLE).await;
    assert!(matches!(reply.result, ReplyKind::BadResponse { status: None, .. }), "{:?}", reply.result);
    assert!(reply.reached);
    settle().await;
    assert_eq!((receiver.connections(), receiver.requests().len()), (1, 1));
}

#[tokio::test]
async fn rule_03_a_reset_after_the_request_means_exactly_one_post() {
    let receiver = Receiver::start(|mut peer| async move {
        // Closing with the body unread makes the kernel answer with a reset.
        let _ = peer.io.read(&mut [0; 1]).await;
    })
    .await;
    let reply = post(&outbound(Limits::default()), &receiver.url(), AMPLE).await;
    assert!(matches!(reply.result, ReplyKind::BadResponse { status: None, .. }), "{:?}", reply.result);
    settle().await;
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn rule_03_one_byte_of_an_answer_forbids_the_second_try() {
    let receiver = second_request_meets(|mut peer| async move {
        peer.say("H").await;
    })
    .await;
    let outbound = outbound(Limits::default());
    assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
    settle().await;
    let reply = post(&outbound, &receiver.url(), AMPLE).await;
    assert!(matches!(reply.result, ReplyKind::BadResponse { .. }), "{:?}", reply.result);
    assert_eq!((receiver.connections(), receiver.requests().len()), (1, 2));
}

#[tokio::test]
async fn rule_03_silence_on_a_reused_connection_is_a_timeout_and_not_tried_again() {
    let receiver = second_request_meets(|mut peer| async move { peer.stall().await }).await;
    let outbound = outbound(Limits { first_byte: SHORT, ..Limits::default() });
    assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
    settle().await;
    let reply = post(&outbound, &receiver.url(), AMPLE).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::FirstByte });
    assert_eq!((receiver.connections(), receiver.requests().len()), (1, 2));
}

#[tokio::test]
async fn rule_03_both_tries_share_one_total() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        if peer.connection == 1 {
            peer.say(OK).await;
            peer.request().await;
            return;
        }
        peer.stall().await;
    })
    .await;
    let outbound = outbound(Limits::default());
    assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
    settle().await;
    let reply = post(&outbound, &receiver.url(), SHORT).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::FirstByte });
    assert!(reply.latency < SHORT + Duration::from_secs(2));
    assert_eq!((receiver.connections(), receiver.requests().len()), (2, 3));
}

#[tokio::test]
async fn answers_read_to_their_end_keep_the_connection() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        OK,
        "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ] {
        let receiver = Receiver::answering(answer.as_bytes()).await;
        let outbound = outbound(Limits::default());
        for _ in 0..50 {
            post(&outbound, &receiver.url(), AMPLE).await;
            settle().await;
        }
        assert_eq!((receiver.connections(), receiver.requests().len()), (1, 50), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_the_receiver_closes_is_not_kept() {
    let receiver =
        Receiver::answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    let outbound = outbound(Limits::default());
    for _ in 0..3 {
        assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
        settle().await;
    }
    assert_eq!((receiver.connections(), receiver.requests().len()), (3, 3));
}

#[tokio::test]
async fn a_connection_that_the_receiver_closes_while_it_waits_is_closed_here_too() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.say(OK).await;
        settle().await;
        peer.io.shutdown().await.unwrap();
        peer.stall().await;
    })
    .await;
    let outbound = outbound(Limits { idle: Duration::from_secs(3_600), ..Limits::default() });
    assert_eq!(status(&post(&outbound, &receiver.url(), AMPLE).await), 200);
    receiver.ended().await;
}

#[tokio::test]
async fn idle_connections_are_closed_in_the_end() {
    let receiver = Receiver::answering(OK.as_bytes()).await;
    let outbound = outbound(Limits { idle: Duration::from_millis(50), ..Limits::default() });
    post(&outbound, &receiver.url(), AMPLE).await;
    receiver.ended().await;
}

#[tokio::test]
async fn dropping_the_client_closes_its_connections() {
    let receiver = Receiver::answering(OK.as_bytes()).await;
    let outbound = outbound(Limits::default());
    post(&outbound, &receiver.url(), AMPLE).await;
    settle().await;
    drop(outbound);
    receiver.ended().await;
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection() {
    let receiver = Receiver::start(|mut peer| async move {
        peer.request().await;
        peer.stall().await;
    })
    .await;
    let outbound = outbound(Limits::default());
    let target = receiver.url();
    let call = tokio::time::timeout(SHORT, post(&outbound, &target, AMPLE));
    assert!(call.await.is_err());
    receiver.ended().await;
}

#[tokio::test]
async fn only_so_many_connections_wait() {
    let all_in = Arc::new(tokio::sync::Barrier::new(4));
    let receiver = Receiver::start(move |mut peer| {
        let all_in = Arc::clone(&all_in);
        async move {
            peer.request().await;
            all_in.wait().await;
            peer.say(OK).await;
            peer.stall().await;
        }
    })
    .await;
    let outbound = outbound(Limits { idle_max: 1, ..Limits::default() });
    let target = receiver.url();
    tokio::join!(
        post(&outbound, &target, AMPLE),
        post(&outbound, &target, AMPLE),
        post(&outbound, &target, AMPLE),
        post(&outbound, &target, AMPLE)
    );
    for _ in 0..3 {
        receiver.ended().await; // all but one
    }
    assert!(tokio::time::timeout(SHORT, receiver.ended()).await.is_err(), "and that one stays");
}

#[tokio::test]
async fn a_call_whose_time_is_up_sends_nothing_more() {
    let (resume, read) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, counted) = (Arc::clone(&resume), Arc::clone(&read));
    let receiver = Receiver::start(move |mut peer| {
        let (gate, counted) = (Arc::clone(&gate), Arc::clone(&counted));
        async move {
            gate.acquire().await.unwrap().forget();
            let mut chunk = vec![0; 65_536];
            while let Ok(bytes @ 1..) = peer.io.read(&mut chunk).await {
                counted.fetch_add(bytes, Ordering::SeqCst);
            }
        }
    })
    .await;
    let body = Bytes::from(vec![0; 64 * 1024 * 1024]); // more than the kernel takes off our hands
    let (url, headers, length) = (url(&receiver.url()), HeaderMap::new(), body.len());
    let post = Post { url: &url, headers, body, timeout: SHORT, mask: &[] };
    let reply = outbound(Limits::default()).post(post).await;
    assert_eq!(reply.result, ReplyKind::TimedOut { phase: Phase::FirstByte });
    resume.add_permits(1);
    receiver.ended().await;
    assert!(read.load(Ordering::SeqCst) < length);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_few_connections() {
    let receiver = Receiver::answering(OK.as_bytes()).await;
    let (outbound, target) = (outbound(Limits::default()), receiver.url());
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (outbound, target) = (outbound.clone(), target.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    assert_eq!(status(&post(&outbound, &target, AMPLE).await), 200);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(receiver.requests().len(), 16 * 200);
    assert!(receiver.connections() <= 64, "{} connections", receiver.connections());
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_counts() {
    let receiver = Receiver::start(|mut peer| async move {
        let _ = peer.io.read(&mut [0; 1024]).await;
        peer.say("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let (url, headers) = (url(&receiver.url()), HeaderMap::new());
    let body = Bytes::from(vec![0; 64 * 1024 * 1024]);
    let reply =
        outbound(Limits::default()).post(Post { url: &url, headers, body, timeout: AMPLE, mask: &[] }).await;
    assert_eq!(status(&reply), 413);
}
