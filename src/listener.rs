//! A listening socket and its connections: bounded in number, impatient with slow headers and with who does not read, and drained on stop.
//! Knows no routes.

mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::{Service, ServiceExt as _};

use unread::Impatient;

/// A client that has not sent its whole header by then is let go (SECURITY rule 14). It also bounds an idle keep-alive connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// A client of whose answer nothing leaves for so long does not read, and is let go (SECURITY rule 14).
pub const UNREAD_WITHIN: Duration = Duration::from_secs(30);
/// What the kernel keeps of answers that a client has not taken yet; twice as much with what it counts beside them. It says that there is
/// room again when a third of that is free, so this decides how slow a reader may be: one of some 3 kB/s is seen to read within
/// [`UNREAD_WITHIN`], while the megabytes that Linux would grow to ask for fifteen times as much. One answer is seldom larger.
const UNREAD_BYTES_MAX: u32 = 128 * 1024;
/// Request headers altogether.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Connections that the kernel keeps until they are accepted, if it allows as many. A client that finds no place there is not told so; it asks again
/// after 1, 3 and 7 s. The library's 128 are soon taken by many who come at once.
const LINE_MAX: u32 = 4_096;
/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Or a server could not be started again while connections of the last one linger.
    socket.set_reuseaddr(true)?;
    // Connections have what their listening socket had.
    socket.set_send_buffer_size(UNREAD_BYTES_MAX)?;
    socket.bind(address)?;
    socket.listen(LINE_MAX)
}

/// Binds a listening socket. The error names the setting that chose the address.
pub fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, String> {
    listen(address).map_err(|error| {
        format!(
            "cannot listen on {address}: {error}; end what listens there, or set {setting} to another address"
        )
    })
}

/// What answers the requests of a listener.
pub trait Responder:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Responder for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// How much a listener takes upon itself, and for how long it waits for its clients.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Beyond these, clients wait in the kernel's line.
    pub connections_max: usize,
    /// How long nothing of an answer may leave: [`UNREAD_WITHIN`], but for tests.
    pub unread_within: Duration,
    /// How long requests may take that are under way when it stops.
    pub drain: Duration,
}

/// Has requests answered until told to stop; then lets those under way finish.
pub async fn serve(
    listener: TcpListener,
    responder: impl Responder,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(bounds.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        // The place is taken before the connection is: beyond the cap clients wait in the kernel's line.
        let place = tokio::select! {
            _ = stop.changed() => break,
            place = connections.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            _ = stop.changed() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection =
                    graceful.watch(connection(stream, peer, responder.clone(), bounds.unread_within));
                tokio::spawn(async move {
                    // A connection that breaks is the client's affair; what its requests did is logged where they are handled.
                    let _broken = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(bounds.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still under way when the time to drain was over");
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    responder: impl Responder,
    unread_within: Duration,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    // Answers are small and whole; waiting to fill a packet would only delay them.
    let _kept_waiting = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        // Who opened the connection; what that says of the client is for others to judge.
        request.extensions_mut().insert(ConnectInfo(peer));
        responder.clone().oneshot(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Impatient::new(stream, unread_within)), service)
}
