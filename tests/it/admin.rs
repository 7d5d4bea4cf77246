//! `herald migrate`, `herald partners` and `herald keys`, from outside.

use std::process::Output;

use herald::domain::partner_key::Scope;
use serde_json::Value;
use tokio::process::Command;

use crate::support::desk::Desk;

async fn herald(database_url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.env_clear().env("DATABASE_URL", database_url).args(args);
    command.output().await.unwrap()
}

async fn said(database_url: &str, args: &[&str]) -> String {
    let output = herald(database_url, args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_first_partner_and_key_are_made_on_the_database() {
    let desk = Desk::open().await;
    let url = desk.database.url();
    said(&url, &["migrate"]).await;
    let partner = said(&url, &["partners", "create", "--name", "Example Shop"]).await;
    let key = said(&url, &["keys", "create", "--partner", &partner, "--scope", "partner,operator"]).await;
    let caller = desk.hub.authenticate(&key).await.unwrap();
    assert_eq!(caller.partner.to_string(), partner);
    assert!(caller.scopes.contains(Scope::Operator) && !caller.scopes.contains(Scope::Producer));

    let json =
        ["keys", "create", "--partner", &partner, "--scope", "partner", "--expires-in-days", "2", "--json"];
    let json: Value = serde_json::from_str(&said(&url, &json).await).unwrap();
    desk.hub.authenticate(json["key"].as_str().unwrap()).await.unwrap();
    assert!(json["expiresAt"].is_string());
}

#[tokio::test]
async fn what_cannot_be_done_is_said_without_the_password() {
    let desk = Desk::open().await;
    let nobody = uuid::Uuid::now_v7().to_string();
    let keys = ["keys", "create", "--partner", &nobody, "--scope", "partner"];
    for (url, args, expected) in [
        (desk.database.url(), keys, "there is no partner"),
        (String::new(), keys, "DATABASE_URL is not set"),
        ("postgres://u:canary@127.0.0.1:none/d".to_owned(), keys, "DATABASE_URL is not"),
        (desk.database.url(), ["keys", "create", "--partner", "x", "--scope", "partner"], "--partner"),
        (desk.database.url(), ["keys", "create", "--partner", &nobody, "--scope", "root"], "scopes are"),
    ] {
        let output = herald(&url, &args).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(expected) && !told.contains("canary"), "{told}");
    }
}
