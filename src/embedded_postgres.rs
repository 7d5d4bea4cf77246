//! A private PostgreSQL for those who bring none: made, started, watched and stopped by Herald.
//!
//! It owns one folder and one child process. It knows nothing of Herald's tables, and nothing outside this module
//! knows whether the database is ours: everybody else is handed connection options. What is ours to get right:
//!
//! * **One owner per folder.** The kernel holds the lock for us, so it is gone when we are, however we went.
//! * **It never outlives us.** A stop is asked for and waited for; if we are killed, Linux sends the server its stop signal
//!   (`spawner`). Elsewhere the next start finds the orphan and stops it.
//! * **Ready means ours.** A server counts as started when it answers, our child is alive, and `postmaster.pid`
//!   names our child. Any weaker test happily talks to an orphan that is shutting down.
//! * **Nobody else gets in.** It listens on a Unix socket alone, in a folder that only its own user and root can enter.
//!   Whoever can enter it could as well rewrite the data files, so a password would protect nothing: hence `trust`.

mod binaries;
mod command;
mod folder;
mod spawner;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use binaries::Binaries;
use folder::Folder;
pub use folder::default_data_dir;
use spawner::OwnChild;

/// The superuser that `initdb` makes, and the database that it owns. Not an operating-system user.
const ROLE: &str = "herald";
const DATABASE: &str = "herald";

/// PostgreSQL's usual bounds; initdb makes them fit the size of a segment. In the cluster's own file, where an operator may change them.
const LOG_SIZE: &str = "min_wal_size = 80MB\nmax_wal_size = 1GB\n";

/// How long a new server may be refused its folder by an older one before we say who holds it.
const HELD_PATIENCE: Duration = Duration::from_secs(5);
/// An orphan of ours is known to be on its way out and may have a checkpoint to write first.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(30);
/// Recovery after a crash replays at most `max_wal_size` (1 GB): seconds normally, minutes on a very slow disk.
const READY_PATIENCE: Duration = Duration::from_secs(300);
/// A fast stop; then an immediate one, which loses nothing either, as the next start recovers; then no more questions.
const STOP_SIGNALS: [(libc::c_int, Duration); 3] = [
    (libc::SIGINT, Duration::from_secs(8)),
    (libc::SIGQUIT, Duration::from_secs(2)),
    (libc::SIGKILL, Duration::from_secs(2)),
];
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Where the database lives and, when it is not where packages put it, where its programs are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Holds the cluster (`postgres/`), its socket, its log and its lock. Made when missing.
    pub data_dir: PathBuf,
    /// A folder with `postgres` and `initdb`. `None` looks where packages put them, then in `PATH`.
    pub bin_dir: Option<PathBuf>,
}

