//! Lists of deliveries, however long the history is and however little of it they show.

use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use herald::domain::delivery::DeliveryState;
use herald::domain::id::{DeliveryId, PartnerId, ReplayId};
use herald::domain::replay::{ReplayState, Selection};
use herald::store::deliveries::{self, Filter};
use herald::store::replays::{self, Replay, Step};
use herald::store::{partitions, sessions};
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
async fn a_page_reads_what_it_looks_through_although_there_was_nothing_when_it_was_planned() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let asleep = "alter table queue set (autovacuum_enabled = false); alter table subscriptions set (autovacuum_enabled = false); vacuum analyze";
    for statement in asleep.split("; ") {
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
    }
    let of_type = Filter { event_type: Some("rare".to_owned()), ..Filter::default() };
    let in_state = |state| Filter { state: Some(state), ..Filter::default() };
    let mut sessions = Vec::new();
    for (filter, rows_max) in [
        (Filter::default(), 100),
        (of_type.clone(), 3 * LOOKED_AT_MAX),
        (Filter { state: Some(DeliveryState::Delivered), ..of_type.clone() }, 3 * LOOKED_AT_MAX),
        (Filter { state: Some(DeliveryState::Held), ..of_type }, 3 * LOOKED_AT_MAX),
        (in_state(DeliveryState::Dead), 100),
        (in_state(DeliveryState::Cancelled), 100),
    ] {
        // Another session for each, or what the ones before have read may be told with it.
        let mut looking = database.pool.acquire().await.unwrap();
        look(&mut looking, PartnerId::new(), &filter).await;
        sqlx::raw_sql("commit").execute(&mut *looking).await.unwrap();
        sessions.push((looking, filter, rows_max));
    }
    let partner = fill(&mut connection).await;
    for (mut looking, filter, rows_max) in sessions {
        look(&mut looking, partner, &filter).await;
        for table in ["attempts", "queue", "events", "subscriptions"] {
            let (rows, _) = read_so_far(&mut looking, table).await;
            assert!(rows <= rows_max, "{rows} rows of {table} for {filter:?}");
        }
        looking.close_on_drop();
    }
}

/// Lists a first page as requests do, in a transaction that goes on.
async fn look(db: &mut PgConnection, partner: PartnerId, filter: &Filter) {
    sqlx::raw_sql("begin").execute(&mut *db).await.unwrap();
    sessions::plan_once_here(db).await.unwrap();
    deliveries::list(db, partner, filter, None, 10, LOOKED_AT_MAX).await.unwrap();
}

/// A replay of all that ended so, locked.
async fn replay(db: &mut PgConnection, partner: PartnerId, state: DeliveryState) -> Replay {
    let of = Selection {
        state,
        subscription: None,
        event_type: None,
        from: DateTime::from_timestamp(1, 0),
        until: None,
    };
    assert!(replays::insert(db, (partner, ReplayId::new()), &of, None, false).await.unwrap());
    replays::take(db).await.unwrap().unwrap()
}

fn stands(state: ReplayState, reached: Option<DeliveryId>) -> Step {
    Step { matched: 0, queued: 0, skipped: 0, state, reached, wait: Duration::ZERO }
}

#[tokio::test]
async fn replays_find_each_delivery_by_its_key_although_there_was_none_when_that_was_planned() {
    const FIT_MAX: i64 = 500;
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let asleep = "alter table queue set (autovacuum_enabled = false); vacuum analyze";
    for statement in asleep.split("; ") {
        sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap();
    }
    let states = [DeliveryState::Dead, DeliveryState::Delivered];
    let pools = [(), ()].map(|()| sessions::in_index_order(&database.pool, 1));
    for (pool, state) in pools.iter().zip(states) {
        let mut looking = pool.acquire().await.unwrap();
        let nothing = replay(&mut looking, PartnerId::new(), state).await;
        let looked = replays::look(&mut looking, &nothing, FIT_MAX, LOOKED_AT_MAX).await.unwrap();
        assert!(looked.fit.is_empty() && looked.rest.is_none());
        replays::note(&mut looking, &nothing, stands(ReplayState::Done, None)).await.unwrap();
    }
    let partner = fill(&mut connection).await;
    // Whatever the time of day is: all of that has happened by then.
    database.advance(TimeDelta::hours(2)).await;
    for ((pool, state), (fit, rows_max)) in
        pools.iter().zip(states).zip([(3, 100), (FIT_MAX, 3 * LOOKED_AT_MAX)])
    {
        let mut looking = pool.acquire().await.unwrap();
        let replay = replay(&mut looking, partner, state).await;
        sqlx::raw_sql("begin").execute(&mut *looking).await.unwrap();
        let looked = replays::look(&mut looking, &replay, FIT_MAX, LOOKED_AT_MAX).await.unwrap();
        assert_eq!(looked.fit.len() as i64, fit);
        for table in ["attempts", "queue"] {
            let (rows, _) = read_so_far(&mut looking, table).await;
            assert!(rows <= rows_max, "{rows} rows of {table} for {state:?}");
        }
        sqlx::raw_sql("commit").execute(&mut *looking).await.unwrap();
        replays::note(&mut looking, &replay, stands(ReplayState::Done, None)).await.unwrap();
    }
}

#[tokio::test]
async fn the_steps_of_a_replay_meet_everything_once_however_short_they_are() {
    let database = cluster::database().await;
    let mut db = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut db).await.unwrap();
    // The second arrived with its third attempt, the third is dead, and the fourth is queued again.
    let rows: Vec<(Uuid,)> = sqlx::query_as(
        "with moments as materialized (
             select number, herald_uuid7_beside(herald_uuid7_floor(herald_now() - interval '1 second' + number * interval '1 ms')) as id
             from generate_series(1, 5) as number),
         again as (insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
                   select $1, id, id, $1, herald_now() from moments where number = 4),
         attempts as (
             insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
             select $1, m.id, herald_uuid7_beside(herald_uuid7_floor(herald_now() + try * interval '1 ms')), m.id, $1, 'it.happened',
                    case when try = 3 and number <> 3 then 'delivered' else 'refused' end,
                    case when try = 3 and number = 3 then 'dead' when try = 3 then 'delivered' end, herald_now(), 1
             from moments m cross join generate_series(1, 3) as try where number = 2 or try = 3)
         select id from moments where number in (1, 2, 5) order by id",
    )
    .bind(Uuid::nil())
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let fit: Vec<DeliveryId> = rows.into_iter().map(|(id,)| DeliveryId(id)).collect();
    for (limit, looked_at_max) in [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (3, 100), (1, 100), (100, 1)] {
        let mut replay = replay(&mut db, PartnerId(Uuid::nil()), DeliveryState::Delivered).await;
        let mut met = Vec::new();
        loop {
            let looked = replays::look(&mut db, &replay, limit, looked_at_max).await.unwrap();
            met.extend(looked.fit.iter().map(|one| one.delivery));
            let Some(rest) = looked.rest else { break };
            replays::note(&mut db, &replay, stands(ReplayState::Queueing, Some(rest))).await.unwrap();
            replay = replays::take(&mut db).await.unwrap().unwrap();
            assert_eq!(replay.reached_at(), Some(rest.moment()));
        }
        assert_eq!(met, fit, "{limit} of {looked_at_max}");
        replays::note(&mut db, &replay, stands(ReplayState::Done, None)).await.unwrap();
    }
}
