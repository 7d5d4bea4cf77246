//! All promises of batches at once, under load, as a client of the published API lives through it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use herald::config::RawConfig;
use herald::domain::notification::EVENT_TYPES;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use super::subscriber::{Told, event, told};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{PATIENCE, Partner};
use crate::support::receiver::Call;

/// What came to which path, and how it was answered.
struct Post {
    path: String,
    events: Vec<Told>,
    id: String,
    accepted: bool,
}

#[derive(Default)]
struct Heard {
    posts: Mutex<Vec<Post>>,
    count: AtomicUsize,
    news: Notify,
}

impl Heard {
    fn accepted(&self) -> HashSet<Told> {
        let posts = self.posts.lock().unwrap();
        posts.iter().filter(|post| post.accepted).flat_map(|post| post.events.clone()).collect()
    }

    fn all(&self) -> HashSet<Told> {
        self.posts.lock().unwrap().iter().flat_map(|post| post.events.clone()).collect()
    }

    async fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE * 3;
        while self.accepted().len() < count {
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
            let _or_look_again = tokio::time::timeout(left, self.news.notified()).await;
            assert!(Instant::now() < deadline, "{} of {count} events came", self.accepted().len());
        }
    }
}

/// Every fifth post fails.
async fn hear(
    State(heard): State<Arc<Heard>>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let accepted = heard.count.fetch_add(1, Ordering::Relaxed) % 5 != 4;
    let events = told(&Call { path: path.clone(), headers, body, at: Instant::now() });
    heard.posts.lock().unwrap().push(Post { path, events, id, accepted });
    heard.news.notify_waiters();
    if accepted { StatusCode::NO_CONTENT } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// The receiver, on a runtime of its own: it goes with all of its connections.
struct Server(Option<Runtime>);

impl Server {
    async fn start(address: SocketAddr, heard: &Arc<Heard>) -> Server {
        let heard = heard.clone();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let serving = runtime.spawn(async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            let listener = socket.listen(1_024).unwrap();
            let router = Router::new()
                .route("/{path}", post(hear))
                .layer(DefaultBodyLimit::disable())
                .with_state(heard);
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        });
        serving.await.unwrap();
        Server(Some(runtime))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

const SIZES: [i32; 20] = [1, 2, 3, 5, 8, 10, 13, 20, 25, 32, 40, 50, 64, 75, 100, 120, 150, 175, 190, 200];
const EVENTS_EACH: usize = 500;
const KEYS: usize = 7;

/// The types that are subscribed to, one by each subscription.
fn types() -> &'static [&'static str] {
    &EVENT_TYPES[..SIZES.len()]
}

/// Those of the subscriptions that are paused meanwhile.
fn paused() -> &'static [&'static str] {
    &types()[5..10]
}

/// Makes a callback of this batch size and a subscription to one event type, both of its name.
async fn subscribe(partner: &Partner, event_type: &str, url: &str, batch_size: i32) {
    let authentication = json!({ "type": "B", "data": { "userName": "u", "password": "p" } });
    let callback =
        json!({ "name": event_type, "url": url, "batchSize": batch_size, "authentication": authentication });
    let subscription = json!({ "name": event_type, "callBackName": event_type, "eventTypes": [event_type] });
    for (path, wish) in [("callbacks", callback), ("subscriptions", subscription)] {
        let path = format!("/rest/api/v1.3/notifications/{path}");
        let (status, answer) = partner.ask(Method::POST, &path, Some(wish)).await;
        assert_eq!(status, 200, "{answer}");
    }
}

/// Gives those that are paused meanwhile this status.
async fn turn(partner: &Partner, status: &str) {
    for event_type in paused() {
        let wish = json!({ "callBackName": event_type, "eventTypes": [event_type], "status": status });
        let path = format!("/rest/api/v1.3/notifications/subscriptions/{event_type}");
        let (code, answer) = partner.ask(Method::PUT, &path, Some(wish)).await;
        assert_eq!((code, &answer["status"]), (200, &json!(status)), "{answer}");
    }
}

/// Some have no key; the numbers of each key count up.
fn events(event_type: &str) -> Vec<Value> {
    let mut next: HashMap<usize, usize> = HashMap::new();
    (0..EVENTS_EACH)
        .map(|place| {
            let key = place * 31 % (KEYS + 1);
            let number = next.entry(key).or_default();
            *number += 1;
            let name = format!("k{key}");
            event(event_type, Some(name.as_str()).filter(|_| key < KEYS), *number - 1)
        })
        .collect()
}

