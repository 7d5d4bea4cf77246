//! What batches, resuming, counting, hastening and forgetting read: as much as they take, however long the queue and the history are. What is done again and
//! again does so although both were empty when it was planned; what is done now and then is planned with what is known by then.

use herald::domain::id::{CallbackId, DeliveryId, NodeId, PartnerId, SubscriptionId};
use herald::store::batches::{self, Terms};
use herald::store::queue::Reach;
use herald::store::{event_keys, idempotency, partitions, queue, sessions};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use super::plans::{LEASE_MS, ROWS, TAKEN, assert_read_little, read_so_far};
use crate::support::cluster::{self, TestDatabase};
use crate::support::sweeps;

const BATCH_SIZE: i32 = 10;
/// A database whose tables are said to be empty, and stay so.
async fn said_to_be_empty() -> TestDatabase {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    for empty in [
        "alter table queue set (autovacuum_enabled = false)",
        "alter table event_keys set (autovacuum_enabled = false)",
        "alter table idempotency set (autovacuum_enabled = false)",
        "vacuum analyze",
    ] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    database
}

/// A subscription with [`ROWS`] deliveries in the queue, each with its event.
async fn fill(pool: &PgPool, batched: bool, due_at: &str) -> (PartnerId, SubscriptionId) {
    let id = Uuid::now_v7();
    let subscribed = "with partner as (insert into partners (id, name) values ($1, 'one')),
        callback as (insert into callbacks (id, partner_id, surface, url, batch_size)
                     values ($1, $1, 'notifications', 'https://partner.example/', $2))
        insert into subscriptions (id, partner_id, surface, external_key, callback_id) values ($1, $1, 'notifications', 'one', $1)";
    sqlx::query(subscribed).bind(id).bind(BATCH_SIZE).execute(pool).await.unwrap();
    let rows = format!(
        "with events as (
             insert into events (id, partner_id, type, source, payload, occurred_at, matched)
             select herald_uuid7_beside(herald_uuid7_floor(herald_now())), $1, 'it.happened', '/', '', herald_now(), 1
             from generate_series(1, $2) returning id)
         insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, due_at)
         select $1, herald_uuid7_beside(id), id, $1, $3, {due_at} from events"
    );
    sqlx::query(sqlx::AssertSqlSafe(rows)).bind(id).bind(ROWS).bind(batched).execute(pool).await.unwrap();
    (PartnerId(id), SubscriptionId(id))
}

/// A session that has read nothing yet.
async fn unused(pool: &PgPool) -> PgConnection {
    PgConnection::connect_with(&pool.connect_options()).await.unwrap()
}

async fn begin(db: &mut PgConnection) {
    sqlx::raw_sql("begin").execute(db).await.unwrap();
}

