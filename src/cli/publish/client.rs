//! The conversation with the server: a batch is posted, again as often as it takes, until there is an answer to it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use url::Url;

use super::lines::Line;
use super::progress::Progress;
use crate::cli::listen::printable;
use crate::domain::error::with_causes;
use crate::domain::secret::Secret;

const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a server may be away, or ask for patience, before we give up.
const PATIENCE: Duration = Duration::from_secs(300);
const WAIT_UNLESS_TOLD: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

const SENT_AGAIN: &str = "is sent again without an id, and may have been published twice";

/// What a batch came to.
pub enum Reply {
    /// One for each line.
    Accepted(Vec<Published>),
    /// What is wrong, by the place of the line in the batch, from 1.
    Refused(BTreeMap<usize, Vec<String>>),
}

#[derive(Deserialize)]
pub struct Published {
    pub id: String,
    pub matched: i64,
}

pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    uri: Uri,
    api_key: HeaderValue,
    /// Whether the server has ever answered: one that has not is not waited for.
    answered: bool,
}

/// One try.
enum Try {
    Final(Reply),
    /// `doubtful`: what was sent may have been stored.
    Later {
        wait: Duration,
        why: String,
        doubtful: bool,
    },
}

/// A try without an answer.
struct Unanswered {
    why: String,
    /// There is nobody, or somebody who speaks no HTTP: nothing was stored, and nothing will change unless there was a server before.
    nobody: bool,
}

impl From<hyper_util::client::legacy::Error> for Unanswered {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<hyper::Error>());
        let speaks_no_http = cause.is_some_and(hyper::Error::is_parse);
        Self { why: with_causes(&error), nobody: error.is_connect() || speaks_no_http }
    }
}

impl Client {
    pub fn new(operator_url: &Url, api_key: &Secret) -> Result<Self, String> {
        if operator_url.scheme() != "http" {
            return Err("--operator-url must begin with http://; the operator side speaks no TLS".to_owned());
        }
        let uri = format!("{}/events", operator_url.as_str().trim_end_matches('/'));
        let mut api_key =
            HeaderValue::from_bytes(api_key.expose()).map_err(|_| "the API key cannot be sent".to_owned())?;
        api_key.set_sensitive(true);
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECTED_WITHIN));
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            uri: uri.parse().map_err(|error| format!("--operator-url: {error}"))?,
            api_key,
            answered: false,
        })
    }

    /// Posts a batch until it is answered for good, or our patience ends. Lines have ids, so that one that was stored without our hearing
    /// of it is recognised; one that has none is named when it is sent again in doubt.
    pub async fn post(&mut self, lines: &[Line], progress: &mut Progress) -> Result<Reply, String> {
        let mut body = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
        for line in lines {
            body.extend_from_slice(&line.text);
            body.push(b'\n');
        }
        let (body, give_up) = (Bytes::from(body), Instant::now() + PATIENCE);
        let mut unidentified: Vec<u64> =
            lines.iter().filter(|line| line.unidentified).map(|line| line.number).collect();
        loop {
            match self.try_once(body.clone(), lines.len()).await? {
                Try::Final(reply) => return Ok(reply),
                Try::Later { wait, why, doubtful } if Instant::now() + wait < give_up => {
                    if doubtful {
                        for number in unidentified.drain(..) {
                            progress.remark(number, SENT_AGAIN);
                        }
                    }
                    progress.waiting(wait, &why);
                    tokio::time::sleep(wait).await;
                }
                Try::Later { why, .. } => return Err(why),
            }
        }
    }

    async fn try_once(&mut self, body: Bytes, line_count: usize) -> Result<Try, String> {
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .header("x-api-key", self.api_key.clone())
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.http.request(request).await?;
            let (head, body) = response.into_parts();
            let lost = |why: String| Unanswered { why, nobody: false };
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            Ok((head, body.map_err(|error| lost(error.to_string()))?.to_bytes()))
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, exchange).await;
        let late = |_elapsed| Err(Unanswered { why: "no answer in time".to_owned(), nobody: false });
        let (head, body) = match answer.unwrap_or_else(late) {
            Ok(answer) => answer,
            Err(Unanswered { why, nobody }) => {
                let why = format!("{}: {why}", self.uri);
                if nobody && !self.answered {
                    return Err(why);
                }
                return Ok(Try::Later { wait: WAIT_UNLESS_TOLD, why, doubtful: !nobody });
            }
        };
        self.answered = true;
        match head.status {
            StatusCode::ACCEPTED => accepted(&body, line_count).map(|all| Try::Final(Reply::Accepted(all))),
            // Neither a server that is unwell nor a proxy before it says whether the batch was stored.
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT => {
                let told = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let wait = told.map_or(WAIT_UNLESS_TOLD, Duration::from_secs).min(WAIT_MAX);
                let doubtful = head.status != StatusCode::TOO_MANY_REQUESTS;
                Ok(Try::Later { wait, why: problem(head.status, &body), doubtful })
            }
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
                let complaints = complaints(&body);
                if complaints.is_empty() {
                    Err(problem(head.status, &body))
                } else {
                    Ok(Try::Final(Reply::Refused(complaints)))
                }
            }
            status => Err(problem(status, &body)),
        }
    }
}

fn accepted(body: &[u8], line_count: usize) -> Result<Vec<Published>, String> {
    let results: Result<Vec<Published>, _> =
        serde_json::Deserializer::from_slice(body).into_iter::<Published>().collect();
    let results = results.map_err(|error| format!("the server's answer cannot be read: {error}"))?;
    if results.len() == line_count {
        Ok(results)
    } else {
        Err(format!("the server answered {} of {line_count} lines", results.len()))
    }
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    field: String,
    message: String,
}

/// What is wrong with which line: `line 17: data` is the field, or `line 17` where the whole line is.
fn complaints(body: &[u8]) -> BTreeMap<usize, Vec<String>> {
    let mut complaints: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let problem = serde_json::from_slice::<Problem>(body);
    for Complaint { field, message } in problem.map(|problem| problem.errors).unwrap_or_default() {
        let Some(place) = field.strip_prefix("line ") else { continue };
        let (place, name) = place.split_once(": ").unwrap_or((place, ""));
        if let Ok(place) = place.parse() {
            complaints.entry(place).or_default().push(format!("{name} {message}").trim_start().to_owned());
        }
    }
    complaints
}

/// Whatever else the server says.
fn problem(status: StatusCode, body: &[u8]) -> String {
    let detail = serde_json::from_slice::<Problem>(body).map(|problem| problem.detail).unwrap_or_default();
    format!("the server answered {status} {}", printable::line(&detail)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_by_line() {
        let body = br#"{"errors":[{"field":"line 17: data","message":"is required"},{"field":"line 17: type","message":"is odd"},
            {"field":"line 2","message":"is no JSON"},{"field":"body","message":"x"},{"field":"line x","message":"x"}]}"#;
        let told = complaints(body);
        assert_eq!(told.keys().copied().collect::<Vec<_>>(), [2, 17]);
        assert_eq!(told[&17], ["data is required", "type is odd"]);
        assert_eq!(told[&2], ["is no JSON"]);
        assert!(complaints(b"nonsense").is_empty());
    }

    #[test]
    fn an_answer_has_a_result_for_each_line() {
        let body = b"{\"id\":\"a\",\"matched\":1}\n{\"id\":\"b\",\"matched\":0}\n";
        assert_eq!(accepted(body, 2).unwrap().len(), 2);
        assert!(accepted(body, 3).is_err());
        assert!(accepted(b"oops", 1).is_err());
    }
}
