//! `herald partners` and `herald keys` from outside, as somebody with a database and no key would use them.

use std::process::Stdio;

use chrono::TimeDelta;
use herald::domain::partner_key::PartnerKey;
use serde_json::{Value, json};
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
async fn keys_are_listed_and_revoked_without_being_shown() {
    let database = cluster::database().await;
    let url = database.url();
    let run = async |args: &[&str]| {
        let (code, said, about) = herald(&url, args).await;
        assert_eq!((code, about.as_str()), (Some(0), ""), "{args:?}");
        said.trim_end().to_owned()
    };
    let create = ["partners", "create", "--name"];
    let (shop, other) =
        (run(&[&create[..], &["A Shop"]].concat()).await, run(&[&create[..], &["Other"]].concat()).await);
    assert_eq!(run(&["keys", "list", "--json"]).await, "[]");
    let key = async |partner: &str, more: &[&str]| {
        let args = [&["keys", "create", "--partner", partner, "--json", "--scope"], more].concat();
        serde_json::from_str::<Value>(&run(&args).await).unwrap()
    };
    let lasting = key(&shop, &["producer,partner"]).await;
    let ending = key(&shop, &["operator", "--expires-in-days", "1"]).await;
    let others = key(&other, &["partner"]).await;
    let id = |key: &Value| key["id"].as_str().unwrap().to_owned();

    let said = run(&["keys", "revoke", &id(&lasting)]).await;
    assert!(said.starts_with("revoked since "), "{said}");
    assert_eq!(run(&["keys", "revoke", &id(&lasting)]).await, said, "the first time counts");
    database.advance(TimeDelta::days(2)).await;

    let listed: Value = serde_json::from_str(&run(&["keys", "list", "--json"]).await).unwrap();
    let ids: Vec<&Value> = listed.as_array().unwrap().iter().map(|key| &key["id"]).collect();
    assert_eq!(ids, [&lasting["id"], &ending["id"], &others["id"]]);
    let first = &listed[0];
    assert_eq!(first["partnerId"], shop.as_str());
    assert_eq!(first["partnerName"], "A Shop");
    assert_eq!(first["scopes"], json!(["partner", "producer"]));
    assert_eq!((&first["prefix"], &first["createdAt"]), (&lasting["prefix"], &lasting["createdAt"]));
    assert!(first["revokedAt"].is_string() && first["expiresAt"].is_null());
    assert_eq!(listed[1]["expiresAt"], ending["expiresAt"]);
    let usable: Vec<&Value> = listed.as_array().unwrap().iter().map(|key| &key["usable"]).collect();
    assert_eq!(usable, [false, false, true]);

    let table = run(&["keys", "list", "--partner", &shop]).await;
    let place = table.find("STATE").unwrap();
    let states: Vec<&str> = table.lines().map(|line| line[place..].split(' ').next().unwrap()).collect();
    assert_eq!(states, ["STATE", "revoked", "expired"], "{table}");
    assert!(!table.contains("Other") && table.contains("A Shop"), "{table}");
    for key in [&lasting, &ending, &others] {
        let text = key["key"].as_str().unwrap();
        let (_, secret) = text.rsplit_once('_').unwrap();
        assert!(!table.contains(secret) && !listed.to_string().contains(secret));
        // Given for its id, it is not repeated either.
        let (code, said, about) = herald(&url, &["keys", "revoke", text]).await;
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(about.contains("keys list") && !about.contains(secret), "{about}");
    }
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
        (vec!["keys", "list", "--partner", &nobody], 1, "there is no such partner"),
        (vec!["keys", "revoke", &nobody], 1, "there is no key"),
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
