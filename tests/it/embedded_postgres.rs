//! Herald's own PostgreSQL through everything that happens to it: first start, second start, kills, stale files, rivals.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use herald::embedded_postgres::{EmbeddedPostgres, Settings, StartError};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use crate::support::process::{assert_ends, kill_9, runs};
use crate::support::scratch::Scratch;

fn settings(data_dir: &Path) -> Settings {
    Settings { data_dir: data_dir.to_owned(), bin_dir: None }
}

async fn start(data_dir: &Path) -> EmbeddedPostgres {
    EmbeddedPostgres::start(settings(data_dir)).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn refused(data_dir: &Path) -> StartError {
    EmbeddedPostgres::start(settings(data_dir)).await.expect_err("it must not start")
}

/// Whatever the umask.
fn make_folder(path: &Path, mode: u32) {
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

async fn ask(postgres: &EmbeddedPostgres, sql: &'static str) -> String {
    let mut connection = postgres.connect_options().connect().await.unwrap();
    let answer = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    answer
}

async fn write_a_note(postgres: &EmbeddedPostgres) {
    let mut connection = postgres.connect_options().connect().await.unwrap();
    sqlx::raw_sql("create table notes (body text); insert into notes values ('kept')")
        .execute(&mut connection)
        .await
        .unwrap();
    // The connection is dropped as it is: a crash does not wait for goodbyes either.
}

async fn assert_note_is_there(postgres: &EmbeddedPostgres) {
    assert_eq!(ask(postgres, "select body from notes").await, "kept");
}

#[tokio::test]
async fn a_new_folder_becomes_a_durable_database_that_the_next_start_finds_again() {
    let folder = Scratch::new("cold");
    let first = start(folder.path()).await;
    for (sql, expected) in [
        ("show fsync", "on"),
        ("show synchronous_commit", "on"),
        ("show full_page_writes", "on"),
        ("show data_checksums", "on"),
        ("show server_encoding", "UTF8"),
        ("show max_wal_size", "1GB"),
        ("show wal_segment_size", "2MB"),
        ("show listen_addresses", ""),
        ("select current_database()::text", "herald"),
    ] {
        assert_eq!(ask(&first, sql).await, expected, "{sql}");
    }
    write_a_note(&first).await;
    assert!(first.description().contains(folder.path().to_str().unwrap()), "{}", first.description());
    let first_pid = first.pid();
    assert!(runs(first_pid));
    first.stop().await;
    assert!(!runs(first_pid), "stop returned before the server was gone");

    let second = start(folder.path()).await;
    assert_ne!(second.pid(), first_pid);
    assert_note_is_there(&second).await;
    second.stop().await;
}

#[tokio::test]
async fn an_interrupted_first_start_is_begun_again() {
    let folder = Scratch::new("interrupted");
    make_folder(folder.path(), 0o711);
    // What an initdb that was killed halfway leaves behind.
    std::fs::create_dir_all(folder.path().join("postgres-unfinished/base")).unwrap();
    start(folder.path()).await.stop().await;
    assert!(!folder.path().join("postgres-unfinished").exists());
}

#[tokio::test]
async fn a_killed_postmaster_is_noticed_and_the_next_start_recovers_what_was_committed() {
    let folder = Scratch::new("killed");
    let first = start(folder.path()).await;
    write_a_note(&first).await;
    kill_9(first.pid());
    timeout(Duration::from_secs(10), first.exited()).await.expect("exited() must resolve");

    let second = start(folder.path()).await;
    assert_note_is_there(&second).await;
    second.stop().await;
}

#[tokio::test]
async fn a_second_starter_is_told_so_and_the_first_goes_on() {
    let folder = Scratch::new("rival");
    let first = start(folder.path()).await;
    let error = refused(folder.path()).await;
    assert!(matches!(error, StartError::InUse(_)), "{error}");
    assert!(error.to_string().contains("HERALD_DATA_DIR"), "{error}");
    assert_eq!(ask(&first, "select 'still here'").await, "still here");
    first.stop().await;
}

#[tokio::test]
async fn a_stale_pid_file_is_no_obstacle_and_a_held_one_is_explained() {
    let folder = Scratch::new("stale");
    start(folder.path()).await.stop().await;
    let cluster = folder.path().join("postgres");
    let owner = cluster.metadata().unwrap();
    let pid_file = |pid: u32| {
        let path = cluster.join("postmaster.pid");
        std::fs::write(
            &path,
            format!("{pid}\n{}\n1\n5432\n/nowhere\n\n  1 1\nready   \n", cluster.display()),
        )
        .unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    };

    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    pid_file(gone.id());
    start(folder.path()).await.stop().await;

    // Held by a live process of the very user that PostgreSQL runs as: only the operator can know what that is.
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600");
    if owner.uid() != std::fs::metadata("/proc/self").map_or(owner.uid(), |me| me.uid()) {
        sleeper.uid(owner.uid()).gid(owner.gid());
    }
    let mut sleeper = Reaped(sleeper.spawn().unwrap());
    pid_file(sleeper.0.id());
    let begun = Instant::now();
    let error = refused(folder.path()).await;
    assert!(begun.elapsed() >= Duration::from_secs(5), "gave up after {:?}", begun.elapsed());
    let message = error.to_string();
    assert!(message.contains(&format!("process {} (sleep 600)", sleeper.0.id())), "{message}");

    // And once it is gone, the same folder works.
    sleeper.0.kill().unwrap();
    sleeper.0.wait().unwrap();
    start(folder.path()).await.stop().await;
}

#[tokio::test]
async fn missing_programs_are_answered_with_the_command_that_installs_them() {
    let folder = Scratch::new("missing");
    std::fs::create_dir(folder.path()).unwrap();
    let bin_dir = folder.path().join("empty");
    std::fs::create_dir(&bin_dir).unwrap();
    let chosen = Settings { data_dir: folder.path().join("data"), bin_dir: Some(bin_dir.clone()) };
    let error = EmbeddedPostgres::start(chosen).await.expect_err("there is nothing to start");
    assert!(matches!(error, StartError::UnusableBinDir { .. }), "{error}");
    assert!(error.to_string().contains(bin_dir.to_str().unwrap()), "{error}");

    let message = StartError::NoBinaries.to_string();
    assert!(message.contains("install"), "{message}");
    assert!(message.contains("DATABASE_URL"), "{message}");
}

#[tokio::test]
async fn a_postgresql_that_was_built_without_lz4_is_started_all_the_same() {
    const WITHOUT_LZ4: &str = r#"#!/bin/sh
        case " $* " in *" wal_compression=lz4 "*)
            echo 'FATAL:  invalid value for parameter "wal_compression": "lz4"' >&2
            exit 1
        esac
        exec "$0.usual" "$@"
    "#;
    let folder = Scratch::new("lz4");
    make_folder(folder.path(), 0o755);
    let usual = start(&folder.path().join("usual")).await;
    let programs = ask(&usual, "select setting from pg_config where name = 'BINDIR'").await;
    usual.stop().await;
    let bin_dir = folder.path().join("bin");
    make_folder(&bin_dir, 0o755);
    for (program, name) in [("initdb", "initdb"), ("postgres", "postgres.usual")] {
        symlink(Path::new(&programs).join(program), bin_dir.join(name)).unwrap();
    }
    std::fs::write(bin_dir.join("postgres"), WITHOUT_LZ4).unwrap();
    std::fs::set_permissions(bin_dir.join("postgres"), Permissions::from_mode(0o755)).unwrap();
    let chosen = Settings { data_dir: folder.path().join("data"), bin_dir: Some(bin_dir) };
    let without = EmbeddedPostgres::start(chosen).await.unwrap_or_else(|error| panic!("{error}"));
    let compression = ask(&without, "show wal_compression").await;
    assert!(["pglz", "on"].contains(&compression.as_str()), "{compression}");
    without.stop().await;
}

#[tokio::test]
async fn data_of_another_major_version_is_left_alone() {
    let folder = Scratch::new("major");
    let cluster = folder.path().join("postgres");
    make_folder(folder.path(), 0o711);
    std::fs::create_dir(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "11\n").unwrap();
    let message = refused(folder.path()).await.to_string();
    assert!(message.contains("made by PostgreSQL 11") && message.contains("Install it:"), "{message}");

    std::fs::rename(cluster.join("PG_VERSION"), cluster.join("holiday-pictures")).unwrap();
    let error = refused(folder.path()).await;
    assert!(matches!(error, StartError::NotACluster(_)), "{error}");
    assert!(cluster.join("holiday-pictures").exists());
}

/// Root's server runs as somebody else and needs a way in; anybody else's own folders are open to them.
#[tokio::test]
async fn a_data_folder_in_a_closed_one_is_refused_by_name_exactly_when_it_cannot_work() {
    let folder = Scratch::new("closed");
    make_folder(folder.path(), 0o700);
    let result = EmbeddedPostgres::start(settings(&folder.path().join("data"))).await;
    let root = folder.path().metadata().unwrap().uid() == 0;
    match result {
        Ok(postgres) => {
            assert!(!root);
            postgres.stop().await;
        }
        Err(error) => {
            assert!(root, "{error}");
            let hint = format!("chmod o+x {}", folder.path().canonicalize().unwrap().display());
            assert!(error.to_string().contains(&hint), "{error}");
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
            start(&folder.path().join("data")).await.stop().await;
        }
    }
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_works_and_leaves_nothing_elsewhere() {
    let folder = Scratch::new("long");
    let postgres = start(&folder.path().join("x".repeat(90)).join("data")).await;
    let socket_dir = postgres.connect_options().get_socket().cloned().unwrap();
    assert!(!socket_dir.starts_with(folder.path()), "{}", socket_dir.display());
    assert_eq!(socket_dir.metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(ask(&postgres, "select 'yes'").await, "yes");
    postgres.stop().await;
    assert!(!socket_dir.exists());
}

#[tokio::test]
async fn a_handle_that_is_merely_dropped_stops_the_server_too() {
    let folder = Scratch::new("dropped");
    let postgres = start(folder.path()).await;
    let pid = postgres.pid();
    drop(postgres);
    assert_ends(pid).await;
}

/// The whole program is killed; the database must not outlive it, and a start at once must find everything.
#[tokio::test]
async fn a_killed_server_takes_its_database_along_and_can_be_started_again_at_once() {
    let folder = Scratch::new("kill9");
    let (mut server, orphan) = start_in_a_process_of_its_own(folder.path());
    server.0.kill().unwrap();
    server.0.wait().unwrap();
    let postgres = start(folder.path()).await;
    assert!(!runs(orphan), "two servers on one folder");
    assert_note_is_there(&postgres).await;
    postgres.stop().await;

    // Without a next start that could clean up: only Linux tells a child that its parent died.
    if cfg!(target_os = "linux") {
        let (mut server, orphan) = start_in_a_process_of_its_own(folder.path());
        server.0.kill().unwrap();
        server.0.wait().unwrap();
        assert_ends(orphan).await;
    }
}

const SERVER_DIR: &str = "HERALD_TEST_SERVER_DIR";

/// Not a test: the process that the test above kills.
#[tokio::test]
#[ignore = "the other half of a test"]
async fn server_to_be_killed() {
    let Some(data_dir) = std::env::var_os(SERVER_DIR) else { return };
    let postgres = start(Path::new(&data_dir)).await;
    if ask(&postgres, "select count(*)::text from pg_tables where tablename = 'notes'").await == "0" {
        write_a_note(&postgres).await;
    }
    println!("\npostmaster={}", postgres.pid());
    postgres.exited().await;
}

fn start_in_a_process_of_its_own(data_dir: &Path) -> (Reaped, u32) {
    let server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded_postgres::server_to_be_killed", "--ignored", "--nocapture"])
        .env(SERVER_DIR, data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut server = Reaped(server);
    let output = BufReader::new(server.0.stdout.take().unwrap());
    let pid = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("postmaster=")?.parse().ok())
        .expect("the server says which process its database is");
    (server, pid)
}

/// A child that a failing test does not leave behind.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
