//! `herald keys rotate` from outside: while nodes work, cut short, over what it cannot open, and refused.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use herald::domain::key_ring::KeyRing;
use herald::store::sealed::SEALED_COLUMNS;
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::{CALLBACK_KEY, PATIENCE, Partner, text};
use crate::support::receiver::Receiver;
use crate::support::scratch::Scratch;

/// Columns of bytes that hold nothing sealed, or what is forgotten within a day.
const NOT_SEALED: [(&str, &str); 12] = [
    ("access_tokens", "hash"),
    ("api_keys", "hash"),
    ("attempts", "response"),
    ("event_keys", "content_hash"),
    ("events", "payload"),
    ("idempotency", "answer"),
    ("idempotency", "fingerprint"),
    ("redirect_session_contents", "content"),
    ("redirect_session_contents", "content_digest"),
    ("subscription_event_types", "exclusive_in"),
    ("webhooks", "recipient_key"),
    ("_sqlx_migrations", "checksum"),
];

/// A ring's text of these keys, each its own for this test program.
fn ring(ids: &[&str]) -> String {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex};
    static KEYS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
    let mut keys = KEYS.lock().unwrap();
    let mut entry = |id: &&str| {
        let key = keys.entry((*id).to_owned()).or_insert_with(|| {
            KeyRing::generate().1.expose_str().unwrap().split_once(':').unwrap().1.to_owned()
        });
        format!("{id}:{key}")
    };
    ids.iter().map(&mut entry).collect::<Vec<_>>().join(",")
}

fn command(database: &TestDatabase, ring: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.args(["keys", "rotate"]).args(args).env("DATABASE_URL", database.url());
    command.env("HERALD_SECRET_KEYS", ring).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Whether it went well, and what it said on standard output and on standard error.
async fn rotate(database: &TestDatabase, ring: &str, args: &[&str]) -> (bool, String, String) {
    let output = command(database, ring, args).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// How many sealed values begin otherwise than what the ring's first key seals.
async fn stale(database: &TestDatabase, ring: &str) -> i64 {
    let header = KeyRing::parse(ring).unwrap().current_header();
    let mut all = 0;
    for of in SEALED_COLUMNS {
        let (table, column) = (of.table, of.column);
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "select count(*) from {table} where {column} is not null and position($1 in {column}) <> 1"
        )))
        .bind(&header)
        .fetch_one(&database.pool)
        .await
        .unwrap();
        all += count;
    }
    all
}

/// Sessions as an old key left them, so many that sealing them anew takes a while.
async fn sessions(database: &TestDatabase, ring: &str, count: usize) -> Uuid {
    let (keys, partner) = (KeyRing::parse(ring).unwrap(), Uuid::now_v7());
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let token = |id: &Uuid| keys.seal(&format!("redirect_sessions/{partner}/{id}/token"), id.as_bytes());
    let tokens: Vec<Vec<u8>> = ids.iter().map(token).collect();
    sqlx::query(
        "insert into redirect_session_contents (partner_id, id, content, content_digest, token)
         select $1, id, '', decode(repeat('00', 32), 'hex'), token from unnest($2::uuid[], $3::bytea[]) as s (id, token)",
    )
    .bind(partner)
    .bind(&ids)
    .bind(&tokens)
    .execute(&database.pool)
    .await
    .unwrap();
    partner
}

/// Whether every session's token opens with this ring and is what it was.
async fn assert_tokens(database: &TestDatabase, ring: &str, partner: Uuid) {
    let keys = KeyRing::parse(ring).unwrap();
    let rows: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("select id, token from redirect_session_contents where partner_id = $1")
            .bind(partner)
            .fetch_all(&database.pool)
            .await
            .unwrap();
    for (id, token) in rows {
        let opened = keys.open(&format!("redirect_sessions/{partner}/{id}/token"), &token).unwrap();
        assert_eq!(opened.expose(), id.as_bytes());
    }
}

