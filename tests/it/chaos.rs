//! Everything is killed at random moments under load, again and again, and nothing that was promised is lost (SECURITY rule 18).
//!
//! Three rounds by default, one of each kind. Longer, or again as it was:
//! `HERALD_CHAOS_ROUNDS=50 HERALD_CHAOS_SEED=1 cargo test --test it chaos -- --nocapture`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use herald::embedded_postgres::{EmbeddedPostgres, Settings};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::herald::{Herald, postmaster_pid};
use crate::support::partner::Partner;
use crate::support::process;
use crate::support::receiver::{Call, Receiver};
use crate::support::scratch::Scratch;

/// Leases that pass soon, so that a round takes seconds.
const QUICK: [(&str, &str); 2] = [("HERALD_LEASE_MS", "4000"), ("HERALD_DELIVERY_TIMEOUT_MS", "2000")];
const ROUNDS: usize = 3;
const SESSIONS_PER_ROUND: usize = 300;
const UNDER_WAY: usize = 32;
/// Published beside the cancels, with chosen ids, the events of every other batch under an ordering key of their own.
const BATCHES_PER_ROUND: usize = 8;
const EVENTS_PER_BATCH: usize = 10;

#[derive(Debug, Clone, Copy)]
enum Blow {
    Server,
    Postmaster,
    Backend,
}

const BLOWS: [Blow; 3] = [Blow::Server, Blow::Postmaster, Blow::Backend];

/// Chance that can be had again (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound as u64).unwrap()
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_nothing_is_lost_however_often_and_whatever_is_killed() {
    let seed = from_environment("HERALD_CHAOS_SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    let rounds = from_environment("HERALD_CHAOS_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    println!("HERALD_CHAOS_SEED={seed} HERALD_CHAOS_ROUNDS={rounds}");
    let mut chance = Chance(seed);
    let folder = Scratch::new("chaos");
    let receiver = Receiver::start().await;
    let mut herald = Arc::new(Herald::start(folder.path(), &QUICK).await);
    herald.subscribe(&receiver.url).await;

    let (mut sessions, mut batches, mut unanswered) = (Vec::new(), Vec::new(), 0);
    let first_blow = chance.below(BLOWS.len());
    for round in 0..rounds {
        // Each kind once, then as it comes.
        let kind = if round < BLOWS.len() { first_blow + round } else { chance.below(BLOWS.len()) };
        let blow = BLOWS[kind % BLOWS.len()];
        let opened = open_sessions(&herald).await;
        let after = 1 + chance.below(SESSIONS_PER_ROUND * 3 / 4);
        let pick = chance.below(usize::MAX);
        let published: Vec<Batch> =
            (0..BATCHES_PER_ROUND).map(|number| Batch::new(number % 2 == 0)).collect();
        let publishing: Vec<_> = published
            .iter()
            .map(|batch| {
                let (operator, batch) = (herald.operator(), batch.clone());
                tokio::spawn(async move { batch.publish(&operator).await })
            })
            .collect();
        let cancels = Cancels::begin(&herald, &opened);
        cancels.wait_for(after).await;
        match blow {
            Blow::Server => process::kill_9(herald.pid()),
            Blow::Postmaster => process::kill_9(postmaster_pid(folder.path())),
            Blow::Backend => kill_a_backend(folder.path(), pick),
        }
        let open = cancels.end().await;
        println!("round {round}: {blow:?} after {after} answers, {} cancels without an answer", open.len());
        unanswered += open.len();
        if matches!(blow, Blow::Server) {
            let Ok(killed) = Arc::try_unwrap(herald) else { panic!("every cancel has ended") };
            killed.reap().await;
            herald = Arc::new(Herald::start(folder.path(), &QUICK).await);
        }
        for session in open {
            settle(&herald, session).await;
        }
        for (batch, first) in published.iter().zip(publishing) {
            let first = first.await.unwrap();
            unanswered += usize::from(first.is_none());
            batch.settle(&herald.operator(), first).await;
        }
        sessions.extend(opened);
        batches.extend(published);
    }

    let events = batches.iter().flat_map(|batch| &batch.events);
    let all: HashSet<String> = sessions.iter().chain(events).map(Uuid::to_string).collect();
    let calls = receiver.wait_until("every cancel", |calls| all.is_subset(&sessions_of(calls))).await;
    assert_eq!(sessions_of(&calls), all, "none is invented");
    let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
    while !herald.deliveries_that("state=pending").await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "deliveries stay in the queue");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let Ok(herald) = Arc::try_unwrap(herald) else { panic!("nobody else has it") };
    assert!(herald.terminate().await.success());

    let calls = receiver.calls();
    batches.iter().filter(|batch| batch.is_ordered).for_each(|batch| batch.assert_arrived_in_order(&calls));
    let ids = webhook_ids(&calls);
    assert_history_is_true(folder.path(), &ids).await;
    println!(
        "accepted {}, arrived {}, duplicated {}, lost 0, first without an answer {unanswered}",
        all.len(),
        ids.len(),
        calls.len() - ids.len()
    );
}

