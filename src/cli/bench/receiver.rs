//! The callbacks' side: bare HTTP servers inside this process, one port for each callback, so that to the server each is an origin of its own.
//! They answer, hang or fail as told, and enter what they accepted into the ledger of the run.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

use super::ledger::Ledger;

/// How the callbacks behave from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// The first so many callbacks hang.
    pub hanging: u16,
    pub hang: Duration,
    /// Every callback answers 503.
    pub failing: bool,
    /// Every so many-th arrival is answered well and forgotten: for showing that a loss is noticed.
    pub lose_every: Option<u64>,
}

pub struct Receivers {
    shared: Arc<Shared>,
    behaviour: watch::Sender<Behaviour>,
    addresses: Vec<SocketAddr>,
}

struct Shared {
    ledger: RwLock<Arc<Ledger>>,
    behaviour: watch::Receiver<Behaviour>,
    calls: AtomicU64,
    connections: AtomicU64,
    connections_open: AtomicU64,
}

impl Receivers {
    pub fn new() -> Receivers {
        let (behaviour, watched) = watch::channel(Behaviour::default());
        let shared = Arc::new(Shared {
            ledger: RwLock::new(Arc::new(Ledger::new(0, 0, 0, 1))),
            behaviour: watched,
            calls: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
        });
        Receivers { shared, behaviour, addresses: Vec::new() }
    }

    /// Sees to it that there are at least so many callbacks.
    pub async fn grow(&mut self, callbacks: u16) -> Result<(), String> {
        while self.addresses.len() < usize::from(callbacks) {
            let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listening.map_err(|error| {
                format!("{callbacks} receivers need as many open files and more ({error}); raise `ulimit -n`")
            })?;
            let address = listener.local_addr().map_err(|error| error.to_string())?;
            let callback = self.addresses.len() as u16;
            tokio::spawn(accept(listener, callback, self.shared.clone()));
            self.addresses.push(address);
        }
        Ok(())
    }

    pub fn address(&self, callback: u16) -> SocketAddr {
        self.addresses[usize::from(callback)]
    }

    /// Whatever arrives is entered here from now on.
    pub fn enter_into(&self, ledger: &Arc<Ledger>) {
        *self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner) = ledger.clone();
    }

    /// Changes how callbacks answer, and returns how they did; calls that hang are answered as soon as their callback does not hang any more.
    pub fn behave(&self, behaviour: Behaviour) -> Behaviour {
        self.behaviour.send_replace(behaviour)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections that neither side has closed yet.
    pub fn connections_open(&self) -> u64 {
        self.shared.connections_open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, callback: u16, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                shared.connections_open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(converse(stream, callback, shared.clone()));
            }
            // Out of files: the server sees calls that wait, and its own figures suffer for it.
            Err(_error) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(stream: TcpStream, callback: u16, shared: Arc<Shared>) {
    // Where the option is refused answers may come a little later.
    let _kept_waiting = stream.set_nodelay(true);
    let served = shared.clone();
    let service = service_fn(move |request| receive(request, callback, served.clone()));
    // A connection that breaks is the server's affair, and shows in what it delivers.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    shared.connections_open.fetch_sub(1, Ordering::Relaxed);
}

async fn receive(
    request: Request<Incoming>,
    callback: u16,
    shared: Arc<Shared>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let webhook_id = request.headers().get("webhook-id").map(|value| hash(value.as_bytes()));
    let status = match request.into_body().collect().await {
        Ok(body) => shared.judge(callback, webhook_id, sessions(&body.to_bytes())).await,
        Err(_broken) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

impl Shared {
    /// Entered only when it is answered well: a call whose sender hung up while it hung drops this future.
    async fn judge(&self, callback: u16, webhook_id: Option<u64>, sessions: Option<Vec<Uuid>>) -> StatusCode {
        let behaviour = *self.behaviour.borrow();
        if behaviour.failing {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if callback < behaviour.hanging {
            let mut healed = self.behaviour.clone();
            // Either end of the wait means the same: it is time to answer.
            let _over =
                tokio::time::timeout(behaviour.hang, healed.wait_for(|now| callback >= now.hanging)).await;
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if behaviour.lose_every.is_none_or(|every| !call.is_multiple_of(every)) {
            let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner).clone();
            match sessions {
                Some(sessions) => sessions
                    .into_iter()
                    .for_each(|session| ledger.arrive(session, callback, webhook_id.unwrap_or_default())),
                None => ledger.invent(),
            }
        }
        StatusCode::NO_CONTENT
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    CloudEvent { data: Data },
    Array(Vec<Data>),
}

#[derive(Deserialize)]
struct Data {
    id: Uuid,
}

/// The sessions that a callback is about: one, or those of an array.
fn sessions(body: &[u8]) -> Option<Vec<Uuid>> {
    Some(match serde_json::from_slice(body).ok()? {
        Body::CloudEvent { data } => vec![data.id],
        Body::Array(events) => events.into_iter().map(|event| event.id).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_about_the_session_in_its_data_or_those_of_an_array() {
        let id = Uuid::from_u128(7);
        let body = format!(r#"{{"id":"{}","data":{{"state":"Cancelled","id":"{id}"}}}}"#, Uuid::from_u128(1));
        assert_eq!(sessions(body.as_bytes()), Some(vec![id]));
        let body = format!(r#"[{{"id":"{id}","failureType":"x"}},{{"id":"{}"}}]"#, Uuid::from_u128(8));
        assert_eq!(sessions(body.as_bytes()), Some(vec![id, Uuid::from_u128(8)]));
        for body in ["", "{}", r#"{"data":{"id":"x"}}"#, r#"{"data":[]}"#, "[{}]"] {
            assert_eq!(sessions(body.as_bytes()), None, "{body}");
        }
    }
}