#[tokio::test]
async fn rule_09_every_column_of_bytes_is_rotated_or_known_to_hold_nothing_sealed() {
    let database = cluster::database().await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select c.table_name::text, c.column_name::text from information_schema.columns c
         join pg_class t on t.relname = c.table_name and t.relnamespace = 'public'::regnamespace
         where c.table_schema = 'public' and c.data_type = 'bytea' and not t.relispartition order by 1, 2",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert!(columns.len() >= SEALED_COLUMNS.len());
    for (table, column) in columns {
        let sealed = SEALED_COLUMNS.iter().any(|of| (of.table, of.column) == (&table, &column));
        let not = NOT_SEALED.contains(&(table.as_str(), column.as_str()));
        assert!(sealed != not, "{table}.{column}: is it sealed, and then in store::sealed, or is it not?");
    }
}

/// One partner at work until told to stop: sessions, new credentials, new signing keys. Returns the last api key of its callback.
async fn work(partner: Partner, subscription: Uuid, over: Arc<AtomicBool>) -> (String, usize) {
    let (mut key, mut cancelled) = (String::new(), 0);
    while !over.load(Ordering::Relaxed) {
        key = format!("key-{}", Uuid::new_v4());
        partner.change(subscription, json!({ "apiKey": key })).await;
        partner.roll_signing_key(subscription).await;
        partner.cancel_one().await;
        cancelled += 1;
    }
    (key, cancelled)
}

#[tokio::test]
async fn rule_09_keys_are_rotated_while_nodes_work_and_nothing_is_lost() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (old, both, new) = (ring(&["k1"]), ring(&["k2", "k1"]), ring(&["k2"]));
    let start = |ring: String| {
        let options = database.options();
        async move { App::start_with_ring(options, settings(), &ring).await }
    };
    let first = start(old.clone()).await;
    let mut subscriptions = Vec::new();
    for place in 0..6 {
        subscriptions.push(first.subscribe(&format!("{}/{place}", receiver.url)).await);
        first.roll_signing_key(subscriptions[place]).await;
    }
    let session = first.open_session().await;
    let path = format!("/redirect-sessions/{session}");
    let token = text(&first.get(&path).await["token"]);
    let many = sessions(&database, &old, 3_000).await;

    // A node that would go on with the old key alone is in the way.
    wait_for_ring(&database, 1).await;
    let (well, _, why) = rotate(&database, &both, &[]).await;
    assert!(!well && why.contains("does not have this ring"), "{why}");
    assert_eq!(stale(&database, &old).await, 0, "nothing was touched");
    first.stop().await;

    let nodes = [start(both.clone()).await, start(both.clone()).await];
    wait_for_ring(&database, 2).await;
    let over = Arc::new(AtomicBool::new(false));
    // The last two are left as the old key sealed them.
    let workers: Vec<_> = subscriptions[..4]
        .iter()
        .enumerate()
        .map(|(place, id)| tokio::spawn(work(nodes[place % 2].clone(), *id, over.clone())))
        .collect();
    let (well, said, why) = rotate(&database, &both, &[]).await;
    assert!(well, "{why}");
    let values: u64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!(values >= 3_000 + 1 + 2 * 3, "{said}");
    assert_eq!(stale(&database, &both).await, 0, "also what was written meanwhile");
    over.store(true, Ordering::Relaxed);
    let mut last = Vec::new();
    for worker in workers {
        last.push(worker.await.unwrap());
    }
    let cancelled: usize = last.iter().map(|(_, cancelled)| cancelled).sum();
    receiver.wait_for(cancelled * subscriptions.len()).await;
    for node in nodes {
        node.stop().await;
    }

    // The old key is gone: everything is still there.
    let alone = start(new.clone()).await;
    assert_eq!(text(&alone.get(&path).await["token"]), token);
    assert_tokens(&database, &new, many).await;
    let before = receiver.calls().len();
    alone.cancel_one().await;
    let calls = receiver.wait_for(before + subscriptions.len()).await;
    let mut keys: Vec<&str> = calls[before..].iter().map(|call| call.header("x-api-key")).collect();
    let mut expected: Vec<&str> = last.iter().map(|(key, _)| key.as_str()).collect();
    expected.extend([CALLBACK_KEY; 2]);
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    alone.stop().await;
}