/// 10,000 events over 20 subscriptions with batches of 1 to 200, published to two nodes; a receiver that fails one post in five and restarts
/// once; five subscriptions that are paused meanwhile, by the one node and the other.
#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_in_order_and_where_it_belongs_whatever_fails() {
    let database = cluster::database().await;
    let quick = || RawConfig { retry_delays_s: Some(["1"; 30].join(",")), ..settings() };
    let nodes = [App::start(&database, quick()).await, App::start(&database, quick()).await];
    let heard = Arc::<Heard>::default();
    // A port that is free.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut server = Some(Server::start(address, &heard).await);
    for (event_type, size) in types().iter().zip(SIZES) {
        subscribe(&nodes[0], event_type, &format!("http://{address}/{event_type}"), size).await;
    }
    // The events of all subscriptions, mixed, in requests of different sizes; of each key one after the other, now here, now there.
    let each: Vec<Vec<Value>> = types().iter().map(|event_type| events(event_type)).collect();
    let all: Vec<Value> =
        (0..EVENTS_EACH).flat_map(|place| each.iter().map(move |of| of[place].clone())).collect();
    let (mut published, mut sizes) = (0, [1, 40, 400, 7, 150].into_iter().cycle());
    let mut paused_from = 0;
    while published < all.len() {
        let request = &all[published..all.len().min(published + sizes.next().unwrap())];
        nodes[published % 2].operator().publish(request).await;
        let before = published;
        published += request.len();
        let passed = |mark: usize| before < mark && mark <= published;
        if passed(2_000) {
            turn(&nodes[0], "PAUSED").await;
            paused_from = published;
        }
        if passed(5_000) {
            drop(server.take());
        }
        if passed(6_000) {
            server = Some(Server::start(address, &heard).await);
        }
        if passed(8_000) {
            judge_pause(&nodes[1], &heard, &all[paused_from..published]).await;
            turn(&nodes[1], "ACTIVE").await;
        }
    }
    heard.wait_for(all.len()).await;
    let all_recorded = "select count(*) from attempts where final_state = 'delivered'";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let recorded: i64 = sqlx::query_scalar(all_recorded).fetch_one(&database.pool).await.unwrap();
        if recorded == all.len() as i64 {
            break;
        }
        assert!(Instant::now() < deadline, "{recorded} outcomes are recorded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    judge(&heard.posts.lock().unwrap());
    let left: (i64, i64) =
        sqlx::query_as("select (select count(*) from unfinished), (select count(*) from ordering_lines)")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(left, (0, 0), "nothing is left behind");
    for node in nodes {
        node.stop().await;
    }
    drop(server);
}

/// Of what was published during a pause, nothing was sent, and all of it is held where its owner sees it.
async fn judge_pause(partner: &Partner, heard: &Heard, published: &[Value]) {
    let heard = heard.all();
    for event_type in paused() {
        let ours: Vec<&Value> = published.iter().filter(|event| event["type"] == *event_type).collect();
        let sent = ours.iter().filter(|event| heard.contains(&Told::of(&event["data"]))).count();
        let standing = partner.get(&format!("/herald/v1/subscriptions/notifications/{event_type}")).await;
        assert_eq!((sent, standing["state"].as_str()), (0, Some("paused")));
        assert!(
            standing["heldCount"].as_u64().unwrap() >= ours.len() as u64,
            "{} and {standing}",
            ours.len()
        );
    }
}

fn judge(posts: &[Post]) {
    let sizes: HashMap<&str, i32> = types().iter().copied().zip(SIZES).collect();
    let mut next: HashMap<(String, String), u64> = HashMap::new();
    let mut batch_of: HashMap<Told, String> = HashMap::new();
    let mut batches: HashMap<String, Vec<Told>> = HashMap::new();
    for post in posts {
        assert!(post.events.iter().all(|event| event.of == post.path), "to a wrong subscription");
        let size = usize::try_from(sizes[post.path.as_str()]).unwrap();
        assert!((1..=size).contains(&post.events.len()), "{} of {size} at most", post.events.len());
        let first = batches.entry(post.id.clone()).or_insert_with(|| post.events.clone());
        assert_eq!(*first, post.events, "a batch comes again as it was");
        for event in &post.events {
            let batch = batch_of.entry(event.clone()).or_insert_with(|| post.id.clone());
            assert_eq!(*batch, post.id, "what comes again comes under the same id");
            if event.key.is_empty() {
                continue;
            }
            let next = next.entry((event.of.clone(), event.key.clone())).or_default();
            assert!(event.number <= *next, "{event:?} came before {next}");
            *next += u64::from(event.number == *next);
        }
    }
    assert_eq!(batch_of.len(), SIZES.len() * EVENTS_EACH);
}
