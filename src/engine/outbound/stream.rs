//! A connected stream, plain or TLS, that counts what has been received: whether a byte of an answer came back
//! decides whether a request may be sent again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(super) struct Stream {
    io: Io,
    received: Received,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Bytes received, above TLS.
#[derive(Clone, Default)]
pub(super) struct Received(Arc<Counted>);

struct Counted {
    bytes: AtomicU64,
    /// Beyond which nothing more is read.
    bytes_max: AtomicU64,
}

impl Default for Counted {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max: AtomicU64::new(u64::MAX) }
    }
}

impl Received {
    /// So far.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// Reads no more than so many from here on, and what may have been read ahead with them; or as many as come.
    pub(super) fn bound(&self, bytes_max: Option<u64>) {
        let bytes_max = bytes_max.map_or(u64::MAX, |more| self.bytes().saturating_add(more));
        self.0.bytes_max.store(bytes_max, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        match self.bytes() > self.0.bytes_max.load(Ordering::Acquire) {
            true => Err(io::Error::other("too much came before the answer's head was whole")),
            false => Ok(()),
        }
    }
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream) -> Stream {
        Stream { io: Io::Plain(tcp), received: Received::default() }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>) -> Stream {
        Stream { io: Io::Tls(Box::new(tls)), received: Received::default() }
    }

    pub(super) fn received(&self) -> Received {
        self.received.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.received.check()?;
        let filled_before = buf.filled().len();
        let result = ready!(match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        });
        let bytes = (buf.filled().len() - filled_before) as u64;
        self.received.0.bytes.fetch_add(bytes, Ordering::Release);
        match result {
            // Many servers hang up without TLS's goodbye. Where the length is declared, hyper still notices that
            // something is missing; where it is not, all that could be cut short is text we store for reading.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Io::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
