//! `herald health`: asks the server on this machine whether it is ready, for health checks of images that have no curl.
//! Knows the operator listener's address and nothing else of the server.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::listen::printable;
use crate::config;

/// A server that takes longer is not well either.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 16 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(clap::Args)]
pub struct HealthArgs {
    /// Where the server's operator side listens [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS:PORT", env = "HERALD_OPERATOR_LISTEN")]
    operator_listen: Option<String>,
}

/// Succeeds exactly when `/readyz` answers 200; else says why not.
pub async fn run(args: HealthArgs) -> ExitCode {
    let problem = match config::operator_listen(args.operator_listen.as_deref()) {
        Ok(listen) => {
            let address = reachable(listen);
            match tokio::time::timeout(ANSWER_WITHIN, readyz(address)).await {
                Ok(Ok((StatusCode::OK, _))) => return ExitCode::SUCCESS,
                Ok(Ok((status, said))) => {
                    format!("not ready: {status}\n{}", printable::line(said.trim_end()))
                }
                Ok(Err(error)) => format!("no answer from {address}: {error}"),
                Err(_elapsed) => format!("no answer from {address} within {} s", ANSWER_WITHIN.as_secs()),
            }
        }
        Err(problems) => problems.to_string(),
    };
    // Where even standard error is closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "herald health: {problem}");
    ExitCode::FAILURE
}

/// A server that listens on every address is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn readyz(address: SocketAddr) -> Result<(StatusCode, String), Failure> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/readyz").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.2:8081", "127.0.0.2:8081"),
            ("[2001:db8::1]:8081", "[2001:db8::1]:8081"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