/// Why there is no database. Every message says what the operator can do about it, and carries its cause in full.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "PostgreSQL's server programs (`postgres` and `initdb`, version {min} or newer) were not found.\n\
         Install them:  {install}\n\
         or point Herald to them (the folder that holds both), or set DATABASE_URL to use a database of your own.",
        min = binaries::MAJOR_MIN, install = binaries::install_command(None)
    )]
    NoBinaries,
    #[error("{bin_dir}: {problem}. Name the folder that holds PostgreSQL's `postgres` and `initdb` (version {min} or newer).",
        bin_dir = .bin_dir.display(), min = binaries::MAJOR_MIN)]
    UnusableBinDir { bin_dir: PathBuf, problem: String },
    #[error(
        "the data in {cluster} was made by PostgreSQL {major}, which is not installed here (found: {found}).\n\
         Install it:  {install}\n\
         or dump that data with PostgreSQL {major} and start with a new data folder.",
        cluster = .cluster.display(), install = binaries::install_command(Some(*.major))
    )]
    WrongMajor { cluster: PathBuf, major: u32, found: String },
    #[error(
        "another Herald is running on the data folder {data_dir}. Stop it first, or set HERALD_DATA_DIR to another folder.",
        data_dir = .0.display()
    )]
    InUse(PathBuf),
    #[error("{cluster} exists but holds no PostgreSQL data. Move it away, or set HERALD_DATA_DIR to another folder.",
        cluster = .0.display())]
    NotACluster(PathBuf),
    #[error(
        "PostgreSQL does not run as root, and the user it would run as ({user}) cannot enter {closed}.\n\
         Open that folder (chmod o+x {closed}), or set HERALD_DATA_DIR to a folder below an open one, such as /var/lib/herald.",
        closed = .closed.display()
    )]
    ClosedFolder { user: String, closed: PathBuf },
    #[error(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor a user `nobody` to run it as.\n\
         Make one (useradd --system postgres), or start Herald as an ordinary user."
    )]
    NoUnprivilegedUser,
    #[error(
        "the socket folder {socket_dir} belongs to somebody else. Remove it, or set HERALD_DATA_DIR to a shorter path.",
        socket_dir = .0.display()
    )]
    ForeignSocketFolder(PathBuf),
    #[error(
        "{cluster} is held by process {pid} ({command}). Stop that process; if it is not a PostgreSQL server and no other one \
         works on this folder, remove {cluster}/postmaster.pid. Then start again.\n{log}",
        cluster = .cluster.display()
    )]
    Held { cluster: PathBuf, pid: u32, command: String, log: String },
    #[error("PostgreSQL ended while starting ({status}). Its last words, from {log_file}:\n{log}",
        log_file = .log_file.display())]
    Ended { status: ExitStatus, log_file: PathBuf, log: String },
    #[error("PostgreSQL was not ready after {} s. Its last words, from {log_file}:\n{log}", READY_PATIENCE.as_secs(),
        log_file = .log_file.display())]
    NotReady { log_file: PathBuf, log: String },
    #[error("making a new database in {cluster} failed ({status}):\n{output}", cluster = .cluster.display())]
    Initdb { cluster: PathBuf, status: ExitStatus, output: String },
    #[error("PostgreSQL started but did not make the database `{DATABASE}`: {cause}. Its side of it is in {log_file}.",
        log_file = .log_file.display())]
    Database { log_file: PathBuf, cause: sqlx::Error },
    #[error("could not {doing} {path}: {cause}. Check that it belongs to the user who starts Herald, and that its disk is not full.",
        path = .path.display())]
    Io { doing: &'static str, path: PathBuf, cause: std::io::Error },
}

