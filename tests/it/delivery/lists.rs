//! Lists of deliveries, however long the history is and however little of it they show.

use herald::domain::delivery::DeliveryState;
use herald::domain::id::{DeliveryId, PartnerId};
use herald::store::deliveries::{self, Filter};
use herald::store::partitions;
use sqlx::PgConnection;
use uuid::Uuid;

use super::plans::read_so_far;
use crate::support::cluster;

const ROWS: i32 = 30_000;
const LOOKED_AT_MAX: i64 = 4_000;

/// A partner with [`ROWS`] deliveries that ended within one hour, and as many that are held: the 1,000th and the last of either are of another
/// type, and the first three that ended are dead.
async fn fill(db: &mut PgConnection) -> PartnerId {
    let partner = Uuid::now_v7();
    sqlx::query(
        "with partner as (insert into partners (id, name) values ($1, 'one')),
         callback as (insert into callbacks (id, partner_id, surface, url) values ($1, $1, 'redirect', 'https://partner.example/'))
         insert into subscriptions (id, partner_id, surface, external_key, callback_id, state) values ($1, $1, 'redirect', 'one', $1, 'paused')",
    )
    .bind(partner)
    .execute(&mut *db)
    .await
    .unwrap();
    let moments = "select number, case when number in (1000, $2) then 'rare' else 'common' end as type,
            herald_uuid7_beside(herald_uuid7_floor(date_trunc('day', herald_now()) + interval '1 hour' + number * interval '100 ms')) as id
        from generate_series(1, $2) as number";
    for sql in [
        format!(
            "insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, late, started_at, latency_ms)
             select $1, id, id, id, $1, type, case when number <= 3 then 'refused' else 'delivered' end,
                    case when number <= 3 then 'dead' else 'delivered' end, false, herald_now(), 1
             from ({moments}) as moments"
        ),
        format!(
            "with moments as ({moments}),
             events as (insert into events (id, partner_id, type, source, payload, occurred_at, matched)
                        select id, $1, type, '/', '', herald_now(), 1 from moments)
             insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
             select $1, id, id, $1, 'infinity' from moments"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(partner).bind(ROWS).execute(&mut *db).await.unwrap();
    }
    PartnerId(partner)
}

/// Turns all pages of a list over: what is on it, and how many pages there were.
async fn turn_over(db: &mut PgConnection, partner: PartnerId, filter: &Filter, limit: i64) -> (usize, usize) {
    let (mut before, mut seen, mut pages) = (None, Vec::<DeliveryId>::new(), 0);
    loop {
        let page = deliveries::list(db, partner, filter, before, limit, LOOKED_AT_MAX).await.unwrap();
        assert!(page.deliveries.len() as i64 <= limit);
        seen.extend(page.deliveries.iter().map(|delivery| delivery.id));
        pages += 1;
        match page.rest {
            Some(rest) => before = Some(rest),
            None => break,
        }
    }
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "each once, newest first");
    (seen.len(), pages)
}

#[tokio::test]
async fn a_page_looks_through_so_many_deliveries_and_the_pages_together_show_all_that_fit() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let partner = fill(&mut connection).await;
    let of_type = |name: &str| Filter { event_type: Some(name.to_owned()), ..Filter::default() };
    let in_state = |state| Filter { state: Some(state), ..Filter::default() };
    let windows = ROWS as usize / LOOKED_AT_MAX as usize + 1;
    let rare = of_type("rare");
    for analyzed in [false, true] {
        if analyzed {
            sqlx::raw_sql("vacuum analyze").execute(&mut *connection).await.unwrap();
        }
        for (filter, shown, pages) in [
            (&rare, 4, windows),
            (&Filter { state: Some(DeliveryState::Held), ..rare.clone() }, 2, windows),
            (&Filter { state: Some(DeliveryState::Delivered), ..rare.clone() }, 2, windows),
            (&Filter { state: Some(DeliveryState::Pending), ..Filter::default() }, 0, windows),
            (&Filter { subscriptions: Some(vec![]), ..Filter::default() }, 0, windows),
            (&in_state(DeliveryState::Dead), 3, 1),
            (&in_state(DeliveryState::Expired), 0, 1),
        ] {
            assert_eq!(turn_over(&mut connection, partner, filter, 10).await, (shown, pages), "{filter:?}");
        }
        let everything = turn_over(&mut connection, partner, &Filter::default(), 20_000).await;
        assert_eq!(everything, (2 * ROWS as usize, 3));
    }
}

#[tokio::test]
async fn a_page_reads_what_it_looks_through_and_no_more() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let partner = fill(&mut connection).await;
    sqlx::raw_sql("vacuum analyze").execute(&mut *connection).await.unwrap();
    let of_type = Filter { event_type: Some("rare".to_owned()), ..Filter::default() };
    let in_state = |state| Filter { state: Some(state), ..Filter::default() };
    for (filter, rows_max) in [
        (of_type.clone(), 3 * LOOKED_AT_MAX),
        (Filter { state: Some(DeliveryState::Delivered), ..of_type.clone() }, 3 * LOOKED_AT_MAX),
        (Filter { state: Some(DeliveryState::Held), ..of_type }, 3 * LOOKED_AT_MAX),
        (in_state(DeliveryState::Dead), 100),
        (in_state(DeliveryState::Cancelled), 100),
    ] {
        // Another session for each, or what the ones before have read may be told with it.
        let mut looking = database.pool.acquire().await.unwrap();
        sqlx::raw_sql("begin").execute(&mut *looking).await.unwrap();
        deliveries::list(&mut looking, partner, &filter, None, 10, LOOKED_AT_MAX).await.unwrap();
        for table in ["attempts", "queue"] {
            let (rows, _) = read_so_far(&mut looking, table).await;
            assert!(rows <= rows_max, "{rows} rows of {table} for {filter:?}");
        }
        looking.close_on_drop();
    }
}
