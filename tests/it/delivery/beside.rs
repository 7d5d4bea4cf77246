//! Somebody has a lock that one request needs, and keeps it: another node that hangs between its claim of an id and its commit. That request waits, and
//! nobody else.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::support::app::{App, settings};
use crate::support::cluster::{self, TestDatabase};
use crate::support::partner::Partner;

fn paid(id: Option<&str>) -> Value {
    let mut event = json!({ "type": "order.paid", "data": { "amount": 7 } });
    if let Some(id) = id {
        event["id"] = id.into();
    }
    event
}

async fn publish(operator: Partner, event: Value) -> (u16, Value) {
    operator.ask(Method::POST, "/events", Some(event)).await
}

/// Claims an id, and says nothing more.
async fn claim<'a>(database: &'a TestDatabase, id: &str) -> Transaction<'a, Postgres> {
    let mut somebody = database.pool.begin().await.unwrap();
    let claim = "insert into event_keys (partner_id, key, event_id, content_hash) select id, $1, $2, $3 from partners";
    let claim = sqlx::query(claim).bind(id).bind(Uuid::now_v7()).bind(vec![0_u8; 32]);
    claim.execute(&mut *somebody).await.unwrap();
    somebody
}

#[tokio::test]
async fn an_id_that_somebody_holds_keeps_nobody_else_from_being_written() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let sessions = join_all((0..3).map(|_| app.open_session())).await;
    let somebody = claim(&database, "held").await;
    let ask = |id: Option<&str>| tokio::spawn(publish(app.operator(), paid(id)));
    let mut held = vec![ask(Some("held"))];
    database.until_waiting(1).await;
    // These come while the writer waits, and are one group with others of that id, which go on coming.
    for session in sessions {
        held.push(ask(Some("held")));
        let others = [ask(None), ask(Some("free")), ask(None)];
        let (cancelled, others) = tokio::join!(app.cancel(session), join_all(others));
        assert_eq!(cancelled, Some(200));
        for other in others {
            let (status, answer) = other.unwrap();
            assert_eq!(status, 202, "{answer}");
        }
    }
    somebody.rollback().await.unwrap();
    let answers: Vec<_> = join_all(held).await.into_iter().map(Result::unwrap).collect();
    for (status, answer) in &answers {
        assert_eq!((*status, &answer["id"]), (202, &answers[0].1["id"]), "{answer}");
    }
    let stored = "select count(*) from events where type = 'order.paid'";
    let stored: i64 = sqlx::query_scalar(stored).fetch_one(&database.pool).await.unwrap();
    assert_eq!(stored, 2 * 3 + 1 + 1, "without an id, the free one, the held one");
    app.stop().await;
}

#[tokio::test]
async fn who_waited_for_an_id_is_told_what_it_stands_for_now() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let somebody = claim(&database, "held").await;
    let held = tokio::spawn(publish(app.operator(), paid(Some("held"))));
    database.until_waiting(1).await;
    somebody.commit().await.unwrap();
    let (status, answer) = held.await.unwrap();
    assert_eq!((status, &answer["errors"][0]["field"]), (409, &json!("id")), "{answer}");
    app.stop().await;
}

#[tokio::test]
async fn many_ids_that_somebody_holds_are_waited_for_together() {
    let database = cluster::database().await;
    let app = App::start(&database, settings()).await;
    let mut somebody = database.pool.begin().await.unwrap();
    let claims = "insert into event_keys (partner_id, key, event_id, content_hash)
         select p.id, 'held-' || n, gen_random_uuid(), sha256(''::bytea) from partners p, generate_series(1, 20) n";
    sqlx::raw_sql(claims).execute(&mut *somebody).await.unwrap();
    let ask = |number: i32| tokio::spawn(publish(app.operator(), paid(Some(&format!("held-{number}")))));
    let held: Vec<_> = (1..=20).map(ask).collect();
    database.until_waiting(1).await;
    let others: Vec<_> = (0..20)
        .map(|number| tokio::spawn(publish(app.operator(), paid(Some(&format!("free-{number}"))))))
        .collect();
    for other in others {
        assert_eq!(other.await.unwrap().0, 202);
    }
    somebody.rollback().await.unwrap();
    for (status, answer) in join_all(held).await.into_iter().map(Result::unwrap) {
        assert_eq!(status, 202, "{answer}");
    }
    app.stop().await;
}
