//! Nothing that was promised is lost when everything dies at once (SECURITY rule 18).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::herald::Herald;
use crate::support::partner::CALLBACK_KEY;
use crate::support::receiver::Receiver;
use crate::support::scratch::Scratch;

/// Leases that pass soon, so that the test need not wait for the default half minute.
const QUICK: [(&str, &str); 2] = [("HERALD_LEASE_MS", "4000"), ("HERALD_DELIVERY_TIMEOUT_MS", "2000")];
const SESSIONS: usize = 1_000;
const UNDER_WAY: usize = 64;
/// How many answers the power cut waits for.
const ANSWERED_BEFORE: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_every_cancel_that_was_answered_arrives_after_kill_9_of_everything() {
    let folder = Scratch::new("kill");
    let receiver = Receiver::start().await;
    let herald = Arc::new(Herald::start(folder.path(), &QUICK).await);
    herald.subscribe(&receiver.url).await;
    let sessions = open_sessions(&herald).await;

    let answered = Arc::new(AtomicUsize::new(0));
    let places = Arc::new(Semaphore::new(UNDER_WAY));
    let cancels: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (herald, answered, places, session) =
                (herald.clone(), answered.clone(), places.clone(), *session);
            tokio::spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                let status = herald.cancel(session).await;
                if status == Some(200) {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                (session, status)
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < ANSWERED_BEFORE {
        tokio::task::yield_now().await;
    }
    herald.cut_power(folder.path());
    let mut promised = HashSet::new();
    for cancel in cancels {
        let (session, status) = cancel.await.unwrap();
        assert!(matches!(status, Some(200) | None), "a cancel was answered {status:?}");
        promised.extend((status == Some(200)).then(|| session.to_string()));
    }
    assert!(
        (ANSWERED_BEFORE..SESSIONS).contains(&promised.len()),
        "the cut came in the middle: {}",
        promised.len()
    );
    let Ok(herald) = Arc::try_unwrap(herald) else { panic!("every cancel has ended") };
    herald.reap().await;

    let herald = Herald::start(folder.path(), &QUICK).await;
    let arrived = |calls: &[crate::support::receiver::Call]| {
        calls.iter().map(|call| call.session()).collect::<HashSet<_>>()
    };
    let calls =
        receiver.wait_until("every promised cancel", |calls| promised.is_subset(&arrived(calls))).await;
    assert!(calls.iter().all(|call| call.header("x-api-key") == CALLBACK_KEY));

    // What was not answered may have happened or not; it is one of the two, and asking again settles it.
    for session in &sessions {
        let state =
            herald.get(&format!("/redirect-sessions/{session}")).await["state"].as_str().unwrap().to_owned();
        match state.as_str() {
            "Active" => assert!(!promised.contains(&session.to_string()), "a promised cancel was forgotten"),
            state => assert_eq!(state, "Cancelled"),
        }
        assert!(matches!(herald.cancel(*session).await, Some(200 | 400)));
    }
    let all: HashSet<String> = sessions.iter().map(Uuid::to_string).collect();
    let calls = receiver.wait_until("every cancel", |calls| arrived(calls) == all).await;

    // A duplicate is the same delivery again, never another one: one webhook-id for each session.
    let ids: HashSet<(String, &str)> =
        calls.iter().map(|call| (call.session(), call.header("webhook-id"))).collect();
    assert_eq!(ids.len(), SESSIONS);
    assert!(herald.terminate().await.success());
}

async fn open_sessions(herald: &Arc<Herald>) -> Vec<Uuid> {
    let mut sessions = Vec::with_capacity(SESSIONS);
    while sessions.len() < SESSIONS {
        let some: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn({
                    let herald = herald.clone();
                    async move { herald.open_session().await }
                })
            })
            .collect();
        for session in some {
            sessions.push(session.await.unwrap());
        }
    }
    sessions
}
