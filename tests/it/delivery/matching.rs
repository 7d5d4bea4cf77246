//! Who takes an event is remembered by each node, and is nevertheless never what it was before the last change, whoever made that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herald::domain::id::{NodeId, PartnerId};
use herald::store::events::{self, Alongside, BirthLease, Insert};
use herald::store::{partitions, routes, sessions};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::plans::{TAKEN, assert_read_little};
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::receiver::Receiver;

const TYPE: &str = "RedirectSessionCancelled";

/// How many subscriptions an event matches that a node is given now.
async fn matched_by(app: &App) -> i64 {
    let event = json!({ "type": TYPE, "data": {} });
    let (status, answer) = app.operator().ask(Method::POST, "/events", Some(event)).await;
    assert_eq!(status, 202, "{answer}");
    answer["matched"].as_i64().unwrap()
}

#[tokio::test]
async fn an_event_is_matched_as_the_last_change_left_it_whichever_node_that_was_told_to() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (one, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    let both = async |expected: i64| {
        for node in [&one, &other] {
            assert_eq!(matched_by(node).await, expected);
        }
    };
    both(0).await;
    let first = one.subscribe(&format!("{}/1", receiver.url)).await;
    both(1).await;
    let second = other.subscribe(&format!("{}/2", receiver.url)).await;
    both(2).await;
    other.unsubscribe(first).await;
    both(1).await;
    let held = "select count(*) from unfinished where due_at = 'infinity'";
    let held = async || sqlx::query_scalar::<_, i64>(held).fetch_one(&database.pool).await.unwrap();
    assert_eq!(held().await, 0);
    let change = async |change: &'static str| {
        sqlx::query(change).execute(&database.pool).await.unwrap();
    };
    change("update subscriptions set state = 'paused', version = version + 1 where state = 'active'").await;
    both(1).await;
    assert_eq!(held().await, 2, "both are held");
    one.unsubscribe(second).await;
    both(0).await;
}

#[tokio::test]
async fn whoever_keeps_changing_subscriptions_keeps_no_event_from_being_accepted() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    let over = Arc::new(AtomicBool::new(false));
    let changing = {
        let (over, pool) = (over.clone(), database.pool.clone());
        tokio::spawn(async move {
            let mut connection = pool.acquire().await.unwrap();
            let mut changes = 0;
            while !over.load(Ordering::Relaxed) {
                let change = "update matching_versions set version = version + 1";
                sqlx::query(change).execute(&mut *connection).await.unwrap();
                changes += 1;
            }
            changes
        })
    };
    for _ in 0..40 {
        assert_eq!(matched_by(&app).await, 1);
        app.cancel_one().await;
    }
    over.store(true, Ordering::Relaxed);
    assert!(changing.await.unwrap() > 100, "it was changed all the time");
    receiver.wait_for(80).await;
}

#[tokio::test]
async fn every_change_that_decides_who_takes_an_event_moves_the_version_on_and_no_other_does() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    let partner = Uuid::now_v7();
    let made = "with partner as (insert into partners (id, name) values ($1, 'one')),
        callbacks as (insert into callbacks (id, partner_id, surface, url)
                      select id, $1, 'notifications', 'https://partner.example/' from unnest(array[$2, $3]) as id)
        insert into subscriptions (id, partner_id, surface, external_key, callback_id)
        values ($4, $1, 'notifications', 'one', $2)";
    let [first, second, subscription] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    sqlx::query(made)
        .bind(partner)
        .bind(first)
        .bind(second)
        .bind(subscription)
        .execute(&mut *connection)
        .await
        .unwrap();
    let types = "insert into subscription_event_types (partner_id, subscription_id, surface, event_type)
        select partner_id, id, 'notifications', kind from subscriptions, unnest(array['one', 'two']) as kind";
    for (change, moves) in [
        (types, 1),
        ("update subscription_event_types set campaign_names = '{spring}'", 1),
        ("update subscription_event_types set exclusive_in = 'room', place = 3 where event_type = 'one'", 0),
        ("delete from subscription_event_types where event_type = 'one'", 1),
        ("update subscriptions set state = 'paused'", 1),
        ("update subscriptions set state = 'paused', state_reason = 'again', version = version + 1", 0),
        (
            "update subscriptions set timeout_ms = 5, failing_since = herald_now(), updated_at = herald_now()",
            0,
        ),
        ("update callbacks set batch_size = 2", 1),
        ("update callbacks set batch_size = 2, url = 'https://other.example/'", 0),
        ("update subscriptions set callback_id = (select max(id::text)::uuid from callbacks)", 1),
        ("update subscriptions set state = 'deleted'", 1),
        // Several of them in one transaction are told once.
        ("begin; update subscriptions set state = 'active'; update callbacks set batch_size = 3; commit", 1),
        // Undone, and then done again.
        ("begin; update callbacks set batch_size = 4; rollback; update callbacks set batch_size = 5", 1),
    ] {
        let before = version(&mut connection, partner).await;
        sqlx::raw_sql(change).execute(&mut *connection).await.unwrap();
        assert_eq!(version(&mut connection, partner).await, before + moves, "{change}");
    }
}

