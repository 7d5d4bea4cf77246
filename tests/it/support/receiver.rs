//! A callback: keeps what arrives, and answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, Semaphore};

use super::partner::PATIENCE;

#[derive(Clone)]
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("the call has no {name}")).to_str().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The session that a cancelled-session callback speaks of.
    pub fn session(&self) -> String {
        self.json()["data"]["id"].as_str().unwrap().to_owned()
    }
}

/// What a receiver does with a call.
#[derive(Clone)]
pub enum Reply {
    Status(u16),
    /// With a `Retry-After`.
    Later(u16, String),
    /// With a `Retry-After`, and a `Date` of the receiver's own.
    Dated(u16, &'static str, &'static str),
    /// With a body.
    Body(u16, Vec<u8>),
    /// Says nothing for this long, then 204.
    Stall(Duration),
    /// With the status that this finds right for the call.
    Judge(Arc<dyn Fn(&Call) -> u16 + Send + Sync>),
    /// Says nothing until the gate lets this one through, then answers with this status.
    Gate(Arc<Semaphore>, u16),
}

/// A gate that is shut. Each permit that is added lets one call through.
pub fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

impl From<u16> for Reply {
    fn from(status: u16) -> Self {
        Self::Status(status)
    }
}

#[derive(Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    replies: Mutex<VecDeque<Reply>>,
    /// Once the others are used up; 204 unless told otherwise.
    always: Mutex<Option<Reply>>,
    arrived: Notify,
}

/// Serves until it is dropped with its test.
#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    shared: Arc<Shared>,
}

impl Receiver {
    /// The URL of a port at which nobody listens, nor will: it is bound for as long as the tests run.
    pub async fn nobody() -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}/callback", socket.local_addr().unwrap());
        std::mem::forget(socket);
        url
    }

    pub async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/callback", listener.local_addr().unwrap());
        let shared = Arc::<Shared>::default();
        let router =
            Router::new().fallback(any(take)).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Receiver { url, shared }
    }

    /// How every call is answered from now on, once the answers of [`Receiver::reply`] are used up.
    pub fn always(&self, reply: impl Into<Reply>) {
        *self.shared.always.lock().unwrap() = Some(reply.into());
    }

    /// The answers to the next calls, in order; after them every call is answered 204.
    pub fn reply<R: Into<Reply>>(&self, replies: impl IntoIterator<Item = R>) {
        self.shared.replies.lock().unwrap().extend(replies.into_iter().map(Into::into));
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// Waits until the calls so far are as wished.
    pub async fn wait_until(&self, what: &str, wished: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let arrived = self.shared.arrived.notified();
            let calls = self.calls();
            if wished(&calls) {
                return calls;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                tokio::time::timeout(left, arrived).await.is_ok(),
                "waited in vain for {what}; {} calls came",
                calls.len()
            );
        }
    }

    pub async fn wait_for(&self, count: usize) -> Vec<Call> {
        self.wait_until(&format!("{count} calls"), |calls| calls.len() >= count).await
    }
}

async fn take(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let call = Call { path: uri.path().to_owned(), headers, body, at: Instant::now() };
    shared.calls.lock().unwrap().push(call.clone());
    shared.arrived.notify_waiters();
    let next = shared.replies.lock().unwrap().pop_front();
    let reply = next.or_else(|| shared.always.lock().unwrap().clone()).unwrap_or(Reply::Status(204));
    let status = |status: u16| StatusCode::from_u16(status).unwrap();
    match reply {
        Reply::Status(code) => status(code).into_response(),
        Reply::Later(code, after) => (status(code), [("retry-after", after)]).into_response(),
        Reply::Dated(code, after, date) => {
            (status(code), [("retry-after", after), ("date", date)]).into_response()
        }
        Reply::Body(code, body) => (status(code), body).into_response(),
        Reply::Judge(judge) => status(judge(&call)).into_response(),
        Reply::Gate(gate, code) => {
            gate.acquire_owned().await.unwrap().forget();
            status(code).into_response()
        }
        Reply::Stall(time) => {
            tokio::time::sleep(time).await;
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