#[tokio::test]
async fn batches_are_formed_and_claimed_without_reading_what_is_left() {
    let database = said_to_be_empty().await;
    let nobody = [CallbackId::new()];
    let terms = Terms {
        each_max: 8,
        except_of: &nobody,
        prompt: &nobody,
        ..Terms::of(NodeId::new(), LEASE_MS, TAKEN)
    };
    let [forming, claiming] = [(), ()].map(|()| sessions::in_index_order(&database.pool, 1));
    let (mut forming, mut claiming) = (forming.acquire().await.unwrap(), claiming.acquire().await.unwrap());
    assert!(batches::form(&mut forming, &terms, 0).await.unwrap().is_empty());
    assert!(batches::claim(&mut claiming, &terms).await.unwrap().is_empty());
    let suspect = batches::claim_suspect(&mut claiming, terms.owner, LEASE_MS);
    assert!(suspect.await.unwrap().is_none());
    let next = batches::next_due_ms(&mut claiming, 0, terms.except, terms.except_of);
    assert_eq!(next.await.unwrap(), None);

    fill(&database.pool, true, "herald_now()").await;
    begin(&mut forming).await;
    let formed = batches::form(&mut forming, &terms, 0).await.unwrap();
    assert_eq!(formed.concat().len() as i64, TAKEN);
    assert!(formed.concat().iter().all(|claimed| claimed.r#type.is_some()), "each with its event");
    assert_read_little(&mut forming, "queue", 12, 40).await;
    assert_read_little(&mut forming, "events", 12, 40).await;
    sqlx::raw_sql("commit").execute(&mut *forming).await.unwrap();

    // Many more batches than are claimed.
    let many = Terms { room: ROWS, each_max: 200, ..terms.clone() };
    let many = batches::form(&mut forming, &many, 0);
    assert_eq!(many.await.unwrap().len(), 200);
    let due = "update queue set due_at = herald_now() where batch_id is not null";
    sqlx::raw_sql(due).execute(&database.pool).await.unwrap();
    begin(&mut claiming).await;
    let next = batches::next_due_ms(&mut claiming, 0, terms.except, terms.except_of);
    assert!(next.await.unwrap().is_some_and(|ms| ms <= 0));
    let suspect = batches::claim_suspect(&mut claiming, terms.owner, LEASE_MS);
    assert!(suspect.await.unwrap().is_none());
    let claimed = batches::claim(&mut claiming, &terms).await.unwrap();
    assert_eq!(claimed.concat().len() as i64, TAKEN);
    // It finds 64 that are due, locks as many of these as a callback may have, and takes what there is room for.
    assert_read_little(&mut claiming, "queue", 100, 400).await;
    assert_read_little(&mut claiming, "events", 4, 16).await;
}

#[tokio::test]
async fn rule_20_whether_a_subscription_is_set_aside_is_looked_up_and_not_searched_for_in_all_that_are() {
    let database = said_to_be_empty().await;
    let sessions = sessions::in_index_order(&database.pool, 1);
    let mut claiming = sessions.acquire().await.unwrap();
    let (set_aside, now) = ([SubscriptionId::new()], chrono::DateTime::UNIX_EPOCH);
    let reach = Reach { due_from: None, set_aside: &set_aside, room: None };
    assert!(queue::claim_within(&mut claiming, NodeId::new(), 1, LEASE_MS, reach).await.unwrap().is_empty());
    assert_eq!(queue::next_due_ms(&mut claiming, now, 1, &set_aside).await.unwrap(), None);
    let terms = Terms { except: &set_aside, ..Terms::of(NodeId::new(), LEASE_MS, TAKEN) };
    assert!(batches::form(&mut claiming, &terms, 0).await.unwrap().is_empty());
    assert!(batches::claim(&mut claiming, &terms).await.unwrap().is_empty());
    assert_eq!(batches::next_due_ms(&mut claiming, 0, &set_aside, &[]).await.unwrap(), None);

    let planned = "select name, cardinality(parameter_types) from pg_prepared_statements where 'uuid[]'::regtype = any (parameter_types)";
    let planned: Vec<(String, i32)> = sqlx::query_as(planned).fetch_all(&mut *claiming).await.unwrap();
    assert_eq!(planned.len(), 5);
    for (name, parameters) in planned {
        let nothing = vec!["null"; parameters as usize].join(", ");
        let explained = format!("explain (costs off) execute {name} ({nothing})");
        let plan: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(explained)).fetch_all(&mut *claiming).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("NOT (hashed SubPlan") && !plan.contains("<> ALL"), "{plan}");
    }
}

/// So many subscriptions of partners of their own, each with as many deliveries due.
async fn crowd(pool: &PgPool, subscriptions: i64, each: i64) {
    let partners = "with p as (insert into partners (id, name) select gen_random_uuid(), 'one' from generate_series(1, $1) returning id),
            c as (insert into callbacks (id, partner_id, surface, url, batch_size)
                  select id, id, 'notifications', 'https://partner.example/', $2 from p returning id)
        insert into subscriptions (id, partner_id, surface, external_key, callback_id) select id, id, 'notifications', 'one', id from c";
    sqlx::query(partners).bind(subscriptions).bind(BATCH_SIZE).execute(pool).await.unwrap();
    let rows = "with events as (
            insert into events (id, partner_id, type, source, payload, occurred_at, matched)
            select herald_uuid7_beside(herald_uuid7_floor(herald_now())), s.id, 'it.happened', '/', '', herald_now(), 1
            from subscriptions s, generate_series(1, $1) returning id, partner_id)
        insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, due_at)
        select partner_id, herald_uuid7_beside(id), id, partner_id, true, herald_now() from events";
    sqlx::query(rows).bind(each).execute(pool).await.unwrap();
}

/// Does once more what this session has planned, and undoes it: how many deliveries it took, and how many rows all steps of its plan looked at.
async fn looked_at(db: &mut PgConnection, statement: &str, arguments: &str) -> (i64, i64) {
    let name = "select name from pg_prepared_statements where statement like $1";
    let name: String = sqlx::query_scalar(name).bind(statement).fetch_one(&mut *db).await.unwrap();
    begin(db).await;
    let explained = format!("explain (analyze, timing off, format json) execute {name} ({arguments})");
    let explained = sqlx::query_scalar(sqlx::AssertSqlSafe(explained));
    let explained: Value = explained.fetch_one(&mut *db).await.unwrap();
    sqlx::raw_sql("rollback").execute(db).await.unwrap();
    let plan = &explained[0]["Plan"];
    (plan["Actual Rows"].as_f64().unwrap() as i64, rows_of(plan))
}