async fn version(db: &mut PgConnection, partner: Uuid) -> i64 {
    let version = "select version from matching_versions where partner_id = $1";
    sqlx::query_scalar(version).bind(partner).fetch_optional(db).await.unwrap().unwrap_or_default()
}

#[tokio::test]
async fn what_was_read_under_a_lock_that_was_rolled_back_does_not_outlive_the_first_change() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let partner = "select id from partners order by created_at limit 1";
    let partner: Uuid = sqlx::query_scalar(partner).fetch_one(&mut *connection).await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *connection).await.unwrap();
    routes::lock(&mut connection, &[PartnerId(partner)]).await.unwrap();
    let read = routes::read(&mut connection, &[(PartnerId(partner), TYPE)]).await.unwrap();
    assert!(read[0].all.is_empty());
    sqlx::raw_sql("rollback").execute(&mut *connection).await.unwrap();
    let (owner, alongside) = (NodeId::new(), Alongside::default());
    let lease = BirthLease { owner, duration: Duration::from_secs(30) };
    let versions = [(PartnerId(partner), read[0].version)];
    let insert = Insert { events: &[], matched: &[], deliveries: &[], versions: &versions, alongside };
    events::insert(&mut connection, lease, insert).await.unwrap();
    app.subscribe(&receiver.url).await;
    let refused = events::insert(&mut connection, lease, insert).await.unwrap_err();
    assert!(herald::store::is_overtaken(&refused), "{refused}");
}

/// Three partners: with the version 3, with a row of version 0, and without a row.
#[tokio::test]
async fn what_was_remembered_of_a_database_is_forgotten_with_the_session_that_it_was_read_in() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    app.subscribe(&receiver.url).await;
    assert_eq!(matched_by(&app).await, 1);
    // As after a failover that lost the subscription, and then counted to the same version by another change.
    let lost = "set session_replication_role = replica; update subscriptions set state = 'deleted', version = version + 1;
         reset session_replication_role";
    sqlx::raw_sql(lost).execute(&mut *database.pool.acquire().await.unwrap()).await.unwrap();
    assert_eq!(matched_by(&app).await, 1, "nothing could tell it");
    let sessions = "select count(*) filter (where pg_terminate_backend(pid, 10000)) from pg_stat_activity
         where datname = current_database() and application_name = 'herald'";
    let ended: i64 = sqlx::query_scalar(sessions).fetch_one(&database.pool).await.unwrap();
    assert!(ended > 0);
    assert_eq!(matched_by(&app).await, 0);
}

