//! One PostgreSQL for the whole test program, with its durability left on, and a fresh database for each test.
//!
//! It is Herald's own embedded one. It lives on a thread with a runtime of its own, because every test has its own
//! runtime, which ends with the test. When the program ends, `atexit` stops it and removes its folder; when the
//! program is killed, the kernel stops it and the next run removes the folder.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use herald::embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::mpsc;

use super::partner::PATIENCE;
use super::scratch::{self, Scratch};

/// What every test's database is a copy of.
const TEMPLATE: &str = "herald_template";

/// Dropping a database makes a checkpoint, after which everybody's pages are logged whole again.
const DROPPED_TOGETHER: usize = 32;

struct Cluster {
    /// Leads to the database `postgres`, in which nothing is kept.
    admin: PgConnectOptions,
    requests: mpsc::UnboundedSender<Request>,
}

enum Request {
    DropDatabase(String),
    Stop { done: std::sync::mpsc::Sender<()> },
}

static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();

fn cluster() -> &'static Cluster {
    let started = CLUSTER.get_or_init(|| {
        let (tell_started, started) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("test-cluster".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(run_cluster(tell_started));
            })
            .map_err(|error| error.to_string())?;
        let cluster = started.recv().map_err(|_| "the cluster's thread panicked".to_owned())??;
        stop_at_exit();
        Ok(cluster)
    });
    started.as_ref().unwrap_or_else(|problem| panic!("no PostgreSQL for the tests: {problem}"))
}

async fn run_cluster(tell_started: std::sync::mpsc::Sender<Result<Cluster, String>>) {
    scratch::sweep();
    let folder = Scratch::new("cluster");
    let settings = Settings { data_dir: folder.path().to_owned(), bin_dir: None };
    let postgres = match EmbeddedPostgres::start(settings).await {
        Ok(postgres) => postgres,
        Err(error) => return tell_started.send(Err(error.to_string())).unwrap(),
    };
    let admin = postgres.connect_options().database("postgres");
    if let Err(error) = make_template(&admin).await {
        postgres.stop().await;
        drop(folder);
        return tell_started.send(Err(error.to_string())).unwrap();
    }
    let (sender, mut requests) = mpsc::unbounded_channel();
    tell_started.send(Ok(Cluster { admin: admin.clone(), requests: sender })).unwrap();

    let (mut stop_asked_by, mut done_with) = (None, Vec::new());
    while let Some(request) = requests.recv().await {
        match request {
            Request::DropDatabase(name) => {
                done_with.push(name);
                if done_with.len() == DROPPED_TOGETHER {
                    drop_databases(&admin, &mut done_with).await;
                }
            }
            Request::Stop { done } => {
                stop_asked_by = Some(done);
                break;
            }
        }
    }
    postgres.stop().await;
    drop(folder);
    if let Some(done) = stop_asked_by {
        let _ = done.send(());
    }
}

async fn make_template(admin: &PgConnectOptions) -> Result<(), Box<dyn std::error::Error>> {
    execute(admin, format!("create database {TEMPLATE}")).await?;
    let pool = PgPoolOptions::new().max_connections(1).connect_with(admin.clone().database(TEMPLATE)).await?;
    herald::store::migrate(&pool, |_| {}).await?;
    // A database that somebody is connected to cannot be copied.
    pool.close().await;
    Ok(())
}

/// Best effort: the databases go with the cluster anyway, this only keeps a long run small.
async fn drop_databases(admin: &PgConnectOptions, names: &mut Vec<String>) {
    for name in names.drain(..) {
        let _ = execute(admin, format!("drop database if exists {name} with (force)")).await;
    }
}

async fn execute(options: &PgConnectOptions, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

/// The test program ends by `exit` without leaving `main`'s scope first, so no destructor of ours would run.
#[expect(unsafe_code, reason = "the standard library has no exit hook")]
fn stop_at_exit() {
    extern "C" fn stop() {
        let Some(Ok(cluster)) = CLUSTER.get() else { return };
        let (done, stopped) = std::sync::mpsc::channel();
        if cluster.requests.send(Request::Stop { done }).is_ok() {
            let _ = stopped.recv_timeout(Duration::from_secs(15));
        }
    }
    // SAFETY: `stop` is a plain function that does not unwind: nothing in it panics.
    let registered = unsafe { libc::atexit(stop) };
    assert_eq!(registered, 0, "the exit hook was refused");
}

/// A database of this test alone. It goes when this value does.
#[derive(Debug)]
pub struct TestDatabase {
    pub pool: PgPool,
    name: String,
    options: PgConnectOptions,
    /// How far this database's clock is ahead.
    ahead_us: AtomicI64,
}

/// Makes a database as Herald's migrations leave it.
pub async fn database() -> TestDatabase {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let admin = &cluster().admin;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    execute(admin, format!("create database {name} template {TEMPLATE}")).await.unwrap();
    let options = admin.clone().database(&name);
    let pool = PgPoolOptions::new().max_connections(8).connect_with(options.clone()).await.unwrap();
    TestDatabase { pool, name, options, ahead_us: AtomicI64::new(0) }
}

impl TestDatabase {
    /// For a server in this process.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// For a server in a process of its own, as its `DATABASE_URL`.
    pub fn url(&self) -> String {
        let socket_dir = self.options.get_socket().expect("the cluster listens on a socket only");
        let username = self.options.get_username();
        format!("postgres://{username}@localhost/{}?host={}", self.name, socket_dir.display())
    }

    /// Moves time on, for everything that asks this database what time it is.
    pub async fn advance(&self, by: chrono::Duration) {
        let by_us = by.num_microseconds().expect("a test moves time by less than 292,000 years");
        let ahead_us = self.ahead_us.fetch_add(by_us, Ordering::Relaxed) + by_us;
        // Plans into which the old function was inlined are made anew by themselves.
        let moved = format!(
            "create or replace function herald_now() returns timestamptz language sql stable parallel safe \
             as $$ select statement_timestamp() + interval '{ahead_us} microseconds' $$"
        );
        sqlx::query(AssertSqlSafe(moved)).execute(&self.pool).await.unwrap();
    }

    /// Returns once so many of its sessions, or more, wait for a lock.
    pub async fn until_waiting(&self, wanted: i64) {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let deadline = Instant::now() + PATIENCE;
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&self.pool).await.unwrap() < wanted {
            assert!(Instant::now() < deadline, "nobody waits");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let _ = cluster().requests.send(Request::DropDatabase(self.name.clone()));
    }
}
