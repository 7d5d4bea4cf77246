//! What keeps a server from starting, and a command from working on its database: said with its reason and with what to do about it.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::support::cluster;
use crate::support::herald::Herald;
use crate::support::partner::PATIENCE;
use crate::support::receiver::Receiver;
use crate::support::scratch::Scratch;

const RING: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What a command says on its way out; it must not get anywhere.
async fn refused(args: &[&str], settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(args);
    command.env("HERALD_LISTEN", "127.0.0.1:0").env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0");
    command.envs(settings.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}: {said}");
    said
}

fn development(url: &str) -> [(&str, &str); 3] {
    [("HERALD_MODE", "development"), ("DATABASE_URL", url), ("HERALD_SECRET_KEYS", RING)]
}

#[tokio::test]
async fn production_names_all_that_it_lacks_at_once() {
    let said = refused(&["serve"], &[("DATABASE_URL", "postgres://herald@127.0.0.1:1/herald")]).await;
    assert!(
        said.contains("HERALD_PUBLIC_URL is required") && said.contains("HERALD_SECRET_KEYS is required"),
        "{said}"
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_told_with_the_reason_of_its_refusal() {
    let database = cluster::database().await;
    let nowhere = "postgres://herald:canary@127.0.0.1:1/herald";
    let missing = database.url().replace("localhost/", "localhost/no_");
    for (url, reason) in [(nowhere, "refused"), (missing.as_str(), "does not exist")] {
        for command in ["serve", "migrate"] {
            let said = refused(&[command], &development(url)).await;
            assert!(said.contains(reason) && said.contains("DATABASE_URL is right"), "{command}: {said}");
            assert!(!said.contains("canary"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_schema_that_a_newer_herald_made_is_left_alone() {
    let database = cluster::database().await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (999999, 'newer', true, '', 0)",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    for command in ["serve", "migrate"] {
        let said = refused(&[command], &development(&database.url())).await;
        assert!(said.contains("upgraded by a newer Herald") && said.contains("restore a backup"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_is_named_by_its_setting() {
    let (database, folder) = (cluster::database().await, Scratch::new("authorities"));
    std::fs::create_dir_all(folder.path()).unwrap();
    let file = folder.path().join("authorities.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let url = database.url();
    let settings = [&development(&url)[..], &[("HERALD_EGRESS_CA_FILE", file.to_str().unwrap())]].concat();
    let said = refused(&["serve"], &settings).await;
    assert!(said.contains("HERALD_EGRESS_CA_FILE") && said.contains("PEM"), "{said}");
}

#[tokio::test]
async fn what_is_odd_is_told_at_start_and_a_database_that_can_only_be_read_once_a_minute() {
    let (database, folder) = (cluster::database().await, Scratch::new("odd"));
    std::fs::create_dir_all(folder.path()).unwrap();
    let (url, log) = (database.url(), folder.path().join("log"));
    let odd = [("HERALD_LISTN", "127.0.0.1:1"), ("HERALD_RETENTION_DAYS", "1")];
    let settings = [&development(&url)[..], &odd].concat();
    let place = std::fs::File::create(&log).unwrap().into();
    let herald = Herald::start_logging(folder.path(), &settings, place).await;
    let lines_with = |words: &str| {
        std::fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains(words)).count()
    };
    // Lines are written a moment after they were said, in their order.
    let is_logged = async |words: &str| {
        while lines_with(words) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    is_logged("HERALD_RETENTION_DAYS is shorter").await;
    assert_eq!((lines_with("HERALD_LISTN"), lines_with("HERALD_RETENTION_DAYS is shorter")), (1, 1));

    let mut other = database.pool.acquire().await.unwrap();
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&mut *other).await.unwrap();
    let only_read =
        sqlx::AssertSqlSafe(format!("alter database \"{name}\" set default_transaction_read_only = on"));
    sqlx::raw_sql(only_read).execute(&mut *other).await.unwrap();
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'herald'";
    assert_ne!(sqlx::query_scalar::<_, i64>(end).fetch_one(&mut *other).await.unwrap(), 0);
    let (status, _) = herald.ask(Method::GET, "/herald/v1/deliveries", None).await;
    assert_eq!(status, 503);
    is_logged("status=503").await;
    let all = std::fs::read_to_string(&log).unwrap();
    let why: Vec<&str> = all.lines().filter(|line| line.contains("takes no writes")).collect();
    assert!((1..=2).contains(&why.len()), "{all}");
    let says_so = |line: &&str| line.contains("no session of the database can be had");
    assert!(why.iter().all(says_so), "and nobody else says the same: {why:?}");
    drop(herald);
    let said = refused(&["migrate"], &development(&url)).await;
    assert!(said.contains("takes no writes"), "{said}");
}

/// As one that `less` shows, or a logging driver that waits for its disk: after 64 KiB, some 200 requests, nothing more fits into the pipe.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    let (database, folder) = (cluster::database().await, Scratch::new("unread"));
    std::fs::create_dir_all(folder.path()).unwrap();
    let url = database.url();
    let mut herald = Herald::start_logging(folder.path(), &development(&url), Stdio::piped()).await;
    let receiver = Receiver::start().await;
    herald.subscribe(&receiver.url).await;
    for _ in 0..400 {
        let (status, _) = herald.operator().ask(Method::GET, "/livez", None).await;
        assert_eq!(status, 200);
    }
    herald.cancel_one().await;
    receiver.wait_for(1).await;

    let mut log = herald.its_log();
    assert!(herald.terminate().await.success());
    let mut read = Vec::new();
    log.read_to_end(&mut read).await.unwrap();
    // What was said comes to more than that.
    assert!(read.len() > 60_000, "the pipe was full: {}", read.len());
}

#[tokio::test]
async fn who_cannot_start_ends_also_where_nobody_reads_why() {
    let (unread, mut log) = std::io::pipe().unwrap();
    // As much as fits.
    log.write_all(&[b'\n'; 64 * 1024]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(development("postgres://herald@127.0.0.1:1/herald")).args([
        "serve",
        "--listen",
        "127.0.0.1:0",
    ]);
    command.env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0").stdin(Stdio::null()).stderr(log).kill_on_drop(true);
    let status = tokio::time::timeout(PATIENCE, command.status()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(1));
    drop(unread);
}