/// A running PostgreSQL of our own. Dropping it asks the server to stop; [`stop`](Self::stop) also waits until it has.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    socket_dir: PathBuf,
    cluster: PathBuf,
    major: u32,
    pid: u32,
    signals: mpsc::Sender<libc::c_int>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl EmbeddedPostgres {
    /// Makes the data folder when it is new, starts PostgreSQL on it and returns once it answers.
    ///
    /// Takes about 0.1 s, with a new folder a second. The server is bound to the calling runtime: when that ends, so does
    /// the server.
    pub async fn start(settings: Settings) -> Result<EmbeddedPostgres, StartError> {
        let folder = Folder::claim(&settings.data_dir).await?;
        let binaries = Binaries::find(settings.bin_dir.as_deref(), &folder)?;
        folder.check_reachable(&binaries.dir)?;
        if folder.major()?.is_none() {
            init_cluster(&binaries, &folder).await?;
        }
        folder.prepare_socket_dir()?;
        // From here on whatever fails drops the child, and that stops the server.
        let (child, pid) = start_or_say_who_holds_it(&binaries, &folder).await?;
        let log_file = folder.log_file();
        create_database(&folder).await.map_err(|cause| StartError::Database { log_file, cause })?;

        let (cluster, socket_dir) = (folder.cluster(), folder.socket_dir().to_owned());
        let (signals, asked) = mpsc::channel(4);
        let (tell_ended, ended) = watch::channel(None);
        tokio::spawn(watch_over(child, folder, asked, tell_ended));
        Ok(EmbeddedPostgres { socket_dir, cluster, major: binaries.major, pid, signals, ended })
    }

    /// How to reach Herald's database in it.
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.socket_dir, DATABASE)
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// One line for the operator: which PostgreSQL, where its data is, and how to look inside with `psql -h`.
    pub fn description(&self) -> String {
        let (cluster, socket_dir) = (self.cluster.display(), self.socket_dir.display());
        format!("PostgreSQL {} in {cluster} (psql -h {socket_dir} -U {ROLE} {DATABASE})", self.major)
    }

    /// Resolves when the server has ended, by itself or because it was asked to. Starting again is the caller's choice;
    /// the folder is free by then.
    pub async fn exited(&self) {
        // An error means that the watching task is gone, which it only is once the server is.
        let _ = self.ended.clone().wait_for(Option::is_some).await;
    }

    /// Ends all sessions, writes everything down, and waits until the server is gone.
    ///
    /// A server that does not manage this in 8 s is ended at once; the next start then replays its log. Nothing that was
    /// committed is lost either way.
    pub async fn stop(self) {
        for (signal, patience) in STOP_SIGNALS {
            // Sending fails only when the server has already ended.
            let _ = self.signals.send(signal).await;
            if timeout(patience, self.exited()).await.is_ok() {
                return;
            }
            tracing::warn!(pid = self.pid, signal, "PostgreSQL did not stop when asked to, insisting");
        }
    }
}

/// Options that depend on nothing in the environment that could lead elsewhere.
fn connect_options(socket_dir: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(folder::PORT)
        .username(ROLE)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}

/// Owns the child and the folder's lock until the child is gone, so that the lock is never free before the folder is.
/// The pid is only ever signalled here, before it has been waited for, so it cannot have passed to another process.
async fn watch_over(
    mut child: OwnChild,
    folder: Folder,
    mut asked: mpsc::Receiver<libc::c_int>,
    tell_ended: watch::Sender<Option<ExitStatus>>,
) {
    let mut owner_is_there = true;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            signal = asked.recv(), if owner_is_there => {
                // None: the handle was dropped without a stop. Then a fast stop is what it gets.
                owner_is_there = signal.is_some();
                child.signal(signal.unwrap_or(libc::SIGINT));
            }
        }
    };
    drop(folder);
    match status {
        Ok(status) => {
            tracing::debug!(%status, "PostgreSQL ended");
            tell_ended.send_replace(Some(status));
        }
        Err(error) => tracing::error!(%error, "lost sight of PostgreSQL"),
    }
}

/// Makes the cluster beside its final place and moves it there when complete: a kill halfway leaves nothing that looks
/// like data.
async fn init_cluster(binaries: &Binaries, folder: &Folder) -> Result<(), StartError> {
    let unfinished = folder.prepare_unfinished_cluster()?;
    let log_start = folder.log_bytes();
    let mut command = folder.command(&binaries.initdb())?;
    command.arg("-D").arg(&unfinished).args([
        "--username",
        ROLE,
        "--encoding=UTF8",
        "--locale=C",
        "--data-checksums",
        // Making a new one stops all commits for as long as it takes to write it.
        "--wal-segsize=2",
    ]);
    // Should somebody start this cluster by hand, with its default settings, then at least not with an open TCP port.
    command.args(["--auth-local=trust", "--auth-host=reject"]);

    let failed = |cause| StartError::Io { doing: "run", path: binaries.initdb(), cause };
    let status = spawner::spawn(command).await.map_err(failed)?.wait().await.map_err(failed)?;
    if !status.success() {
        let output = folder.log_since(log_start);
        return Err(StartError::Initdb { cluster: folder.cluster(), status, output });
    }
    folder.add_setting(&unfinished, LOG_SIZE)?;
    folder.finish_cluster(&unfinished)
}

