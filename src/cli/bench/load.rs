//! The load itself: the same requests driven two ways. A closed loop asks again when it is answered, and so finds out how fast it goes; an
//! open one asks on schedule, and counts what is late from when it was due.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::client::{Ask, Client};
use super::ledger::Ledger;
use super::stage::Place;
use crate::cli::listen::printable;

const SESSION: &str = r#"{"type":"NewCustomer","redirectData":{"successUrl":"https://shop.example/s","failureUrl":"https://shop.example/f","abortUrl":"https://shop.example/a","qrCodeSuccessUrl":"https://shop.example/q"}}"#;

/// What each event of a load asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Open the session that will be cancelled. Not entered in the ledger.
    Open,
    Cancel,
    /// No server in between: what it would deliver is posted to the callback at once.
    Bare,
    /// Publish events in requests of this many: batches, or one event by itself.
    Publish(usize),
}

pub struct Load {
    pub job: Job,
    pub to: SocketAddr,
    /// Of [`Job::Publish`]: the key of the producer. The others act as the partner concerned.
    pub key: String,
    pub places: Arc<Vec<Place>>,
    /// How many callbacks each event is for, all of one place.
    pub fan_out: u16,
    pub callbacks: u16,
    /// The one callback that all of it is for; otherwise they take turns.
    pub only: Option<u16>,
    /// Of each callback's events; nought where they have none.
    pub ordering_keys: u16,
    /// Of what is published.
    pub event_type: &'static str,
    /// Whether cancels have an `x-request-id`.
    pub request_ids: bool,
    /// The deliveries of the ledger to ask for.
    pub numbers: Range<usize>,
    pub ledger: Arc<Ledger>,
}

/// Asks for everything of the load, or as much as the time allows. Returns how long it took.
///
/// # Errors
/// A session that cannot be opened: then there is nothing to measure.
pub async fn closed_loop(load: Load, clients: u16, at_most: Option<Duration>) -> Result<Duration, String> {
    let (load, next, begun) = (Arc::new(load), AtomicUsize::new(0), Instant::now());
    next.store(load.numbers.start, Ordering::Relaxed);
    let next = Arc::new(next);
    let mut drivers = JoinSet::new();
    for _ in 0..clients {
        let (load, next) = (load.clone(), next.clone());
        drivers.spawn(async move {
            let mut client = Client::new(load.to);
            while at_most.is_none_or(|limit| begun.elapsed() < limit) {
                let first = next.fetch_add(load.step(), Ordering::Relaxed);
                if first >= load.numbers.end {
                    break;
                }
                load.ask(&mut client, first, load.ledger.now_ns()).await?;
            }
            Ok::<(), String>(())
        });
    }
    drivers.join_all().await.into_iter().collect::<Result<(), String>>()?;
    Ok(begun.elapsed())
}

/// Asks for every event of the load at its time. The schedule is kept by a thread of its own, whose sleep is finer than a runtime's timer,
/// and an event that finds no client free waits on the clock.
pub async fn open_loop(load: Load, clients: u16, rate_per_s: u32) -> Result<(), String> {
    open_loop_while(load, clients, rate_per_s, || true).await
}