async fn wait_for_ring(database: &TestDatabase, nodes: i64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let told = "select count(*) from nodes where ring is not null";
    while sqlx::query_scalar::<_, i64>(told).fetch_one(&database.pool).await.unwrap() < nodes {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {nodes} nodes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many connections programs of ours have to a database.
async fn connected(database: &TestDatabase) -> i64 {
    let connected = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'herald'";
    sqlx::query_scalar(connected).fetch_one(&database.pool).await.unwrap()
}

#[tokio::test]
async fn rule_09_a_rotation_that_was_killed_goes_on_where_it_was() {
    let database = cluster::database().await;
    let (old, both) = (ring(&["k1"]), ring(&["k2", "k1"]));
    let partner = sessions(&database, &old, 5_000).await;
    let mut cut_short = false;
    while !cut_short {
        let mut child = command(&database, &both, &[]).stdout(Stdio::null()).spawn().unwrap();
        let begun = stale(&database, &both).await;
        let deadline = std::time::Instant::now() + PATIENCE;
        // On a busy machine it may be through before it is looked at.
        while begun > 0 && stale(&database, &both).await == begun {
            assert!(std::time::Instant::now() < deadline, "it does nothing");
        }
        let at_work = connected(&database).await > 0;
        child.kill().await.unwrap();
        // What it was at may still be written, until the database notices that nobody listens.
        while connected(&database).await > 0 {
            assert!(std::time::Instant::now() < deadline, "connections of a dead program stay");
        }
        cut_short = stale(&database, &both).await > 0;
        assert!(at_work || !cut_short, "who is at work is known by its name");
        if !cut_short {
            sqlx::query("delete from redirect_session_contents").execute(&database.pool).await.unwrap();
            sessions(&database, &old, 20_000).await;
        }
    }
    let left = stale(&database, &both).await;
    let (well, said, why) = rotate(&database, &both, &["--check"]).await;
    assert!(well && said.starts_with(&format!("{left} values")), "{left}: {said}{why}");
    assert_eq!(stale(&database, &both).await, left, "checking changes nothing");
    let (well, said, why) = rotate(&database, &both, &[]).await;
    assert!(well && said.starts_with(&format!("{left} values")), "{left}: {said}{why}");
    assert!(said.contains("Nothing needs the old keys"), "{said}");
    assert_eq!(stale(&database, &both).await, 0);
    assert_tokens(&database, &ring(&["k2"]), partner).await;
}

#[tokio::test]
async fn rule_09_a_ring_that_cannot_be_meant_is_refused_and_changes_nothing() {
    let database = cluster::database().await;
    sessions(&database, &ring(&["k1"]), 3).await;
    let canary = ring(&["k9"]);
    for (ring, why) in [
        (String::new(), "it holds no key"),
        ("k1".to_owned(), "has no `:`"),
        (canary.clone(), "sealed with key `k1`, which is not in the ring"),
        (format!("{canary},{canary}"), "given to two keys"),
    ] {
        let (well, said, told) = rotate(&database, &ring, &[]).await;
        assert!(!well && said.is_empty() && told.contains(why), "{why}: {told}");
        assert!(!told.contains(canary.split_once(':').unwrap().1), "{told}");
    }
    assert_eq!(stale(&database, &ring(&["k1"])).await, 0);
    let (well, said, _) = rotate(&database, &ring(&["k1"]), &[]).await;
    assert!(well && said.starts_with("0 values"), "{said}");
}

#[tokio::test]
async fn rule_09_a_value_that_does_not_open_is_named_and_left_and_the_others_are_done() {
    let database = cluster::database().await;
    let partner = sessions(&database, &ring(&["k1"]), 600).await;
    let broken: Uuid = sqlx::query_scalar(
        "update redirect_session_contents set token = set_byte(token, length(token) - 1, get_byte(token, length(token) - 1) # 1)
         where id = (select id from redirect_session_contents where partner_id = $1 order by id limit 1) returning id",
    )
    .bind(partner)
    .fetch_one(&database.pool)
    .await
    .unwrap();
    let both = ring(&["k2", "k1"]);
    let (well, said, why) = rotate(&database, &both, &[]).await;
    assert!(!well && said.starts_with("599 values") && !said.contains("Nothing needs"), "{said}");
    assert!(why.contains("1 values do not open") && why.contains(&broken.to_string()), "{why}");
    assert_eq!(stale(&database, &both).await, 1);
}

/// Millions of tokens take longer to look through than half a minute, the bound of other statements.
#[tokio::test]
async fn rule_09_a_rotation_is_given_the_time_it_takes_and_waits_for_rows_like_others() {
    let database = cluster::database().await;
    sessions(&database, &ring(&["k1"]), 1).await;
    sqlx::raw_sql(
        "create table bounds (statement text, lock text);
         create function note_bounds() returns trigger language plpgsql as $$ begin
             insert into bounds values (current_setting('statement_timeout'), current_setting('lock_timeout')); return null;
         end $$;
         create trigger note_bounds after update on redirect_session_contents for each statement execute function note_bounds()",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let (well, said, why) = rotate(&database, &ring(&["k2", "k1"]), &[]).await;
    assert!(well && said.starts_with("1 values"), "{said}{why}");
    let bounds: Vec<(String, String)> =
        sqlx::query_as("select * from bounds").fetch_all(&database.pool).await.unwrap();
    assert_eq!(bounds, [("0".to_owned(), "10s".to_owned())]);
}

#[tokio::test]
async fn rule_09_remembered_answers_say_how_long_the_old_key_is_needed() {
    let database = cluster::database().await;
    let both = ring(&["k2", "k1"]);
    let app = App::start_with_ring(database.options(), settings(), &ring(&["k1"])).await;
    let url = "https://shop.example/";
    let urls = json!({ "successUrl": url, "failureUrl": url, "abortUrl": url, "qrCodeSuccessUrl": url });
    let request = app
        .request(reqwest::Method::PUT, &format!("/redirect-sessions/{}", Uuid::new_v4()))
        .header("x-request-id", Uuid::new_v4().to_string())
        .json(&json!({ "type": "NewCustomer", "redirectData": urls }));
    assert_eq!(request.send().await.unwrap().status(), 200);
    app.stop().await;
    let (well, said, why) = rotate(&database, &both, &[]).await;
    assert!(well && said.contains("1 remembered answers need them"), "{said}{why}");
    database.advance(TimeDelta::hours(25)).await;
    let (well, said, _) = rotate(&database, &both, &[]).await;
    assert!(well && said.contains("Nothing needs the old keys any more"), "{said}");
}

#[tokio::test]
async fn rule_09_keys_that_open_nothing_of_the_database_keep_a_server_from_starting() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (right, folder) = (ring(&["fit"]), Scratch::new("ring-fit"));
    let app = App::start_with_ring(database.options(), settings(), &right).await;
    app.subscribe(&receiver.url).await;
    app.stop().await;
    let other = KeyRing::generate().1.expose_str().unwrap().split_once(':').unwrap().1.to_owned();
    let (same_id, other_id) = (format!("fit:{other}"), format!("new:{other}"));
    for (wrong, why) in [
        (&same_id, "its key `fit` is not the key `fit` that encrypted what is in the database"),
        (&other_id, "the key `fit` is missing"),
        (&format!("{other_id},{same_id}"), "its key `fit` is not the key `fit`"),
    ] {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_herald"));
        serve.env("DATABASE_URL", database.url()).env("HERALD_SECRET_KEYS", wrong);
        serve.env("HERALD_LISTEN", "127.0.0.1:0").env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0");
        serve
            .env("HERALD_MODE", "development")
            .env("HERALD_DATA_DIR", folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, serve.output()).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("HERALD_SECRET_KEYS") && said.contains(why),
            "{said}"
        );
    }
    let (well, _, said) = rotate(&database, &same_id, &["--check"]).await;
    assert!(!well && said.contains("is not the key `fit`"), "{said}");
    // One that was damaged is no reason, and neither is a ring that has more keys.
    let damage =
        "update callbacks set credentials = set_byte(credentials, 20, get_byte(credentials, 20) # 1)";
    sqlx::query(damage).execute(&database.pool).await.unwrap();
    App::start_with_ring(database.options(), settings(), &format!("{other_id},{right}")).await.stop().await;
    // Neither are values of a key that is gone, where those of the present one open.
    let app = App::start_with_ring(database.options(), settings(), &format!("{other_id},{right}")).await;
    app.subscribe(&format!("{}/other", receiver.url)).await;
    app.stop().await;
    App::start_with_ring(database.options(), settings(), &other_id).await.stop().await;
}