fn rows_of(step: &Value) -> i64 {
    let each = ["Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter"]
        .map(|rows| step[rows].as_f64().unwrap_or_default());
    let all = each.iter().sum::<f64>() * step["Actual Loops"].as_f64().unwrap();
    all as i64 + step["Plans"].as_array().into_iter().flatten().map(rows_of).sum::<i64>()
}

#[tokio::test]
async fn batches_of_a_crowd_cost_as_much_each_as_those_of_one() {
    const SUBSCRIPTIONS: i64 = 300;
    let database = said_to_be_empty().await;
    let terms = Terms { each_max: 8, ..Terms::of(NodeId::new(), LEASE_MS, TAKEN) };
    let in_order = sessions::in_index_order(&database.pool, 1);
    let mut in_order = in_order.acquire().await.unwrap();
    assert!(batches::form(&mut in_order, &terms, 0).await.unwrap().is_empty());
    assert!(batches::claim(&mut in_order, &terms).await.unwrap().is_empty());

    let each = i64::from(BATCH_SIZE);
    crowd(&database.pool, SUBSCRIPTIONS, 10 * each).await;
    let form = "-- Gathers what is due%";
    for (room, takes) in [(TAKEN, TAKEN), (SUBSCRIPTIONS * each, SUBSCRIPTIONS * each)] {
        let arguments = format!(
            "gen_random_uuid(), {LEASE_MS}, 0, {room}, '{{}}', 8, {}, '{{}}', 8192, '{{}}', 200, 8",
            4 * 1024 * 1024
        );
        let (taken, rows) = looked_at(&mut in_order, form, &arguments).await;
        assert_eq!(taken, takes);
        // Of each subscription it is seen whether it has a full batch.
        let most = 80 * taken + 80 * SUBSCRIPTIONS;
        assert!(rows < most, "{rows} rows were looked at for {taken}");
    }

    let all = Terms { room: SUBSCRIPTIONS * each, ..terms };
    assert_eq!(batches::form(&mut in_order, &all, 0).await.unwrap().len() as i64, SUBSCRIPTIONS);
    let due = "update queue set due_at = herald_now() where batch_id is not null";
    sqlx::raw_sql(due).execute(&database.pool).await.unwrap();
    let arguments = format!("gen_random_uuid(), {LEASE_MS}, '{{}}', {ROWS}, '{{}}', 8, 8192, '{{}}', 200");
    let (taken, rows) = looked_at(&mut in_order, "-- Leases batches%limit 64%", &arguments).await;
    assert_eq!(taken, 64 * each);
    assert!(rows < 80 * taken, "{rows} rows were looked at for {taken}");
}

#[tokio::test]
async fn a_step_of_draining_looks_at_nobody_else_of_whom_something_is_held() {
    let database = said_to_be_empty().await;
    let in_order = sessions::in_index_order(&database.pool, 1);
    let mut in_order = in_order.acquire().await.unwrap();
    assert_eq!(sweeps::resume(&mut in_order, TAKEN).await.moved, 0);
    let (_, active) = fill(&database.pool, false, "'infinity'").await;
    crowd(&database.pool, 20 * TAKEN, 1).await;
    sqlx::raw_sql("update queue set due_at = 'infinity'").execute(&database.pool).await.unwrap();
    let others = sqlx::query("update subscriptions set state = 'paused' where id <> $1").bind(active.0);
    others.execute(&database.pool).await.unwrap();
    // By another session: what is counted of this one may be of its last transactions, too.
    let another = &mut *database.pool.acquire().await.unwrap();
    assert_eq!(queue::held_of_active(another).await.unwrap(), [active]);
    begin(&mut in_order).await;
    let resumed = queue::resume(&mut in_order, &[active], TAKEN).await.unwrap();
    assert_eq!((resumed.moved, resumed.unfinished), (TAKEN, true));
    assert_read_little(&mut in_order, "queue", 12, 40).await;
}