/// The same for as long as `going` says so; the first event is asked for in any case, and what was asked for is waited for.
pub async fn open_loop_while(
    load: Load,
    clients: u16,
    rate_per_s: u32,
    going: impl Fn() -> bool + Send + 'static,
) -> Result<(), String> {
    let (load, (sender, due)) = (Arc::new(load), mpsc::unbounded_channel());
    let due = Arc::new(Mutex::new(due));
    let (begun, begun_ns, numbers) = (Instant::now(), load.ledger.now_ns(), load.numbers.clone());
    let pace = move || {
        for (place, number) in numbers.enumerate() {
            let after = Duration::from_secs_f64(place as f64 / f64::from(rate_per_s));
            std::thread::sleep(after.saturating_sub(begun.elapsed()));
            if place > 0 && !going() {
                return;
            }
            if sender.send((number, begun_ns + after.as_nanos() as u64)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("schedule".to_owned())
        .spawn(pace)
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let mut drivers = JoinSet::new();
    for _ in 0..clients {
        let (load, due) = (load.clone(), due.clone());
        drivers.spawn(async move {
            let mut client = Client::new(load.to);
            loop {
                let next = due.lock().await.recv().await;
                let Some((number, at_ns)) = next else { return Ok(()) };
                load.ask(&mut client, number, at_ns).await?;
            }
        });
    }
    drivers.join_all().await.into_iter().collect()
}

impl Load {
    /// How many deliveries one request is about.
    fn step(&self) -> usize {
        let events = if let Job::Publish(batch) = self.job { batch } else { 1 };
        events * usize::from(self.fan_out)
    }

    /// The first that an event is for, by the number of its first delivery.
    fn callback(&self, number: usize) -> u16 {
        self.only.unwrap_or((number % usize::from(self.callbacks)) as u16)
    }

    fn place(&self, callback: u16) -> &Place {
        &self.places[usize::from(callback / self.fan_out)]
    }

    /// One request. What is refused, or not answered, is counted and not tried again.
    async fn ask(&self, client: &mut Client, first: usize, at_ns: u64) -> Result<(), String> {
        let numbers = first..self.numbers.end.min(first + self.step());
        if self.job != Job::Open {
            numbers.clone().for_each(|number| self.ledger.ask(number, at_ns));
        }
        let callback = self.callback(first);
        let id = self.ledger.id(first, callback);
        let sent = match self.job {
            Job::Open => {
                self.send(client, Method::PUT, &format!("/redirect-sessions/{id}"), callback, SESSION).await
            }
            Job::Cancel => {
                let path = format!("/redirect-sessions/{id}/cancel");
                self.send(client, Method::POST, &path, callback, "").await
            }
            Job::Bare => post(client, id).await,
            Job::Publish(_) => self.publish(client, numbers.clone()).await,
        };
        match (sent, self.job) {
            (Ok((200..300, _)), Job::Open) => {}
            (Ok((200..300, _)), _) => numbers.for_each(|number| self.ledger.accept(number)),
            (Ok((status, said)), Job::Open) => {
                let said = String::from_utf8_lossy(&said);
                return Err(format!("a session was answered {status}: {}", printable::line(&said)));
            }
            (Err(error), Job::Open) => return Err(error),
            (Ok(_) | Err(_), _) => numbers.for_each(|_| self.ledger.refuse()),
        }
        Ok(())
    }

    async fn send(
        &self,
        client: &mut Client,
        method: Method,
        path: &str,
        callback: u16,
        body: &'static str,
    ) -> Result<(u16, Bytes), String> {
        let key = ("x-api-key", self.place(callback).key.as_str());
        let request_id = if self.request_ids { Uuid::now_v7().to_string() } else { String::new() };
        let headers = [key, ("x-request-id", &request_id)];
        let headers = if self.request_ids { &headers[..] } else { &headers[..1] };
        let body = Bytes::from_static(body.as_bytes());
        client.send(Ask { method, path, content_type: "application/json", headers, body }).await
    }

    async fn publish(
        &self,
        client: &mut Client,
        numbers: std::ops::Range<usize>,
    ) -> Result<(u16, Bytes), String> {
        let lines: String =
            numbers.step_by(usize::from(self.fan_out)).map(|number| self.line(number)).collect();
        let is_single = self.job == Job::Publish(1);
        let ask = Ask {
            method: Method::POST,
            path: "/events",
            content_type: if is_single { "application/json" } else { "application/x-ndjson" },
            headers: &[("x-api-key", &self.key)],
            body: Bytes::from(lines),
        };
        client.send(ask).await
    }

    /// One event to publish, by the number of its first delivery, with the data that a cancelled session has.
    fn line(&self, number: usize) -> String {
        let callback = self.callback(number);
        let (id, partner) = (self.ledger.id(number, callback), self.place(callback).partner);
        let turn = number / usize::from(self.callbacks);
        let key = turn.checked_rem(usize::from(self.ordering_keys));
        let key = key.map_or_else(String::new, |key| format!("\"orderingKey\":\"key-{key}\","));
        format!(
            "{{\"type\":\"{}\",\"partnerId\":\"{partner}\",{key}\"data\":{}}}\n",
            self.event_type,
            session_data(id)
        )
    }
}

fn session_data(id: Uuid) -> String {
    format!(
        r#"{{"id":"{id}","state":"Cancelled","type":"NewCustomer","createdOn":"2030-01-01T00:00:00Z","lastModifiedOn":"2030-01-01T00:00:01Z"}}"#
    )
}

/// The bare loop's one request: a body as a delivery has it, about 300 bytes, and its id.
async fn post(client: &mut Client, id: Uuid) -> Result<(u16, Bytes), String> {
    let body = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/bench","time":"2030-01-01T00:00:01Z","type":"RedirectSessionCancelled","data":{}}}"#,
        session_data(id)
    );
    let webhook_id = id.to_string();
    let ask = Ask {
        method: Method::POST,
        path: "/",
        content_type: "application/json",
        headers: &[("webhook-id", &webhook_id)],
        body: Bytes::from(body),
    };
    client.send(ask).await
}
