//! One request and its answer on one connection.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{DATE, HeaderName, RETRY_AFTER};
use hyper::{HeaderMap, Request, Response, StatusCode};
use tokio::time::timeout;

use super::mask::mask;
use super::pool::{Connection, HYPER_BUFFER_BYTES_MIN, Pool};
use super::{Limits, Phase, Post, Progress, ReplyKind};
use crate::domain::error::with_causes;

pub(super) enum Exchange {
    Settled(ReplyKind),
    /// The connection ended without a byte of an answer. Whether that may be tried again, the caller knows.
    ClosedUnanswered {
        reason: String,
    },
}

/// Longer than any number or date; what is longer is not worth keeping.
const TIME_BYTES_MAX: usize = 64;

/// Not an `async fn`: the request goes to the connection here and now, instead of being part of the future that waits for its answer.
/// That is boxed, for it is handed on twice.
pub(super) fn exchange<'a>(
    mut connection: Connection,
    request: Request<Full<Bytes>>,
    post: &'a Post<'_>,
    limits: &'a Limits,
    pool: &'a Arc<Pool>,
    progress: &'a mut Progress,
) -> impl Future<Output = Exchange> + Send {
    progress.phase = Phase::FirstByte;
    progress.received = Some((connection.received.clone(), connection.received.bytes()));
    // hyper bounds a head, but takes any number of interim ones before it. As much again may be of the body, read ahead.
    let head_bytes_max = limits.response_header_bytes_max.max(HYPER_BUFFER_BYTES_MIN);
    connection.received.bound(Some(2 * head_bytes_max as u64));
    let answer = Box::pin(connection.sender.send_request(request));
    settle(connection, answer, post, limits, pool, progress)
}

async fn settle(
    connection: Connection,
    answer: impl Future<Output = hyper::Result<Response<Incoming>>> + Send + Unpin,
    post: &Post<'_>,
    limits: &Limits,
    pool: &Arc<Pool>,
    progress: &mut Progress,
) -> Exchange {
    let response = match head(answer, limits, progress).await {
        Ok(response) => response,
        Err(exchange) => return exchange,
    };
    connection.received.bound(None);
    let status = response.status();
    progress.phase = Phase::Body { status: status.as_u16() };
    let retry_after = time(response.headers(), RETRY_AFTER);
    let answered_at = retry_after.as_ref().and_then(|_| time(response.headers(), DATE));
    let (body, body_complete) = match read(response.into_body(), limits.response_body_bytes_max).await {
        Ok(read) => read,
        Err(error) => {
            let reason = format!("the body broke off: {}", with_causes(&error));
            return Exchange::Settled(ReplyKind::BadResponse { status: Some(status.as_u16()), reason });
        }
    };
    if body_complete && status != StatusCode::SWITCHING_PROTOCOLS {
        pool.keep(post.url.origin(), connection);
    }
    let body = mask(body, body_complete, post.mask);
    let status = status.as_u16();
    Exchange::Settled(ReplyKind::Answered { status, retry_after, answered_at, body, body_complete })
}

async fn head(
    mut answer: impl Future<Output = hyper::Result<Response<Incoming>>> + Send + Unpin,
    limits: &Limits,
    progress: &mut Progress,
) -> Result<Response<Incoming>, Exchange> {
    let answer = match timeout(limits.first_byte, &mut answer).await {
        Ok(answer) => answer,
        // Something is coming, if slowly: from here on the request's total is what bounds it.
        Err(_) if progress.answer_has_begun() => answer.await,
        Err(_) => return Err(Exchange::Settled(ReplyKind::TimedOut { phase: Phase::FirstByte })),
    };
    answer.map_err(|error| {
        if !progress.answer_has_begun() {
            let reason = format!("the connection was closed without an answer: {}", with_causes(&error));
            return Exchange::ClosedUnanswered { reason };
        }
        let reason = if error.is_parse_too_large() {
            "the answer's headers are too large".to_owned()
        } else {
            format!("the answer is not sound HTTP: {}", with_causes(&error))
        };
        Exchange::Settled(ReplyKind::BadResponse { status: None, reason })
    })
}

/// Reads at most `bytes_max`, and says whether that was all.
async fn read(mut incoming: Incoming, bytes_max: usize) -> hyper::Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    while !incoming.is_end_stream() {
        let room = bytes_max - body.len();
        if room == 0 {
            return Ok((body, false));
        }
        let Some(frame) = incoming.frame().await else { break };
        let Ok(data) = frame?.into_data() else { continue };
        body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

fn time(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let raw = headers.get(name)?.as_bytes();
    (raw.len() <= TIME_BYTES_MAX).then(|| String::from_utf8_lossy(raw).into_owned())
}