#[tokio::test]
async fn a_group_is_stored_only_if_every_version_is_what_it_was_matched_by() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let partners = "insert into partners (id, name) select gen_random_uuid(), 'one' from generate_series(1, 3) returning id";
    let mut partners: Vec<Uuid> = sqlx::query_scalar(partners).fetch_all(&mut *connection).await.unwrap();
    let (lease, alongside) =
        (BirthLease { owner: NodeId::new(), duration: Duration::from_secs(30) }, Alongside::default());
    // Whichever of them comes first in the order in which they are looked up.
    for _ in 0..3 {
        partners.rotate_left(1);
        let [three, zero, none] = partners[..] else { unreachable!() };
        sqlx::query("delete from matching_versions").execute(&mut *connection).await.unwrap();
        let rows = "insert into matching_versions (partner_id, version) values ($1, 3), ($2, 0)";
        sqlx::query(rows).bind(three).bind(zero).execute(&mut *connection).await.unwrap();
        for (known, holds) in [
            (&[][..], true),
            (&[(three, 3)], true),
            (&[(zero, 0)], true),
            (&[(none, 0)], true),
            (&[(three, 3), (zero, 0), (none, 0)], true),
            (&[(three, 2)], false),
            (&[(three, 4)], false),
            (&[(three, 0)], false),
            (&[(zero, 1)], false),
            (&[(none, 1)], false),
            (&[(three, 3), (zero, 0), (none, 1)], false),
            (&[(three, 3), (zero, 1), (none, 0)], false),
            (&[(three, 0), (zero, 0), (none, 0)], false),
            (&[(three, 2), (zero, 1), (none, 1)], false),
            // Two of one partner, whichever of them it is.
            (&[(three, 3), (three, 4)], false),
            (&[(three, 2), (three, 3)], false),
            (&[(three, 0), (three, 3)], false),
            (&[(zero, 0), (zero, 1)], false),
            (&[(none, 0), (none, 1)], false),
        ] {
            let mut versions: Vec<_> =
                known.iter().map(|(partner, version)| (PartnerId(*partner), *version)).collect();
            versions.sort_unstable();
            let insert =
                Insert { events: &[], matched: &[], deliveries: &[], versions: &versions, alongside };
            match events::insert(&mut connection, lease, insert).await {
                Ok(_) => assert!(holds, "{known:?}"),
                Err(error) => assert!(!holds && herald::store::is_overtaken(&error), "{known:?}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn routes_are_read_and_looked_at_by_key_although_there_were_none_when_that_was_planned() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let tables = ["matching_versions", "subscriptions", "subscription_event_types"];
    for empty in [
        "alter table matching_versions set (autovacuum_enabled = false)",
        "alter table subscriptions set (autovacuum_enabled = false)",
        "alter table subscription_event_types set (autovacuum_enabled = false)",
        "vacuum analyze matching_versions, subscriptions, subscription_event_types, callbacks",
    ] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    let lease = BirthLease { owner: NodeId::new(), duration: Duration::from_secs(30) };
    assert!(routes::read(&mut by_key, &[]).await.unwrap().is_empty());
    events::plan_inserts(&mut by_key, lease).await.unwrap();

    let many = "with made as (insert into partners (id, name) select gen_random_uuid(), 'one' from generate_series(1, 20000) returning id),
        callbacks as (insert into callbacks (id, partner_id, surface, url)
                      select id, id, 'redirect', 'https://partner.example/' from made),
        subscriptions as (insert into subscriptions (id, partner_id, surface, external_key, callback_id)
                          select id, id, 'redirect', 'one', id from made)
        insert into subscription_event_types (partner_id, subscription_id, surface, event_type)
        select id, id, 'redirect', 'RedirectSessionCancelled' from made returning partner_id";
    let partners: Vec<Uuid> = sqlx::query_scalar(many).fetch_all(&mut *connection).await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    let asked = |partner: &Uuid| (PartnerId(*partner), TYPE);
    let asked: Vec<_> = partners.iter().take(TAKEN as usize).map(asked).collect();
    let read = routes::read(&mut by_key, &asked).await.unwrap();
    for (routes, (partner, _)) in read.iter().zip(&asked) {
        assert_eq!(routes.all.iter().map(|route| route.subscription.0).collect::<Vec<_>>(), [partner.0]);
    }
    let mut versions: Vec<_> =
        asked.iter().zip(&read).map(|((partner, _), routes)| (*partner, routes.version)).collect();
    versions.sort_unstable();
    let alongside = Alongside::default();
    let insert = Insert { events: &[], matched: &[], deliveries: &[], versions: &versions, alongside };
    events::insert(&mut by_key, lease, insert).await.unwrap();
    for table in tables {
        assert_read_little(&mut by_key, table, 4, 12).await;
    }
    let before: Vec<_> = versions.iter().map(|(partner, version)| (*partner, version - 1)).collect();
    let insert = Insert { versions: &before[..1], ..insert };
    let refused = events::insert(&mut by_key, lease, insert).await.unwrap_err();
    assert!(herald::store::is_overtaken(&refused), "{refused}");
}

#[tokio::test]
async fn what_a_node_remembers_of_campaigns_is_looked_at_too() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let (one, other) = (App::start(&database, settings()).await, App::start(&database, settings()).await);
    one.subscribe(&receiver.url).await;
    let matched = async |app: &App, campaign: &str| -> Value {
        let event = json!({ "type": TYPE, "data": {}, "attributes": { "campaignName": campaign } });
        let (status, answer) = app.operator().ask(Method::POST, "/events", Some(event)).await;
        assert_eq!(status, 202, "{answer}");
        answer["matched"].clone()
    };
    for campaign in ["spring", "autumn"] {
        sqlx::query("update subscription_event_types set campaign_names = array[$1]")
            .bind(campaign)
            .execute(&database.pool)
            .await
            .unwrap();
        for node in [&one, &other] {
            for asked in ["spring", "autumn"] {
                assert_eq!(matched(node, asked).await, i64::from(asked == campaign));
            }
        }
    }
}
