//! `herald partners create` and `herald keys create` from outside, as somebody with a database and no key would use them.

use std::process::Stdio;

use herald::domain::partner_key::PartnerKey;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::cluster;

/// Exit code, standard output and standard error.
async fn herald(database_url: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.args(args).env("DATABASE_URL", database_url).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_first_partner_gets_a_key_that_opens() {
    let database = cluster::database().await;
    let (code, partner, _) = herald(&database.url(), &["partners", "create", "--name", "Café Example"]).await;
    assert_eq!(code, Some(0));
    let partner: Uuid = partner.trim_end().parse().unwrap();
    let named: String = sqlx::query_scalar("select name from partners where id = $1")
        .bind(partner)
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(named, "Café Example");

    let id = partner.to_string();
    let asked =
        ["keys", "create", "--partner", &id, "--scope", "operator,partner", "--expires-in-days", "30"];
    let (code, key, about) = herald(&database.url(), &asked).await;
    assert_eq!((code, about.as_str()), (Some(0), ""));
    let key = PartnerKey::parse(key.trim_end()).unwrap();
    let stored: (Uuid, Vec<u8>, Vec<String>, bool) = sqlx::query_as(
        "select partner_id, hash, scopes, expires_at - created_at between '29 days 23 hours' and '30 days' from api_keys where prefix = $1",
    )
    .bind(&key.prefix)
    .fetch_one(&database.pool)
    .await
    .unwrap();
    let scopes = vec!["partner".to_owned(), "operator".to_owned()];
    assert_eq!(stored, (partner, key.hash.as_bytes().to_vec(), scopes, true));
}

#[tokio::test]
async fn what_cannot_be_made_is_said_and_nothing_is_made() {
    let database = cluster::database().await;
    let nobody = Uuid::nil().to_string();
    for (args, code, said) in [
        (vec!["keys", "create", "--partner", &nobody, "--scope", "partner"], 1, "there is no partner"),
        (vec!["keys", "create", "--partner", "example", "--scope", "partner"], 1, "must be a uuid"),
        (
            vec!["keys", "create", "--partner", &nobody, "--scope", "admin"],
            2,
            "partner, producer and operator",
        ),
        (vec!["keys", "create", "--partner", &nobody], 2, "--scope"),
        (vec!["partners", "create", "--name", ""], 2, "must have 1 to 100 characters"),
        (vec!["partners", "create"], 2, "--name"),
    ] {
        let (ended, stdout, stderr) = herald(&database.url(), &args).await;
        assert_eq!((ended, stdout.as_str()), (Some(code), ""), "{args:?}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    let made: i64 =
        sqlx::query_scalar("select (select count(*) from partners) + (select count(*) from api_keys)")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(made, 0);
}

#[tokio::test]
async fn rule_10_a_database_that_cannot_be_used_is_named_without_its_password() {
    for url in ["", "mysql://herald:canary@localhost/herald", "postgres://herald:canary@127.0.0.1:1/herald"] {
        let (code, stdout, stderr) = herald(url, &["partners", "create", "--name", "Example"]).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.to_lowercase().contains("database") && !stderr.contains("canary"), "{stderr}");
    }
}
