//! A tunnel through the operator's proxy: CONNECT, and from then on the stream is the receiver's.
//!
//! What the proxy answers is read byte by byte up to the end of its head, so that nothing of what follows is lost.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Of the proxy's answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Asks for a tunnel to `host:port`. The text of an error is for the operator.
pub(super) async fn open(proxy: &mut TcpStream, authority: &str) -> Result<(), String> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let said = |error: std::io::Error| format!("the egress proxy hung up: {error}");
    proxy.write_all(request.as_bytes()).await.map_err(said)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err("the egress proxy's answer is too large".to_owned());
        }
        head.push(proxy.read_u8().await.map_err(said)?);
    }
    match status(&head) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(format!("the egress proxy answered {status}")),
        None => Err("the egress proxy did not answer with HTTP".to_owned()),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let status = rest.get(..3).filter(|_| rest.len() == 3 || rest.as_bytes()[3] == b' ')?;
    matches!(version, "HTTP/1.0" | "HTTP/1.1").then(|| status.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_three_digits_of_an_http_answer() {
        for (head, expected) in [
            (&b"HTTP/1.1 200 Connection established\r\n\r\n"[..], Some(200)),
            (b"HTTP/1.0 200\r\n\r\n", Some(200)),
            (b"HTTP/1.1 407 Proxy Authentication Required\r\nX: y\r\n\r\n", Some(407)),
            (b"HTTP/1.1 2000 Odd\r\n\r\n", None),
            (b"HTTP/2 200\r\n\r\n", None),
            (b"HTTP/1.1 2x0 Odd\r\n\r\n", None),
            (b"HTTP/1.1 20\xc3\xa4\r\n\r\n", None),
            (b"SSH-2.0-x\r\n\r\n", None),
            (b"\r\n\r\n", None),
        ] {
            assert_eq!(status(head), expected, "{:?}", String::from_utf8_lossy(head));
        }
    }
}
