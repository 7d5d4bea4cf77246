//! The surfaces as people with curl see them: the scripts of `tests/curl` against the built binary.

use std::path::Path;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::process::Command;

use crate::support::herald::{DEV_KEY, Herald};
use crate::support::scratch::Scratch;

#[tokio::test]
async fn every_code_of_the_error_table_has_its_curl_line() {
    let folder = Scratch::new("curl");
    let herald = Herald::start(folder.path(), &[]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/curl/redirect.sh");
    let said = Command::new(script).args([&herald.base, &herald.operator, DEV_KEY]).output().await.unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{stdout}{stderr}");
    assert!(stdout.lines().count() > 40, "it ran to its end: {stdout}");

    // A fault of ours: the table is gone.
    let options =
        PgConnectOptions::new().socket(folder.path().join("socket")).username("herald").database("herald");
    let mut database = PgConnection::connect_with(&options).await.unwrap();
    sqlx::query("alter table redirect_sessions rename to lost").execute(&mut database).await.unwrap();
    let url = format!("{}/redirect-sessions/00000000-0000-4000-8000-000000000000", herald.base);
    let key = format!("x-api-key: {DEV_KEY}");
    let said =
        Command::new("curl").args(["-s", "-w", " %{http_code}", "-H", &key, &url]).output().await.unwrap();
    let answer = String::from_utf8(said.stdout).unwrap();
    assert!(answer.contains("\"code\":\"GeneralErrorOccurred\"") && answer.ends_with(" 500"), "{answer}");
    assert!(
        !answer.contains("redirect_sessions") && !answer.contains("does not exist"),
        "nothing of the cause is told"
    );
    assert!(herald.terminate().await.success());
}

#[tokio::test]
async fn every_published_failure_of_a_notifications_update_has_its_curl_line() {
    let folder = Scratch::new("curl-notifications");
    let herald = Herald::start(folder.path(), &[]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/curl/notifications.sh");
    // It can run again over the same data.
    for _ in 0..2 {
        let said = Command::new(&script).args([&herald.base, DEV_KEY]).output().await.unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{stdout}{stderr}");
        assert!(stdout.lines().count() > 40, "it ran to its end: {stdout}");
        assert!(!stdout.contains(DEV_KEY), "it shows no key");
    }
    assert!(herald.terminate().await.success());
}
