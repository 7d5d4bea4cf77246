//! Ordering keys within batches and across them, and all promises of batches at once, under load.

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
use chrono::TimeDelta;
use herald::config::RawConfig;
use herald::store::queue::{self, Walked};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use super::subscriber::{Subscriber, Told, numbers, subscribe, told};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::PATIENCE;
use crate::support::receiver::{Call, Receiver};

fn keys_of(call: &Call) -> Vec<String> {
    told(call).iter().map(|event| format!("{}{}", event.key, event.number)).collect()
}

#[tokio::test]
async fn a_failing_batch_holds_the_keys_that_are_in_it_and_no_others() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let patient = RawConfig { batch_linger_ms: Some("60000".to_owned()), ..settings() };
    let app = App::start(&database, patient).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 4).await;
    let event = |name: &str| {
        let (key, number) = name.split_at(1);
        subscriber.event(Some(key).filter(|key| *key != "-"), number.parse().unwrap())
    };
    let publish = async |names: &[&str]| {
        app.operator().publish(&names.iter().map(|name| event(name)).collect::<Vec<_>>()).await
    };
    receiver.reply([500]);
    let first = publish(&["a1", "b1", "a2", "-1"]).await;
    assert_eq!(keys_of(&receiver.wait_for(1).await[0]), ["a1", "b1", "a2", "1"]);
    for event in &first {
        app.wait_for_attempts(&app.delivery_of(event).await, 1).await;
    }
    publish(&["a3", "c1", "b2", "c2", "-2", "a4", "c3", "d1"]).await;
    let calls = receiver.wait_for(2).await;
    assert_eq!(keys_of(&calls[1]), ["c1", "c2", "2", "c3"], "other keys, and what has none, flow on");
    let waiting: i64 = sqlx::query_scalar("select count(*) from queue where waits and batch_id is null")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(waiting, 3, "a3, a4 and b2 wait for the batch");

    database.advance(TimeDelta::seconds(13)).await;
    let calls = receiver.wait_for(3).await;
    assert_eq!(calls[2].body, calls[0].body);
    // d1 has waited for others to fill its batch, and has them now.
    let calls = receiver.wait_for(4).await;
    assert_eq!(keys_of(&calls[3]), ["a3", "b2", "a4", "d1"]);
    app.stop().await;
}

#[tokio::test]
async fn one_key_alone_fills_batches_in_its_order() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 10).await;
    app.operator().publish(&subscriber.events(Some("a"), 0..95)).await;
    let all = |calls: &[Call]| numbers(calls).iter().map(Vec::len).sum::<usize>() >= 95;
    let calls = receiver.wait_until("all of them", all).await;
    assert_eq!(numbers(&calls).concat(), (0..95).collect::<Vec<u64>>());
    assert_eq!(calls.len(), 10, "full but for the last");
    app.stop().await;
}

#[tokio::test]
async fn what_expires_is_left_out_of_its_batch_and_the_next_of_its_key_stays_in() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let subscriber = subscribe(&database.pool, "order.paid", &receiver.url, 3).await;
    receiver.reply([500]);
    let events = app.operator().publish(&subscriber.events(Some("a"), 0..4)).await;
    let first = app.delivery_of(&events[0]).await;
    app.wait_for_attempts(&first, 1).await;
    app.stop().await;
    let old = "update queue set event_id = herald_uuid7_beside(herald_uuid7_floor(herald_now() - interval '40 days'))
               where delivery_id = $1::uuid";
    sqlx::query(old).bind(&first).execute(&database.pool).await.unwrap();
    let mut connection = database.pool.acquire().await.unwrap();
    let (expired, _) = queue::expire(&mut connection, 30, Walked::default(), 100).await.unwrap().unwrap();
    assert_eq!(expired, 1);
    drop(connection);
    database.advance(TimeDelta::seconds(13)).await;
    let app = App::start(&database, settings()).await;
    let calls = receiver.wait_for(3).await;
    assert_eq!(numbers(&calls), [vec![0, 1, 2], vec![1, 2], vec![3]]);
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    app.stop().await;
}

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

/// Some have no key; the numbers of each key count up.
fn events(subscriber: &Subscriber) -> Vec<Value> {
    let mut next: HashMap<usize, usize> = HashMap::new();
    (0..EVENTS_EACH)
        .map(|place| {
            let key = place * 31 % (KEYS + 1);
            let number = next.entry(key).or_default();
            *number += 1;
            let name = format!("k{key}");
            subscriber.event(Some(name.as_str()).filter(|_| key < KEYS), *number - 1)
        })
        .collect()
}

/// 10,000 events over 20 subscriptions with batches of 1 to 200, published to two nodes; a receiver that fails one post in five and restarts
/// once; five subscriptions that are paused meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_in_order_and_where_it_belongs_whatever_fails() {
    let database = cluster::database().await;
    let quick = || RawConfig { retry_delays_s: Some(["1"; 30].join(",")), ..settings() };
    let nodes = [App::start(&database, quick()).await, App::start(&database, quick()).await];
    let heard = Arc::<Heard>::default();
    // A port that is free.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut server = Some(Server::start(address, &heard).await);
    let mut subscribers = Vec::new();
    for (place, size) in SIZES.into_iter().enumerate() {
        let (name, url) = (format!("Type{place}"), format!("http://{address}/Type{place}"));
        subscribers.push(subscribe(&database.pool, &name, &url, size).await);
    }
    let turn = async |state: &str| {
        let ids: Vec<_> = subscribers[5..10].iter().map(|one| one.id.0).collect();
        let turned =
            sqlx::query("update subscriptions set state = $2, version = version + 1 where id = any ($1)");
        turned.bind(ids).bind(state).execute(&database.pool).await.unwrap();
    };
    // The events of all subscriptions, mixed, in requests of different sizes; of each key one after the other, now here, now there.
    let each: Vec<Vec<Value>> = subscribers.iter().map(events).collect();
    let all: Vec<Value> =
        (0..EVENTS_EACH).flat_map(|place| each.iter().map(move |of| of[place].clone())).collect();
    let (mut published, mut sizes) = (0, [1, 40, 400, 7, 150].into_iter().cycle());
    while published < all.len() {
        let request = &all[published..all.len().min(published + sizes.next().unwrap())];
        nodes[published % 2].operator().publish(request).await;
        let before = published;
        published += request.len();
        let passed = |mark: usize| before < mark && mark <= published;
        if passed(2_000) {
            turn("paused").await;
        }
        if passed(5_000) {
            drop(server.take());
        }
        if passed(6_000) {
            server = Some(Server::start(address, &heard).await);
        }
        if passed(8_000) {
            turn("active").await;
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
    judge(&heard.posts.lock().unwrap(), &subscribers);
    let left: (i64, i64) =
        sqlx::query_as("select (select count(*) from queue), (select count(*) from ordering_lines)")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(left, (0, 0), "nothing is left behind");
    for node in nodes {
        node.stop().await;
    }
    drop(server);
}

fn judge(posts: &[Post], subscribers: &[Subscriber]) {
    let sizes: HashMap<&str, i32> =
        subscribers.iter().map(|one| one.event_type.as_str()).zip(SIZES).collect();
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
