//! What a server remembers of the sessions that it opened is a guess: a cancel comes out as on a server that remembers nothing.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::*;

/// What is remembered counts only while the writer's connection was used a moment ago.
async fn cancel_another(partner: &Partner, other: Uuid) {
    assert_eq!(partner.cancel(other, &[]).await.status, 200);
}

/// What a cancel is answered, and how many events it left.
async fn outcome(world: &World, partner: &Partner, id: Uuid, headers: &[(&str, &str)]) -> (u16, String, i64) {
    let before = world.count("events").await;
    let reply = partner.cancel(id, headers).await;
    let code = if reply.status == 200 { String::new() } else { reply.code() };
    (reply.status, code, world.count("events").await - before)
}

#[tokio::test]
async fn what_has_changed_since_a_session_was_opened_counts() {
    let world = world().await;
    // It opened none of them.
    let other = serve(&world.database.pool, &world.keys, REQUEST_TIMEOUT).await;
    let changes = [
        ("set expires_at = herald_now()", None, (400, "InvalidRedirectSessionStateTransition")),
        ("set state = 'Completed', version = 2", None, (400, "InvalidRedirectSessionStateTransition")),
        ("set version = 2", Some("\"1\""), (409, "EntityVersionMismatch")),
        ("set version = 2", Some("\"2\""), (200, "")),
        ("set version = 2", None, (200, "")),
    ];
    for (change, condition, (status, code)) in changes {
        let condition: Vec<_> = condition.map(|condition| ("if-match", condition)).into_iter().collect();
        for partner in [world.ann.clone(), world.ann.of(&other)] {
            let (id, another) = (world.ann.opened().await, world.ann.opened().await);
            let sql = AssertSqlSafe(format!("update redirect_sessions {change} where id = '{id}'"));
            sqlx::query(sql).execute(&world.database.pool).await.unwrap();
            let expected = (status, code.to_owned(), i64::from(status == 200));
            cancel_another(&partner, another).await;
            assert_eq!(outcome(&world, &partner, id, &condition).await, expected, "{change}");
        }
    }
}

#[tokio::test]
async fn a_customer_who_was_erased_since_is_not_found() {
    let world = world().await;
    let (id, customer) = (Uuid::new_v4(), world.customer(&world.ann).await);
    let wish =
        json!({ "type": "NewCustomer", "redirectData": redirect_data(), "customerId": customer.to_string() });
    assert_eq!(world.ann.put(&session(id), &wish).await.status, 200);
    world.erase(customer).await;
    cancel_another(&world.ann, world.ann.opened().await).await;
    let expected = (404, "CustomerNotFound".to_owned(), 0);
    assert_eq!(outcome(&world, &world.ann, id, &[]).await, expected);
}

#[tokio::test]
async fn the_time_of_a_cancel_is_the_databases() {
    let world = world().await;
    let (id, another) = (world.ann.opened().await, world.ann.opened().await);
    cancel_another(&world.ann, another).await;
    world.database.advance(TimeDelta::minutes(5)).await;
    let cancelled = world.ann.cancel(id, &[]).await.json();
    let time = |body: &Value, field: &str| body[field].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let after = time(&cancelled, "lastModifiedOn") - time(&cancelled, "createdOn");
    assert!(after >= TimeDelta::minutes(5), "{cancelled}");
    assert_eq!(world.ann.get(&session(id)).await.json()["lastModifiedOn"], cancelled["lastModifiedOn"]);
}

/// Shown by what nothing but a test changes: a session that is read is told as it is, one that is remembered as it was.
#[tokio::test]
async fn a_session_that_was_just_opened_is_not_read() {
    let world = world().await;
    let other = serve(&world.database.pool, &world.keys, REQUEST_TIMEOUT).await;
    let mut told = Vec::new();
    // A machine that does much else may take longer than what is remembered counts; hardly ten times in a row.
    for _ in 0..10 {
        for partner in [world.ann.of(&other), world.ann.clone()] {
            let (id, another) = (world.ann.opened().await, world.ann.opened().await);
            let change = "update redirect_sessions set type = 'ExistingTransactionIntent' where id = $1";
            sqlx::query(change).bind(id).execute(&world.database.pool).await.unwrap();
            cancel_another(&partner, another).await;
            assert_eq!(partner.cancel(id, &[]).await.status, 200);
            let newest = "select payload from events order by id desc limit 1";
            let payload: Vec<u8> = sqlx::query_scalar(newest).fetch_one(&world.database.pool).await.unwrap();
            let event: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(event["id"], json!(id));
            told.push(event["type"].as_str().unwrap().to_owned());
        }
        if told.ends_with(&["NewCustomer".to_owned()]) {
            break;
        }
    }
    assert!(told.ends_with(&["ExistingTransactionIntent".to_owned(), "NewCustomer".to_owned()]), "{told:?}");
}
