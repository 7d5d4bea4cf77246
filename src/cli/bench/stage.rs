//! Where a run takes place: the server, the receivers, and a partner with a subscription for each callback. All of it is set-up; nothing here
//! is measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Method;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::client::{Ask, Client};
use super::ledger::Ledger;
use super::receiver::Receivers;
use super::scenario::Shape;
use super::server::Server;

/// How many places are made at once.
const MAKERS: usize = 16;
const KEY: &str = "bench-callback-key";
/// What is published to callbacks that take arrays.
pub const ARRAYS_TYPE: &str = "EMAIL_BOUNCED";

/// A partner, and the key to act as it. Its subscriptions deliver to as many callbacks in a row, those of the first place to the first.
#[derive(Debug, Clone)]
pub struct Place {
    pub partner: Uuid,
    pub key: String,
    /// The paths of what it has, those first that others hold on to.
    made: Vec<String>,
}

pub struct Stage {
    pub server: Server,
    pub receivers: Receivers,
    places: BTreeMap<Shape, Arc<Vec<Place>>>,
    first_run: u32,
    run: u32,
}

impl Stage {
    pub fn new(server: Server) -> Stage {
        // The lower byte counts up, so that runs of one command are told from those of another.
        let first_run = (Uuid::new_v4().as_u128() as u32) & 0x7fff_ff00;
        Stage { server, receivers: Receivers::new(), places: BTreeMap::new(), first_run, run: first_run }
    }

    /// A ledger for so many deliveries, which receivers enter into from now on.
    pub fn begin(&mut self, deliveries: usize, fan_out: u16) -> Arc<Ledger> {
        self.run += 1;
        let ledger = Arc::new(Ledger::new(self.first_run, self.run, deliveries, fan_out));
        self.receivers.enter_into(&ledger);
        ledger
    }

    /// The partners whose callbacks are like this.
    pub fn places(&self, shape: Shape) -> Arc<Vec<Place>> {
        self.places.get(&shape).cloned().unwrap_or_default()
    }

    /// Sees to it that there are at least so many callbacks, and a partner for as many of them as it has, with a subscription for each.
    pub async fn grow(&mut self, callbacks: u16, shape: Shape) -> Result<(), String> {
        self.receivers.grow(callbacks).await?;
        let mut places = self.places(shape).to_vec();
        let Shape { fan_out, batch_size } = shape;
        while places.len() < usize::from(callbacks / fan_out) {
            let mut makers = JoinSet::new();
            for number in (places.len()..usize::from(callbacks / fan_out)).take(MAKERS) {
                let first = number as u16 * fan_out;
                let of_place = (first..first + fan_out).map(|callback| self.receivers.address(callback));
                let urls = of_place.map(|address| format!("http://{address}/")).collect();
                let (api, operator) = (Client::new(self.server.api), Client::new(self.server.operator));
                makers.spawn(make_place((api, operator), self.server.key.clone(), urls, batch_size, number));
            }
            let mut made = makers.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
            made.sort_by_key(|(number, _)| *number);
            places.extend(made.into_iter().map(|(_, place)| place));
        }
        self.places.insert(shape, Arc::new(places));
        Ok(())
    }

    /// Deliveries that wait in the database, due now or later.
    pub async fn pending(&self, operator: &mut Client) -> Result<u64, String> {
        let ask = Ask {
            method: Method::GET,
            path: "/metrics",
            content_type: "text/plain",
            headers: &[],
            body: bytes::Bytes::new(),
        };
        let (_, text) = operator.send(ask).await?;
        let text = String::from_utf8_lossy(&text);
        let waiting = text.lines().find_map(|line| line.strip_prefix("herald_queue_pending "));
        let waiting = waiting.and_then(|number| number.trim().parse().ok());
        waiting.ok_or_else(|| "/metrics does not tell the queue's length".to_owned())
    }

    /// Takes back what was made on somebody else's server, as far as that can be.
    pub async fn strike(self) -> Result<(), String> {
        if !self.server.is_ours() {
            let mut api = Client::new(self.server.api);
            for place in self.places.values().flat_map(|places| places.iter()) {
                for path in &place.made {
                    api.json(Method::DELETE, path, &place.key, &json!({})).await?;
                }
            }
        }
        self.server.dismiss().await
    }
}

async fn make_place(
    (mut api, mut operator): (Client, Client),
    key: String,
    urls: Vec<String>,
    batch_size: u16,
    number: usize,
) -> Result<(usize, Place), String> {
    let name = json!({ "name": format!("bench {number}") });
    let partner = operator.json(Method::POST, "/partners", &key, &name).await?;
    let partner = partner["id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
    let partner = partner.ok_or("a new partner has no id")?;
    let scopes = json!({ "scopes": ["partner"] });
    let made = operator.json(Method::POST, &format!("/partners/{partner}/keys"), &key, &scopes).await?;
    let key = made["key"].as_str().ok_or("a new key is not shown")?.to_owned();
    let mut made = Vec::new();
    for url in urls {
        made.extend(match batch_size {
            1 => subscribe(&mut api, &key, &url).await?,
            _ => subscribe_to_arrays(&mut api, &key, &url, batch_size).await?,
        });
    }
    Ok((number, Place { partner, key, made }))
}

/// Subscribes a callback to cancelled sessions. Returns the paths of what was made.
async fn subscribe(api: &mut Client, key: &str, url: &str) -> Result<Vec<String>, String> {
    let path = format!("/redirect-session-events/subscriptions/{}", Uuid::new_v4());
    let wanted = json!({ "callbackUrl": url, "apiKey": KEY, "eventTypes": ["RedirectSessionCancelled"] });
    api.json(Method::PUT, &path, key, &wanted).await?;
    Ok(vec![path])
}

/// Subscribes a callback that takes so many at once to [`ARRAYS_TYPE`].
async fn subscribe_to_arrays(
    api: &mut Client,
    key: &str,
    url: &str,
    batch_size: u16,
) -> Result<Vec<String>, String> {
    let [callbacks, subscriptions] =
        ["callbacks", "subscriptions"].map(|what| format!("/rest/api/v1.3/notifications/{what}"));
    let authentication = json!({ "type": "B", "data": { "userName": "bench", "password": KEY } });
    let callback =
        json!({ "name": "bench", "url": url, "batchSize": batch_size, "authentication": authentication });
    api.json(Method::POST, &callbacks, key, &callback).await?;
    let wanted = json!({ "name": "bench", "callBackName": "bench", "eventTypes": [ARRAYS_TYPE] });
    api.json(Method::POST, &subscriptions, key, &wanted).await?;
    Ok(vec![format!("{subscriptions}/bench"), format!("{callbacks}/bench")])
}
