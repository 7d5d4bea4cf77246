//! The ground the other tests stand on: separate databases, and a clock that moves only when told.

use chrono::{DateTime, Duration, Utc};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Connection};

use crate::support::cluster::database;

async fn ahead_of_the_real_clock(pool: &PgPool) -> Duration {
    let (herald, real): (DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("select herald_now(), statement_timestamp()").fetch_one(pool).await.unwrap();
    herald - real
}

#[tokio::test]
async fn what_one_test_writes_no_other_test_sees() {
    let (one, other) = (database().await, database().await);
    sqlx::query("create table mine (id int)").execute(&one.pool).await.unwrap();
    let seen = sqlx::query("select from mine").execute(&other.pool).await;
    assert!(seen.is_err());
}

#[tokio::test]
async fn time_moves_when_told_also_under_prepared_statements() {
    let database = database().await;
    assert_eq!(ahead_of_the_real_clock(&database.pool).await, Duration::zero());
    database.advance(Duration::minutes(5)).await;
    assert_eq!(ahead_of_the_real_clock(&database.pool).await, Duration::minutes(5));
    database.advance(Duration::days(2)).await;
    assert_eq!(ahead_of_the_real_clock(&database.pool).await, Duration::days(2) + Duration::minutes(5));
}

#[tokio::test]
async fn a_change_of_the_schema_asks_again_for_a_lock_and_says_who_may_have_it() {
    let database = database().await;
    let mut holder = database.options().application_name("forgetful").connect().await.unwrap();
    sqlx::raw_sql("begin; lock table _sqlx_migrations").execute(&mut holder).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let pool = database.pool.clone();
    let migrating = tokio::spawn(async move {
        herald::store::migrate(&pool, |blockers| tell.send(blockers.to_owned()).unwrap()).await
    });
    let blockers = told.recv().await.unwrap();
    assert!(blockers.contains("(forgetful, idle in transaction for "), "{blockers}");
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    migrating.await.unwrap().unwrap();
}

#[tokio::test]
async fn another_process_reaches_the_database_by_its_url() {
    let database = database().await;
    sqlx::query("create table here (id int)").execute(&database.pool).await.unwrap();
    let options: PgConnectOptions = database.url().parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    sqlx::query("select from here").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
