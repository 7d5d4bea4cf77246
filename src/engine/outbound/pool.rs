//! Connections, and the shelf on which they wait for their next request.
//!
//! Whoever takes a connection owns it alone and knows that it is a reused one. Whoever drops one closes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Limits;
use super::stream::{Received, Stream};

/// The least buffer that hyper accepts.
pub(super) const HYPER_BUFFER_BYTES_MIN: usize = 8_192;

/// How long a connection whose last answer is in may take to be ready again before it is closed instead.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) received: Received,
    driver: JoinHandle<()>,
}

impl Connection {
    pub(super) async fn open(stream: Stream, limits: &Limits) -> hyper::Result<Connection> {
        let received = stream.received();
        let header_bytes_max = limits.response_header_bytes_max.max(HYPER_BUFFER_BYTES_MIN);
        let (sender, connection) = http1::Builder::new()
            .max_header_size(header_bytes_max)
            .max_buf_size(header_bytes_max)
            .handshake(TokioIo::new(stream))
            .await?;
        // An error of the connection reaches the request that is on it; one between requests only ends it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, received, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // At once, with whatever is unread: hyper by itself would go on for a while to drain a body.
        self.driver.abort();
    }
}

pub(super) struct Pool {
    shelf: Mutex<Shelf>,
    idle: Duration,
    total_max: usize,
}

#[derive(Default)]
struct Shelf {
    by_origin: HashMap<String, Vec<Waiting>>,
    total: usize,
}

struct Waiting {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// Also starts the task that closes what has waited too long; it ends with the pool.
    pub(super) fn start(limits: &Limits) -> Arc<Pool> {
        let pool = Arc::new(Pool { shelf: Mutex::default(), idle: limits.idle, total_max: limits.idle_max });
        let (weak, pause) = (Arc::downgrade(&pool), (limits.idle / 2).max(Duration::from_millis(10)));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(pool) = weak.upgrade() else { return };
                pool.sweep();
            }
        });
        pool
    }

    /// The connection to this origin that was used last, if one is still good.
    pub(super) fn take(&self, origin: &str) -> Option<Connection> {
        let mut shelf = self.shelf();
        let waiting = shelf.by_origin.get_mut(origin)?;
        let (mut taken, mut found) = (0, None);
        while let Some(candidate) = waiting.pop() {
            taken += 1;
            if candidate.is_good(self.idle) && candidate.connection.sender.is_ready() {
                found = Some(candidate.connection);
                break;
            }
        }
        if waiting.is_empty() {
            shelf.by_origin.remove(origin);
        }
        shelf.total -= taken;
        found
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(super) fn keep(self: &Arc<Self>, origin: &str, mut connection: Connection) {
        if connection.sender.is_ready() {
            return self.put(origin.to_owned(), connection);
        }
        // Its driver has not yet come round to noticing that the exchange is over, or never will.
        let (pool, origin) = (Arc::clone(self), origin.to_owned());
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(SETTLE, connection.sender.ready()).await {
                pool.put(origin, connection);
            }
        });
    }

    fn put(&self, origin: String, connection: Connection) {
        let mut shelf = self.shelf();
        if shelf.total < self.total_max {
            let waiting = Waiting { connection, since: Instant::now() };
            shelf.by_origin.entry(origin).or_default().push(waiting);
            shelf.total += 1;
        }
    }

    fn sweep(&self) {
        let mut shelf = self.shelf();
        shelf.by_origin.retain(|_, waiting| {
            waiting.retain(|each| each.is_good(self.idle));
            !waiting.is_empty()
        });
        shelf.total = shelf.by_origin.values().map(Vec::len).sum();
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing panics while holding the lock, and a shelf is sound at every step.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_good(&self, idle: Duration) -> bool {
        !self.connection.sender.is_closed() && self.since.elapsed() < idle
    }
}
