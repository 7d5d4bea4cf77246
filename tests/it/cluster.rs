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
async fn another_process_reaches_the_database_by_its_url() {
    let database = database().await;
    sqlx::query("create table here (id int)").execute(&database.pool).await.unwrap();
    let options: PgConnectOptions = database.url().parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    sqlx::query("select from here").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
