//! A receiver on loopback that does, byte by byte, what a test tells it to, and remembers who called.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Log {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
    /// One permit for each script that has come to its end, that is, each connection that is over for the receiver.
    ended: Semaphore,
}

pub struct Receiver {
    pub port: u16,
    log: Arc<Log>,
    accepting: JoinHandle<()>,
}

/// One connection, as the receiver's script sees it.
pub struct Peer {
    pub io: Box<dyn Io>,
    /// Counted from 1.
    pub connection: usize,
    log: Arc<Log>,
}

impl Receiver {
    pub async fn start<S, F>(script: S) -> Receiver
    where
        S: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Receiver::serve(None, script).await
    }

    pub async fn tls<S, F>(acceptor: TlsAcceptor, script: S) -> Receiver
    where
        S: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Receiver::serve(Some(acceptor), script).await
    }

    /// Answers every request with the same bytes.
    pub async fn answering(answer: &'static [u8]) -> Receiver {
        Receiver::start(move |mut peer| async move {
            while peer.request().await {
                peer.say(answer).await;
            }
        })
        .await
    }

    async fn serve<S, F>(acceptor: Option<TlsAcceptor>, script: S) -> Receiver
    where
        S: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Log {
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
            ended: Semaphore::new(0),
        });
        let script = Arc::new(script);
        let log_of_task = Arc::clone(&log);
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let log = Arc::clone(&log_of_task);
                let connection = log.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let io: Box<dyn Io> = match acceptor {
                        None => Box::new(tcp),
                        Some(acceptor) => match acceptor.accept(tcp).await {
                            Ok(tls) => Box::new(tls),
                            Err(_) => return,
                        },
                    };
                    script(Peer { io, connection, log: Arc::clone(&log) }).await;
                    log.ended.add_permits(1);
                });
            }
        });
        Receiver { port, log, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// Waits until one more connection is over.
    pub async fn ended(&self) {
        let over = tokio::time::timeout(super::AMPLE, self.log.ended.acquire()).await;
        over.expect("the receiver sees the connection end").unwrap().forget();
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.requests.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Peer {
    /// Reads one request to its end and notes it; false when the caller hung up instead.
    pub async fn request(&mut self) -> bool {
        let mut seen = Vec::new();
        loop {
            if let Some(head_bytes) = seen.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) {
                let head = String::from_utf8_lossy(&seen[..head_bytes]).to_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                if seen.len() >= head_bytes + length.unwrap_or("0").parse::<usize>().unwrap() {
                    self.log.requests.lock().unwrap().push(String::from_utf8_lossy(&seen).into_owned());
                    return true;
                }
            }
            let mut chunk = [0; 4096];
            match self.io.read(&mut chunk).await {
                Ok(0) | Err(_) => return false,
                Ok(bytes) => seen.extend_from_slice(&chunk[..bytes]),
            }
        }
    }

    /// False when the caller no longer listens.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.io.write_all(bytes.as_ref()).await.is_ok() && self.io.flush().await.is_ok()
    }

    /// Says the bytes over and over until the caller hangs up.
    pub async fn say_for_ever(&mut self, bytes: &[u8]) {
        while self.say(bytes).await {}
    }

    /// Says one byte each 40 ms until the caller hangs up; the pace is what is being tested.
    pub async fn drip(&mut self, text: &str) {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(40));
        for byte in text.bytes().cycle() {
            pace.tick().await;
            if !self.say([byte]).await {
                return;
            }
        }
    }

    /// Keeps quiet until the caller hangs up.
    pub async fn stall(&mut self) {
        while !matches!(self.io.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
    }
}
