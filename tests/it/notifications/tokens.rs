//! Tokens: what a key is traded for, for how long, and what becomes of them with their key.

use herald::domain::partner_key::{Scope, Scopes};
use serde_json::json;

use super::{CALLBACKS, TOKEN, world};
use crate::support::server::{Partner, Reply};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

async fn login(partner: &Partner, path: &str, user_name: &str, password: &str) -> Reply {
    let form = format!("user_name={user_name}&password={password}&auth_type=password");
    partner.send_raw("POST", path, &[FORM], Some(form)).await
}

async fn refresh(partner: &Partner, token: &str) -> Reply {
    partner
        .send_raw("POST", TOKEN, &[FORM, ("authorization", token)], Some("auth_type=token".to_owned()))
        .await
}

async fn use_token(partner: &Partner, token: &str) -> Reply {
    partner.send_raw("GET", CALLBACKS, &[("authorization", token)], None).await
}

fn token(reply: &Reply) -> String {
    reply.ok()["authToken"].as_str().unwrap().to_owned()
}

fn expired() -> (u16, String, String) {
    (401, "TOKEN_EXPIRED".to_owned(), "Token expired".to_owned())
}

#[tokio::test]
async fn a_key_is_traded_for_a_token_that_works_bare_by_form_and_by_query_under_both_versions() {
    let world = world().await;
    let (ann, id) = (&world.ann, world.ann.id.to_string());
    let issued = login(ann, TOKEN, &id, &ann.key).await;
    let body = issued.ok();
    let database_now: f64 = sqlx::query_scalar("select extract(epoch from herald_now())::float8")
        .fetch_one(&world.database.pool)
        .await
        .unwrap();
    let age_s = database_now - body["issuedAt"].as_i64().unwrap() as f64 / 1_000.0;
    assert!((0.0..60.0).contains(&age_s), "{age_s}");
    assert_eq!(body["endPoint"], ann.url);
    assert_eq!(use_token(ann, &token(&issued)).await.ok(), json!([]));
    let by_query =
        format!("/rest/api/v1.1/auth/token?user_name={id}&password={}&auth_type=password", ann.key);
    let by_query = ann.send_raw("POST", &by_query, &[], None).await;
    assert_eq!(use_token(ann, &token(&by_query)).await.status, 200);
    let as_bearer = format!("Bearer {}", token(&by_query));
    assert_eq!(use_token(ann, &as_bearer).await.status, 200);
    assert_eq!(use_token(ann, &ann.key).await.status, 200, "a key will do as well");
}

#[tokio::test]
async fn whoever_cannot_prove_to_be_that_partner_gets_no_token() {
    let world = world().await;
    let (ann, ben) = (&world.ann, &world.ben);
    let issued = token(&login(ann, TOKEN, &ann.id.to_string(), &ann.key).await);
    let producer = world.server.key(ann.id, Scope::Producer).await;
    for (user_name, password) in [
        (ben.id.to_string(), ann.key.as_str()),
        (ann.id.to_string(), "hk_000000000000_0000000000000000000000000000000000000000000"),
        (ann.id.to_string(), "short"),
        (ann.id.to_string(), "%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00"),
        (ann.id.to_string(), issued.as_str()),
        (ann.id.to_string(), producer.as_str()),
        ("nobody".to_owned(), ann.key.as_str()),
        (String::new(), ann.key.as_str()),
    ] {
        let told = login(ann, TOKEN, &user_name, password).await.told();
        assert_eq!(
            told,
            (400, "INVALID_USER_NAME_PASSWORD".to_owned(), "Login failed".to_owned()),
            "{user_name}"
        );
    }
}

#[tokio::test]
async fn a_token_lives_three_hours_and_may_be_traded_for_a_fresh_one_before() {
    let world = world().await;
    let ann = &world.ann;
    let first = token(&login(ann, TOKEN, &ann.id.to_string(), &ann.key).await);
    world.database.advance(chrono::TimeDelta::minutes(179)).await;
    assert_eq!(use_token(ann, &first).await.status, 200);
    let second = token(&refresh(ann, &first).await);
    assert_ne!(first, second);
    world.database.advance(chrono::TimeDelta::minutes(1)).await;
    assert_eq!(use_token(ann, &first).await.told(), expired());
    assert_eq!(refresh(ann, &first).await.told(), expired());
    assert_eq!(use_token(ann, &second).await.status, 200);
    let mut connection = world.database.pool.acquire().await.unwrap();
    assert_eq!(herald::store::access_tokens::forget(&mut connection, 10).await.unwrap(), 1);
    drop(connection);
    assert_eq!(use_token(ann, &second).await.status, 200);
    assert_eq!(refresh(ann, &ann.key).await.told(), expired(), "a key is no token");
    assert_eq!(use_token(ann, &format!("ht_{}", "A".repeat(43))).await.told(), expired());
    assert_eq!(use_token(ann, "no token at all").await.told().1, "UNAUTHORIZED");
}

#[tokio::test]
async fn rule_11_a_token_ends_with_its_key_and_only_a_hash_of_it_is_kept() {
    let world = world().await;
    let ann = &world.ann;
    let (of_doomed, of_other) = {
        let doomed = world.server.key(ann.id, Scope::Partner).await;
        let id = ann.id.to_string();
        (token(&login(ann, TOKEN, &id, &doomed).await), token(&login(ann, TOKEN, &id, &ann.key).await))
    };
    let stored: Vec<String> = sqlx::query_scalar("select t::text from access_tokens t")
        .fetch_all(&world.database.pool)
        .await
        .unwrap();
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|row| !row.contains(&of_doomed[3..]) && !row.contains(&of_other[3..])));
    let key: uuid::Uuid = sqlx::query_scalar("select key_id from access_tokens order by issued_at limit 1")
        .fetch_one(&world.database.pool)
        .await
        .unwrap();
    world.server.hub.revoke_key(ann.id, herald::domain::id::ApiKeyId(key)).await.unwrap();
    assert_eq!(use_token(ann, &of_doomed).await.told(), expired());
    assert_eq!(refresh(ann, &of_doomed).await.told(), expired());
    assert_eq!(use_token(ann, &of_other).await.status, 200);

    // Neither does it outlive a key that ends by itself.
    let end = herald::clock::now() + chrono::TimeDelta::hours(1);
    let ending = world.server.hub.create_key(ann.id, Scopes::only(Scope::Partner), Some(end)).await.unwrap();
    let of_ending = token(&login(ann, TOKEN, &ann.id.to_string(), ending.text.expose_str().unwrap()).await);
    assert_eq!(use_token(ann, &of_ending).await.status, 200);
    world.database.advance(chrono::TimeDelta::minutes(61)).await;
    assert_eq!(use_token(ann, &of_ending).await.told(), expired());
    assert_eq!(use_token(ann, &of_other).await.status, 200);
}

#[tokio::test]
async fn a_token_reaches_no_further_than_partners_do() {
    let world = world().await;
    let key = world.server.hub.create_key(world.ann.id, Scopes::all(), None).await;
    let key = key.unwrap().text.expose_str().unwrap().to_owned();
    let issued = token(&login(&world.ann, TOKEN, &world.ann.id.to_string(), &key).await);
    let caller = world.server.hub.authenticate(&issued).await.unwrap();
    assert!(caller.require(Scope::Partner).is_ok() && caller.partner == world.ann.id);
    assert!(caller.require(Scope::Producer).is_err() && caller.require(Scope::Operator).is_err());
}
