//! The key of development, which opens everything and may have been chosen by hand: what it is worth once the same database is used in earnest.

use std::process::Stdio;

use herald::domain::key_ring::KeyRing;
use reqwest::{Method, StatusCode};
use tokio::process::Command;

use crate::support::cluster;
use crate::support::herald::{DEV_KEY, Herald};
use crate::support::partner::Partner;
use crate::support::scratch::Scratch;

#[tokio::test]
async fn rule_11_a_key_of_development_opens_nothing_in_production() {
    let (database, folder) = (cluster::database().await, Scratch::new("development-key"));
    std::fs::create_dir_all(folder.path()).unwrap();
    let ring = KeyRing::generate().1.expose_str().unwrap().to_owned();
    let start = async |mode: &str, key: &str| {
        let url = database.url();
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("HERALD_SECRET_KEYS", &ring),
            ("HERALD_MODE", mode),
            ("HERALD_PUBLIC_URL", if mode == "production" { "https://herald.example.com" } else { "" }),
            ("HERALD_DEV_API_KEY", key),
        ];
        Herald::start(folder.path(), &settings).await
    };
    let status = async |base: &str, key: &str, method: Method, path: &str| {
        Partner::new(base, key).ask(method, path, None).await.0
    };
    for chosen in [DEV_KEY, ""] {
        let development = start("development", chosen).await;
        let key = match chosen {
            "" => std::fs::read_to_string(folder.path().join("dev-api-key")).unwrap(),
            chosen => chosen.to_owned(),
        };
        assert_eq!(
            status(&development.base, &key, Method::GET, "/herald/v1/deliveries").await,
            StatusCode::OK
        );
        assert!(development.terminate().await.success());

        let production = start("production", "").await;
        for (base, method, path) in [
            (&production.base, Method::GET, "/herald/v1/deliveries"),
            (&production.operator, Method::POST, "/partners"),
            (&production.operator, Method::POST, "/events"),
        ] {
            assert_eq!(
                status(base, &key, method, path).await,
                StatusCode::UNAUTHORIZED,
                "{path} with {chosen:?}"
            );
        }
        assert!(production.terminate().await.success());
    }
    // Whoever goes back finds what was there.
    let development = start("development", DEV_KEY).await;
    assert_eq!(
        status(&development.base, DEV_KEY, Method::GET, "/herald/v1/deliveries").await,
        StatusCode::OK
    );
    assert!(development.terminate().await.success());
    let partners: i64 =
        sqlx::query_scalar("select count(*) from partners").fetch_one(&database.pool).await.unwrap();
    assert_eq!(partners, 1);
}

#[tokio::test]
async fn rule_09_outside_development_nothing_starts_without_a_key() {
    let (database, folder) = (cluster::database().await, Scratch::new("keyless"));
    for (mode, ring) in [(Some("production"), None), (None, None), (None, Some("")), (None, Some("k1:"))] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("DATABASE_URL", database.url()).env("HERALD_DATA_DIR", folder.path());
        command.env("HERALD_LISTEN", "127.0.0.1:0").env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0");
        command.env("HERALD_PUBLIC_URL", "https://herald.example.com");
        command
            .envs(mode.map(|mode| ("HERALD_MODE", mode)))
            .envs(ring.map(|ring| ("HERALD_SECRET_KEYS", ring)));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(crate::support::partner::PATIENCE, output).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("HERALD_SECRET_KEYS"),
            "{mode:?}, {ring:?}: {said}"
        );
        assert!(output.stdout.is_empty(), "it announces nothing");
    }
    assert!(!folder.path().join("secret-keys").exists(), "and makes up no key");
}