/// Starts the server, and again for a while when an older one is still leaving the folder (after a `kill -9` of both,
/// say). PostgreSQL itself decides whether a pid file is stale, as only it also looks at the shared memory behind it.
async fn start_or_say_who_holds_it(
    binaries: &Binaries,
    folder: &Folder,
) -> Result<(OwnChild, u32), StartError> {
    let first_try = Instant::now();
    let mut patience = HELD_PATIENCE;
    let mut compression = command::QUICK_COMPRESSION;
    loop {
        if let Some(orphan) = our_orphan(folder) {
            spawner::send_signal(orphan, libc::SIGINT);
            patience = ORPHAN_PATIENCE;
        }
        let somebody_was_here = folder.pid_file().is_some();
        let log_start = folder.log_bytes();
        let (status, pid) = match start_once(binaries, folder, log_start, compression).await? {
            Started::Ready(child, pid) => return Ok((child, pid)),
            Started::Ended(status, pid) => (status, pid),
        };
        let log = folder.log_since(log_start);
        if compression == command::QUICK_COMPRESSION && log.contains(command::COMPRESSION) {
            compression = command::ANY_COMPRESSION;
            continue;
        }
        // A server that fails for a reason of its own takes its pid file with it; another one's stays.
        let Some(holder) = folder.pid_file().map(|file| file.pid).filter(|holder| *holder != pid) else {
            if somebody_was_here {
                // It left between being in our way and our asking who it was.
                continue;
            }
            return Err(StartError::Ended { status, log_file: folder.log_file(), log });
        };
        if first_try.elapsed() >= patience {
            let command = spawner::command_line(holder);
            let command = command.unwrap_or_else(|| "gone, but children of it remain".to_owned());
            return Err(StartError::Held { cluster: folder.cluster(), pid: holder, command, log });
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// A server that an earlier Herald started on this folder: as we hold the folder's lock, that Herald is gone.
/// One that somebody started by hand does not carry our mark and is left alone.
fn our_orphan(folder: &Folder) -> Option<u32> {
    let pid = folder.pid_file()?.pid;
    let command = spawner::command_line(pid)?;
    let ours = command.contains(command::OUR_MARK) && command.contains(&*folder.cluster().to_string_lossy());
    ours.then_some(pid)
}

enum Started {
    Ready(OwnChild, u32),
    Ended(ExitStatus, u32),
}

async fn start_once(
    binaries: &Binaries,
    folder: &Folder,
    log_start: u64,
    compression: &str,
) -> Result<Started, StartError> {
    let failed = |cause| StartError::Io { doing: "run", path: binaries.postgres(), cause };
    let mut child = spawner::spawn(command::server(binaries, folder, compression)?).await.map_err(failed)?;
    let pid = child.pid().expect("only a child that was waited for has lost its pid");
    let deadline = Instant::now() + READY_PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(Started::Ended(status, pid));
        }
        if folder.pid_file().is_some_and(|file| file.pid == pid && file.ready) && answers(folder).await {
            return Ok(Started::Ready(child, pid));
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(StartError::NotReady { log_file: folder.log_file(), log: folder.log_since(log_start) })
}

async fn answers(folder: &Folder) -> bool {
    let answer = async {
        let mut connection = connect_options(folder.socket_dir(), "postgres").connect().await?;
        sqlx::query("select 1").execute(&mut connection).await?;
        connection.close().await
    };
    matches!(timeout(Duration::from_secs(1), answer).await, Ok(Ok(())))
}

async fn create_database(folder: &Folder) -> Result<(), sqlx::Error> {
    let mut connection: PgConnection = connect_options(folder.socket_dir(), "postgres").connect().await?;
    let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = 'herald')")
        .fetch_one(&mut connection)
        .await?;
    if !there {
        sqlx::query("create database herald").execute(&mut connection).await?;
    }
    connection.close().await
}