async fn open_sessions(herald: &Arc<Herald>) -> Vec<Uuid> {
    let mut sessions = Vec::with_capacity(SESSIONS_PER_ROUND);
    while sessions.len() < SESSIONS_PER_ROUND {
        let opening = (0..UNDER_WAY.min(SESSIONS_PER_ROUND - sessions.len())).map(|_| {
            let herald = herald.clone();
            tokio::spawn(async move { open_in_the_end(&herald).await })
        });
        for session in opening.collect::<Vec<_>>() {
            sessions.push(session.await.unwrap());
        }
    }
    sessions
}

/// Opens a session as any partner would: a 503 means to come again, which the database's recovery from the last round may
/// still ask for although every cancel of that round had its answer.
async fn open_in_the_end(herald: &Herald) -> Uuid {
    let session = Uuid::new_v4();
    let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
    loop {
        match herald.try_to_open(session).await {
            (200, _) => return session,
            (503, _) => {}
            (status, body) => panic!("a session was answered {status}: {body}"),
        }
        assert!(std::time::Instant::now() < deadline, "the server does not come back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Cancels under way.
struct Cancels {
    answered: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<(Uuid, Option<u16>)>>,
}

impl Cancels {
    fn begin(herald: &Arc<Herald>, sessions: &[Uuid]) -> Self {
        let (answered, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let places = Arc::new(Semaphore::new(UNDER_WAY));
        let cancel = |session: &Uuid| {
            let (herald, places, session) = (herald.clone(), places.clone(), *session);
            let (answered, ended) = (answered.clone(), ended.clone());
            tokio::spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                let status = herald.cancel(session).await;
                answered.fetch_add(usize::from(status == Some(200)), Ordering::Relaxed);
                ended.fetch_add(1, Ordering::Relaxed);
                (session, status)
            })
        };
        let tasks = sessions.iter().map(cancel).collect();
        Self { answered, ended, tasks }
    }

    async fn wait_for(&self, count: usize) {
        while self.answered.load(Ordering::Relaxed) < count {
            assert!(self.ended.load(Ordering::Relaxed) < self.tasks.len(), "too few cancels were answered");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Those that got no answer, or one that says to come again.
    async fn end(self) -> Vec<Uuid> {
        let mut open = Vec::new();
        for task in self.tasks {
            let (session, status) = task.await.unwrap();
            assert!(matches!(status, Some(200 | 503) | None), "a cancel was answered {status:?}");
            open.extend((status != Some(200)).then_some(session));
        }
        open
    }
}

/// Events that are stored together or not at all. To their receiver they look like cancelled sessions.
#[derive(Clone)]
struct Batch {
    is_ordered: bool,
    events: Vec<Uuid>,
}

impl Batch {
    fn new(is_ordered: bool) -> Self {
        Self { is_ordered, events: (0..EVENTS_PER_BATCH).map(|_| Uuid::new_v4()).collect() }
    }

    fn lines(&self) -> String {
        let line = |event: &Uuid| {
            let mut line =
                json!({ "type": "RedirectSessionCancelled", "data": { "id": event }, "id": event });
            if self.is_ordered {
                line["orderingKey"] = json!(self.events[0]);
            }
            format!("{line}\n")
        };
        self.events.iter().map(line).collect()
    }

    /// The results, if they were answered at all.
    async fn publish(&self, operator: &Partner) -> Option<Vec<Value>> {
        let request =
            operator.request(Method::POST, "/events").header("content-type", "application/x-ndjson");
        let answer = request.body(self.lines()).send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        assert!(matches!(status, 202 | 503), "{status}: {text}");
        (status == 202).then(|| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Whoever got no answer publishes again, under the same ids; whoever got one is told the same once more.
    async fn settle(&self, operator: &Partner, first: Option<Vec<Value>>) {
        let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
        loop {
            if let Some(results) = self.publish(operator).await {
                assert!(results.iter().all(|result| result["matched"] == 1), "{results:?}");
                assert!(first.is_none_or(|first| first == results), "an id stands for one event");
                return;
            }
            assert!(std::time::Instant::now() < deadline, "the server does not come back");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// A duplicate after a crash may come late; what came first came in order.
    fn assert_arrived_in_order(&self, calls: &[Call]) {
        let mut arrived: Vec<String> = Vec::new();
        for session in calls.iter().map(Call::session) {
            if !arrived.contains(&session) && self.events.iter().any(|event| event.to_string() == session) {
                arrived.push(session);
            }
        }
        assert_eq!(arrived, self.events.iter().map(Uuid::to_string).collect::<Vec<_>>());
    }
}

/// What was not answered may have happened or not: asking until there is an answer settles it.
async fn settle(herald: &Herald, session: Uuid) {
    let deadline = std::time::Instant::now() + crate::support::partner::PATIENCE;
    loop {
        match herald.cancel(session).await {
            // Now, or already.
            Some(200 | 400) => return,
            Some(503) | None => {}
            status => panic!("a cancel was answered {status:?}"),
        }
        assert!(std::time::Instant::now() < deadline, "the server does not come back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// One of the processes that serve sessions. PostgreSQL then ends all the others too and recovers.
fn kill_a_backend(data_dir: &Path, pick: usize) {
    let postmaster = postmaster_pid(data_dir).to_string();
    let listed = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &postmaster]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let backends: Vec<u32> = listed
        .lines()
        .filter(|line| line.contains("[local]"))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(!backends.is_empty(), "the server has connections: {listed}");
    // It may have ended since.
    let _ = Command::new("kill").args(["-9", &backends[pick % backends.len()].to_string()]).status().unwrap();
}

fn sessions_of(calls: &[Call]) -> HashSet<String> {
    calls.iter().map(Call::session).collect()
}

/// How often each delivery arrived. Whatever arrived twice is the same delivery: one id for each session.
fn webhook_ids(calls: &[Call]) -> HashMap<Uuid, usize> {
    let mut ids = HashMap::new();
    for call in calls {
        *ids.entry(call.header("webhook-id").parse().unwrap()).or_default() += 1;
    }
    let pairs: HashSet<(String, &str)> =
        calls.iter().map(|call| (call.session(), call.header("webhook-id"))).collect();
    assert_eq!(pairs.len(), sessions_of(calls).len(), "a duplicate keeps its webhook-id");
    ids
}

/// The history says of each delivery that it ended once, as delivered, and speaks of those that arrived and no others.
async fn assert_history_is_true(data_dir: &Path, arrived: &HashMap<Uuid, usize>) {
    let settings = Settings { data_dir: data_dir.to_owned(), bin_dir: None };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap_or_else(|error| panic!("{error}"));
    let mut db: PgConnection = postgres.connect_options().connect().await.unwrap();
    let unfinished: i64 =
        sqlx::query_scalar("select count(*) from unfinished").fetch_one(&mut db).await.unwrap();
    assert_eq!(unfinished, 0);
    let ends: Vec<(Uuid, i64, i64, i64)> = sqlx::query_as(
        "select delivery_id, count(*) filter (where final_state is not null),
                count(*) filter (where final_state = 'delivered' and outcome = 'delivered'), count(*) filter (where outcome = 'delivered')
         from attempts group by delivery_id",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (delivery, finals, delivered, accepted) in &ends {
        assert_eq!((*finals, *delivered), (1, 1), "{delivery} ended once");
        let times = arrived.get(delivery).copied().unwrap_or_default();
        assert!((1..=times as i64).contains(accepted), "{delivery}: {accepted} told, {times} arrived");
    }
    assert_eq!(ends.len(), arrived.len());
    let events: i64 = sqlx::query_scalar("select count(*) from events").fetch_one(&mut db).await.unwrap();
    assert_eq!(events, i64::try_from(arrived.len()).unwrap(), "what was asked twice happened once");
    db.close().await.unwrap();
    postgres.stop().await;
}
