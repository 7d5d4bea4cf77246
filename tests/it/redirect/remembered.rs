//! What a server remembers of the sessions that it opened is a guess: a cancel comes out as on a server that remembers nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use herald::domain::id::NodeId;
use herald::domain::redirect_session::SessionState;
use herald::domain::row_hint::RowHint;
use herald::domain::version::IfMatch;
use herald::store::events::{self, Alongside, BirthLease, Insert};
use herald::store::is_overtaken;
use herald::store::redirect_sessions::{self, Ended};
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
        // It is as it was, and not where it was.
        ("set version = version", None, (200, "")),
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

/// A place may have been given to another row since.
#[tokio::test]
async fn who_lies_where_another_session_was_is_not_taken_for_it() {
    let world = world().await;
    let mut connection = world.database.pool.acquire().await.unwrap();
    let wanted = [world.ann.opened().await, world.ann.opened().await].map(|id| (world.ann.id, id));
    let mut found = redirect_sessions::read(&mut connection, &wanted).await.unwrap();
    let (at_the_others, found) = (found[1].row_at, found.swap_remove(0));
    let lease = BirthLease { owner: NodeId::new(), duration: Duration::from_secs(30) };
    let session = found.session.end(SessionState::Cancelled, &IfMatch::Absent, found.read_at).unwrap();
    for (row_at, cancels) in [(at_the_others, false), (RowHint::default(), false), (found.row_at, true)] {
        let cancelled = [Ended { session: session.clone(), row_at, remembered: false }];
        let alongside = Alongside { cancelled: &cancelled, answers: &[] };
        let insert = Insert { events: &[], matched: &[], deliveries: &[], versions: &[], alongside };
        match events::insert(&mut connection, lease, insert).await {
            Ok(_) => assert!(cancels),
            Err(error) => assert!(!cancels && is_overtaken(&error), "{error}"),
        }
        let ended = "select count(*) from redirect_sessions where state <> 'Active'";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(ended, i64::from(cancels));
    }
}

/// How often sessions were looked for, and changed. The writer's session tells a second late what it did; each repeat of a cancel that was answered
/// before has it tell, and does neither.
async fn told_after(world: &World, partner: &Partner, changes: i64, again: (Uuid, Uuid)) -> (i64, i64) {
    let read = "select pg_stat_get_numscans('redirect_sessions_pkey'::regclass), pg_stat_get_tuples_updated('redirect_sessions'::regclass)";
    for _ in 0..100 {
        let told: (i64, i64) = sqlx::query_as(read).fetch_one(&world.database.pool).await.unwrap();
        if told.1 >= changes {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel_as(partner, again).await;
    }
    panic!("the database never told of {changes} changes");
}

async fn cancel_as(partner: &Partner, (id, request): (Uuid, Uuid)) {
    let reply = partner.cancel(id, &[("x-request-id", &request.to_string())]).await;
    assert_eq!(reply.status, 200);
}

/// Shown by the database's count of looks into the index: where a session was when it was opened needs none.
#[tokio::test]
async fn a_session_that_was_just_opened_is_not_read() {
    const CANCELS: i64 = 20;
    let world = world().await;
    let other = serve(&world.database.pool, &world.keys, REQUEST_TIMEOUT).await;
    let (mut looks, mut changes) = (0, 0);
    for (partner, opened_it) in [(world.ann.of(&other), false), (world.ann.clone(), true)] {
        let again = (world.ann.opened().await, Uuid::new_v4());
        cancel_as(&partner, again).await;
        for _ in 1..CANCELS {
            let id = world.ann.opened().await;
            assert_eq!(partner.cancel(id, &[]).await.status, 200);
        }
        changes += CANCELS;
        let (looks_now, changes_now) = told_after(&world, &partner, changes, again).await;
        assert_eq!(changes_now, changes);
        let read = looks_now - looks;
        looks = looks_now;
        match opened_it {
            false => assert_eq!(read, CANCELS, "each has to be read by who did not open it"),
            // A machine that does much else may take longer than what is remembered counts; hardly each time.
            true => assert!(read < CANCELS, "{read} of {CANCELS} were read"),
        }
    }
}
