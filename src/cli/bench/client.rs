//! One HTTP connection of a load driver, opened again when it breaks. It never asks twice: whoever counts has to know what was asked.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cli::listen::printable;

/// A server that takes longer has failed the request.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What to ask for. Nothing here is kept beyond the request.
pub struct Ask<'a> {
    pub method: Method,
    pub path: &'a str,
    pub content_type: &'static str,
    pub headers: &'a [(&'static str, &'a str)],
    pub body: Bytes,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address, sender: None }
    }

    /// Status and body. Errors: a sentence; the connection is opened anew for the next request.
    pub async fn send(&mut self, ask: Ask<'_>) -> Result<(u16, Bytes), String> {
        let sent = tokio::time::timeout(ANSWER_WITHIN, self.try_send(ask)).await;
        let answered = match sent {
            Ok(answered) => answered.map_err(|error| format!("{}: {error}", self.address)),
            Err(_elapsed) => Err(format!("{}: no answer within {} s", self.address, ANSWER_WITHIN.as_secs())),
        };
        if answered.is_err() {
            self.sender = None;
        }
        answered
    }

    async fn try_send(
        &mut self,
        ask: Ask<'_>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header("host", self.address.to_string())
            .header("content-type", ask.content_type);
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(ask.body))?;
        let sender = self.connected().await?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    async fn connected(
        &mut self,
    ) -> Result<&mut SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // An error of the connection reaches the request that is on it.
            tokio::spawn(async move { drop(connection.await) });
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or_else(|| "not connected".into())
    }

    /// Sends JSON and reads JSON; anything but success is an error that repeats what the server said.
    pub async fn json(
        &mut self,
        method: Method,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let ask = Ask {
            method: method.clone(),
            path,
            content_type: "application/json",
            headers: &[("x-api-key", key)],
            body: Bytes::from(body.to_string()),
        };
        let (status, said) = self.send(ask).await?;
        if !(200..300).contains(&status) {
            let said = String::from_utf8_lossy(&said);
            return Err(format!("{method} {path} was answered {status}: {}", printable::line(&said)));
        }
        Ok(serde_json::from_slice(&said).unwrap_or(Value::Null))
    }
}