#[tokio::test]
async fn what_was_held_is_made_due_a_little_at_a_time_without_reading_the_rest() {
    for in_batches in [false, true] {
        let database = said_to_be_empty().await;
        let in_order = sessions::in_index_order(&database.pool, 1);
        let mut in_order = in_order.acquire().await.unwrap();
        let resume = async |db: &mut PgConnection| sweeps::resume(db, TAKEN).await;
        assert_eq!(resume(&mut in_order).await.moved, 0);
        fill(&database.pool, in_batches, "'infinity'").await;
        if in_batches {
            let together = "update queue q set batch_id = lpad((o.number / $1)::text, 32, '0')::uuid
                from (select delivery_id, row_number() over (order by event_id) - 1 as number from queue) o
                where o.delivery_id = q.delivery_id";
            sqlx::query(together).bind(BATCH_SIZE).execute(&database.pool).await.unwrap();
        }
        begin(&mut in_order).await;
        let resumed = resume(&mut in_order).await;
        assert_eq!((resumed.moved, resumed.unfinished), (TAKEN, true), "in batches: {in_batches}");
        assert_read_little(&mut in_order, "queue", 12, 40).await;
    }
}

#[tokio::test]
async fn one_delivery_is_hastened_without_reading_the_others() {
    let database = said_to_be_empty().await;
    let (partner, _) = fill(&database.pool, true, "herald_now() + interval '1 hour'").await;
    let first = "select delivery_id from queue order by delivery_id limit 1";
    let first: Uuid = sqlx::query_scalar(first).fetch_one(&database.pool).await.unwrap();
    sqlx::raw_sql("vacuum analyze queue").execute(&database.pool).await.unwrap();
    let mut connection = unused(&database.pool).await;
    begin(&mut connection).await;
    assert!(queue::hasten(&mut connection, partner, DeliveryId(first)).await.unwrap());
    assert_read_little(&mut connection, "queue", 1, 2).await;
}

#[tokio::test]
async fn what_is_old_is_forgotten_without_reading_what_is_not() {
    let database = said_to_be_empty().await;
    for many in [
        "insert into event_keys (partner_id, key, event_id, content_hash, created_at)
         select gen_random_uuid(), 'key', gen_random_uuid(), sha256(''),
                herald_now() - case when n > $1 - 100 then interval '8 days' else interval '1 hour' end
         from generate_series(1, $1) as n",
        "insert into idempotency (partner_id, request_id, fingerprint, status, answer, created_at)
         select gen_random_uuid(), gen_random_uuid(), '', 200, '',
                herald_now() - case when n > $1 - 100 then interval '2 days' else interval '1 hour' end
         from generate_series(1, $1) as n",
    ] {
        sqlx::query(many).bind(ROWS).execute(&database.pool).await.unwrap();
    }
    sqlx::raw_sql("vacuum analyze event_keys, idempotency").execute(&database.pool).await.unwrap();
    let mut connection = unused(&database.pool).await;
    begin(&mut connection).await;
    assert_eq!(event_keys::forget(&mut connection, TAKEN).await.unwrap() as i64, TAKEN);
    assert_eq!(idempotency::forget(&mut connection, TAKEN).await.unwrap() as i64, TAKEN);
    for table in ["event_keys", "idempotency"] {
        assert_read_little(&mut connection, table, 4, 12).await;
    }
}

#[tokio::test]
async fn what_is_held_is_counted_no_further_than_is_asked() {
    let database = said_to_be_empty().await;
    let mut counting = database.pool.acquire().await.unwrap();
    let count = async |db: &mut PgConnection, subscription| {
        begin(db).await;
        sessions::plan_once_here(db).await.unwrap();
        // What was read before this transaction may be among it as long as it is not told.
        let (before, _) = read_so_far(db, "queue").await;
        let counted = queue::count_held(db, subscription, TAKEN).await.unwrap();
        let rows = read_so_far(db, "queue").await.0 - before;
        sqlx::raw_sql("commit").execute(&mut *db).await.unwrap();
        // Beside each there may be what it was before it waited.
        assert!(rows <= 3 * TAKEN, "{rows} rows were read to count {counted}");
        counted
    };
    assert_eq!(count(&mut counting, SubscriptionId::new()).await, 0);
    let (_, held) = fill(&database.pool, false, "'infinity'").await;
    let (_, waiting) = fill(&database.pool, false, "'infinity'").await;
    let behind_another = "update queue set line = 1, place = 1, waits = true where subscription_id = $1";
    sqlx::query(behind_another).bind(waiting.0).execute(&database.pool).await.unwrap();
    for (state, behind_another) in [("active", 0), ("paused", TAKEN), ("disabled", TAKEN)] {
        sqlx::query("update subscriptions set state = $1").bind(state).execute(&database.pool).await.unwrap();
        assert_eq!(count(&mut counting, held).await, TAKEN, "{state}");
        assert_eq!(count(&mut counting, waiting).await, behind_another, "{state}, behind another");
    }
}
