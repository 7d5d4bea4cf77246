//! What the statements read that are made again and again: as much as they take, however long the queue is, although it was empty when they
//! were planned.

use std::time::{Duration, Instant};

use herald::domain::attempt::Outcome;
use herald::domain::delivery::{DeliveryState, Lease, Whereabouts};
use herald::domain::id::{DeliveryId, NodeId, PartnerId, SubscriptionId};
use herald::domain::redirect_session::SessionState;
use herald::domain::version::IfMatch;
use herald::store::events::{self, Alongside, BirthLease, Insert};
use herald::store::queue::{self, Books, Claimed, Ending, Finish, Share};
use herald::store::{event_keys, idempotency, partitions, redirect_sessions, sessions};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::support::partner::PATIENCE;
use crate::support::sweeps;
use crate::support::{cluster, leases};

pub const ROWS: i64 = 20_000;
pub const TAKEN: i64 = 40;
pub const LEASE_MS: i64 = 30_000;

/// Rows of one subscription that nobody has leased and that are due.
async fn fill(db: &mut PgConnection, rows: i64) -> SubscriptionId {
    let subscription = SubscriptionId::new();
    sqlx::query(
        "insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at)
         select $1, gen_random_uuid(), gen_random_uuid(), $2, herald_now() from generate_series(1, $3)",
    )
    .bind(Uuid::new_v4())
    .bind(subscription.0)
    .bind(rows)
    .execute(db)
    .await
    .unwrap();
    subscription
}

/// Of a row whose event there is not.
fn lease(row: &Claimed) -> Lease {
    let (partner, delivery) = (PartnerId(row.partner_id), DeliveryId(row.delivery_id));
    Lease { partner, delivery, epoch: row.lease_epoch, at: Whereabouts::Row(row.row_at), ..leases::unknown() }
}

fn ended(lease: &Lease, (ending, outcome): (Ending, Outcome)) -> Finish<'_> {
    leases::finish(lease, ending, outcome)
}

const ENDS: [(Ending, Outcome); 4] = [
    (Ending::Final(DeliveryState::Delivered), Outcome::Delivered),
    (Ending::Final(DeliveryState::Dead), Outcome::Refused),
    (Ending::Retry { delay_ms: 0 }, Outcome::Refused),
    (Ending::Hold, Outcome::Refused),
];

/// Rows of a table, of all its days where it has days, that this transaction has read so far, and blocks of it and of its indexes: to find one
/// row by walking along an index reads one row.
pub async fn read_so_far(db: &mut PgConnection, table: &str) -> (i64, i64) {
    let read = "select sum(seq_tup_read + idx_tup_fetch)::int8,
            sum(pg_stat_get_xact_blocks_fetched(relid)
                + (select sum(pg_stat_get_xact_blocks_fetched(indexrelid)) from pg_index where indrelid = relid))::int8
        from pg_stat_xact_user_tables where relname ~ ('^' || $1 || '(_[0-9]{8})?$')";
    sqlx::query_as(read).bind(table).fetch_one(db).await.unwrap()
}

/// A few rows, and a few blocks, for each of those that are looked up.
pub async fn assert_read_little(db: &mut PgConnection, table: &str, rows_each: i64, blocks_each: i64) {
    let (rows, blocks) = read_so_far(db, table).await;
    assert!(rows < rows_each * TAKEN, "{rows} rows of {table} were read");
    assert!(blocks < blocks_each * TAKEN, "{blocks} blocks of {table} were read for {rows} rows");
}

#[tokio::test]
async fn statements_that_were_planned_while_the_queue_was_empty_read_what_they_take() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    let node = NodeId::new();
    for empty in ["alter table queue set (autovacuum_enabled = false)", "vacuum analyze queue"] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    let in_order = sessions::in_index_order(&database.pool, 1);
    let mut in_order = in_order.acquire().await.unwrap();

    // All of them are planned now.
    let drawn = |subscription| [Share { subscription, up_to: TAKEN, due_from: None }];
    let nothing =
        queue::draw(&mut in_order, node, LEASE_MS, &drawn(SubscriptionId::new()), None).await.unwrap();
    assert!(nothing.is_empty());
    assert!(queue::claim(&mut in_order, node, TAKEN, LEASE_MS).await.unwrap().is_empty());
    assert!(queue::claim_suspect(&mut in_order, node, LEASE_MS).await.unwrap().is_none());
    let unknown = leases::unknown();
    for end in ENDS {
        assert_eq!(
            queue::finish(&mut by_key, &mut Books::default(), node, &[ended(&unknown, end)])
                .await
                .unwrap()
                .changed,
            0
        );
    }

    let many = fill(&mut connection, ROWS).await;
    sqlx::raw_sql("begin").execute(&mut *in_order).await.unwrap();
    let mut rows = queue::claim(&mut in_order, node, TAKEN, LEASE_MS).await.unwrap();
    rows.extend(queue::draw(&mut in_order, node, LEASE_MS, &drawn(many), None).await.unwrap());
    assert!(queue::claim_suspect(&mut in_order, node, LEASE_MS).await.unwrap().is_none());
    assert_eq!(rows.len() as i64, 2 * TAKEN);
    assert_read_little(&mut in_order, "queue", 8, 30).await;
    sqlx::raw_sql("commit").execute(&mut *in_order).await.unwrap();

    let leases: Vec<Lease> = rows.iter().map(lease).collect();
    let ends: Vec<Finish<'_>> =
        leases.iter().zip(ENDS.iter().cycle()).map(|(lease, end)| ended(lease, *end)).collect();
    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    let done = queue::finish(&mut by_key, &mut Books::default(), node, &ends).await.unwrap();
    assert_eq!(done.changed, 2 * TAKEN);
    assert_read_little(&mut by_key, "queue", 8, 30).await;
    sqlx::raw_sql("commit").execute(&mut *by_key).await.unwrap();

    // And so do those that are planned while it is long, and said to be short.
    let late = sessions::in_index_order(&database.pool, 1);
    let mut late = late.acquire().await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *late).await.unwrap();
    let claimed = queue::claim(&mut late, node, TAKEN, LEASE_MS).await.unwrap();
    assert_eq!(claimed.len() as i64, TAKEN);
    assert_read_little(&mut late, "queue", 4, 30).await;
    sqlx::raw_sql("rollback").execute(&mut *late).await.unwrap();
}

#[tokio::test]
async fn claims_read_the_events_of_what_they_take_and_not_the_history() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    let history = "insert into events (id, partner_id, type, source, payload, occurred_at, matched)
        select herald_uuid7_beside(herald_uuid7_floor(herald_now())), $1, 'it.happened', '/', '', herald_now(), 1 from generate_series(1, $2)";
    sqlx::query(history).bind(Uuid::new_v4()).bind(ROWS).execute(&mut *connection).await.unwrap();
    let subscription = fill(&mut connection, ROWS).await;
    let theirs = "update queue set event_id = e.id from
            (select id, row_number() over () from events) e, (select ctid as at, row_number() over () from queue) q
        where e.row_number = q.row_number and queue.ctid = q.at";
    for step in [theirs, "analyze events", "analyze queue"] {
        sqlx::raw_sql(step).execute(&mut *connection).await.unwrap();
    }
    let pool = sessions::in_index_order(&database.pool, 1);
    let mut in_order = pool.acquire().await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *in_order).await.unwrap();
    let mut taken = queue::claim(&mut in_order, NodeId::new(), TAKEN, LEASE_MS).await.unwrap();
    let share = Share { subscription, up_to: TAKEN, due_from: None };
    taken.extend(queue::draw(&mut in_order, NodeId::new(), LEASE_MS, &[share], None).await.unwrap());
    taken.extend(queue::claim_suspect(&mut in_order, NodeId::new(), LEASE_MS).await.unwrap());
    assert_eq!(taken.len() as i64, 2 * TAKEN);
    assert!(taken.iter().all(|claimed| claimed.r#type.is_some()), "each with its event");
    assert_read_little(&mut in_order, "events", 4, 12).await;
    sqlx::raw_sql("commit").execute(&mut *in_order).await.unwrap();
}

#[tokio::test]
async fn what_was_deleted_is_looked_for_by_subscription_and_not_by_row() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    for empty in ["alter table queue set (autovacuum_enabled = false)", "vacuum analyze queue"] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let subscribed = "with p as (insert into partners (id, name) values (gen_random_uuid(), 'p') returning id),
            c as (insert into callbacks (id, partner_id, surface, url) select gen_random_uuid(), id, 'redirect', 'https://x.example' from p returning id, partner_id)
        insert into subscriptions (id, partner_id, surface, external_key, callback_id, state)
        select case n when 1 then $1 else gen_random_uuid() end, partner_id, 'redirect', n::text, id,
               case n % 2 when 1 then 'active' else 'deleted' end
        from c, generate_series(1, 1000) n";
    for _ in 0..2 {
        let subscription = fill(&mut connection, ROWS / 2).await;
        sqlx::query(subscribed).bind(subscription.0).execute(&mut *connection).await.unwrap();
    }
    sqlx::raw_sql("analyze subscriptions").execute(&mut *connection).await.unwrap();
    // A session of its own, which has read nothing yet.
    let mut sweep = database.pool.acquire().await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *sweep).await.unwrap();
    assert_eq!(sweeps::cancel_deleted(&mut sweep, TAKEN).await, 0);
    assert_read_little(&mut sweep, "queue", 1, 2).await;
    sqlx::raw_sql("commit").execute(&mut *sweep).await.unwrap();
}

#[tokio::test]
async fn the_next_in_line_is_looked_up_by_key_although_the_queue_was_empty_when_that_was_planned() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    for empty in ["alter table queue set (autovacuum_enabled = false)", "vacuum analyze queue"] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    let (node, books) = (NodeId::new(), &mut Books::default());
    queue::finish(&mut by_key, books, node, &[ended(&leases::unknown(), ENDS[1])]).await.unwrap();

    let head = leases::unknown();
    let line = "insert into ordering_lines (partner_id, subscription_id, line, last_place, unfinished) values ($1, $2, 7, $3, $3)";
    sqlx::query(line)
        .bind(head.partner.0)
        .bind(head.subscription.0)
        .bind(ROWS)
        .execute(&mut *connection)
        .await
        .unwrap();
    let places = "insert into queue (partner_id, delivery_id, event_id, subscription_id, line, place, waits, due_at, lease_owner, lease_epoch)
        select $1, case place when 1 then $3 else lpad(place::text, 32, '0')::uuid end, gen_random_uuid(), $2, 7, place, place > 1,
               case place when 1 then herald_now() + interval '30 seconds' else 'infinity' end, case place when 1 then $4 end, (place = 1)::int
        from generate_series(1, $5) place";
    sqlx::query(places)
        .bind(head.partner.0)
        .bind(head.subscription.0)
        .bind(head.delivery.0)
        .bind(node.0)
        .bind(ROWS)
        .execute(&mut *connection)
        .await
        .unwrap();
    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    let done = queue::finish(&mut by_key, books, node, &[ended(&head, ENDS[1])]).await.unwrap();
    assert_eq!((done.changed, done.let_out), (1, 1));
    assert_read_little(&mut by_key, "queue", 1, 3).await;
    sqlx::raw_sql("commit").execute(&mut *by_key).await.unwrap();
}

#[tokio::test]
async fn a_row_that_changes_while_it_is_claimed_is_claimed_all_the_same() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    let subscription = fill(&mut connection, TAKEN).await;
    // Time stands still between a statement's snapshot and its first row for as long as somebody holds the lock.
    let slow_time =
        "create or replace function herald_now() returns timestamptz language plpgsql stable as $$
        begin perform pg_advisory_xact_lock_shared(7); return statement_timestamp(); end $$";
    sqlx::raw_sql(slow_time).execute(&mut *connection).await.unwrap();
    let pool = sessions::in_index_order(&database.pool, 1);
    let claim = async |pool: PgPool, draws: bool| {
        let (mut connection, node) = (pool.acquire().await.unwrap(), NodeId::new());
        let share = Share { subscription, up_to: TAKEN, due_from: None };
        let claimed = match draws {
            false => queue::claim(&mut connection, node, TAKEN, LEASE_MS).await,
            true => queue::draw(&mut connection, node, LEASE_MS, &[share], None).await,
        };
        claimed.unwrap().len() as i64
    };
    for draws in [false, true] {
        // The first time it is planned, for which the time is asked as well.
        assert_eq!(claim(pool.clone(), draws).await, TAKEN);
        for change in [
            "update queue set lease_owner = null, due_at = statement_timestamp()",
            "select pg_advisory_lock(7)",
        ] {
            sqlx::raw_sql(change).execute(&mut *connection).await.unwrap();
        }
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7 and not granted
            and database = (select oid from pg_database where datname = current_database())";
        let change = async {
            let asked = Instant::now();
            while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *connection).await.unwrap() == 0 {
                assert!(asked.elapsed() < PATIENCE, "the claim does not ask for the time");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for change in [
                "update queue set attempts = attempts + 1
                 where delivery_id = (select max(delivery_id::text) from queue)::uuid",
                "select pg_advisory_unlock(7)",
            ] {
                sqlx::raw_sql(change).execute(&mut *connection).await.unwrap();
            }
        };
        let (claimed, ()) = tokio::join!(claim(pool.clone(), draws), change);
        assert_eq!(claimed, TAKEN, "drawn: {draws}");
        let again = "update queue set lease_owner = null, due_at = statement_timestamp()";
        sqlx::raw_sql(again).execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test]
async fn sessions_are_looked_up_by_key_although_there_were_none_when_that_was_planned() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut connection).await.unwrap();
    for empty in
        ["alter table redirect_sessions set (autovacuum_enabled = false)", "vacuum analyze redirect_sessions"]
    {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    let lease = BirthLease { owner: NodeId::new(), duration: Duration::from_secs(30) };
    redirect_sessions::read(&mut by_key, &[]).await.unwrap();
    events::plan_inserts(&mut by_key, lease).await.unwrap();

    let partner = PartnerId::new();
    let many = "insert into redirect_sessions (partner_id, id, type, created_at, updated_at, expires_at)
        select $1, gen_random_uuid(), 'NewCustomer', herald_now(), herald_now(), herald_now() + interval '1 minute'
        from generate_series(1, $2) returning id";
    let ids: Vec<Uuid> =
        sqlx::query_scalar(many).bind(partner.0).bind(ROWS).fetch_all(&mut *connection).await.unwrap();
    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    let wanted: Vec<_> = ids[..TAKEN as usize].iter().map(|id| (partner, *id)).collect();
    let found = redirect_sessions::read(&mut by_key, &wanted).await.unwrap();
    let end = |(number, found): (usize, redirect_sessions::Found)| {
        let session = found.session.end(SessionState::Cancelled, &IfMatch::Absent, found.read_at).unwrap();
        redirect_sessions::Ended { session, row_at: found.row_at, remembered: number % 2 == 0 }
    };
    let cancelled: Vec<_> = found.into_iter().enumerate().map(end).collect();
    assert_eq!(cancelled.len() as i64, TAKEN);
    let alongside = Alongside { cancelled: &cancelled, answers: &[] };
    let insert = Insert { events: &[], matched: &[], deliveries: &[], versions: &[], alongside };
    events::insert(&mut by_key, lease, insert).await.unwrap();
    assert_read_little(&mut by_key, "redirect_sessions", 2, 10).await;
    sqlx::raw_sql("commit").execute(&mut *by_key).await.unwrap();
}

#[tokio::test]
async fn ids_that_were_chosen_are_looked_up_by_key_although_there_were_none_when_that_was_planned() {
    let database = cluster::database().await;
    let mut connection = database.pool.acquire().await.unwrap();
    for empty in [
        "alter table idempotency set (autovacuum_enabled = false)",
        "alter table event_keys set (autovacuum_enabled = false)",
        "vacuum analyze idempotency",
        "vacuum analyze event_keys",
    ] {
        sqlx::raw_sql(empty).execute(&mut *connection).await.unwrap();
    }
    let mut by_key = database.pool.acquire().await.unwrap();
    sessions::plan_once_by_key(&mut by_key).await.unwrap();
    idempotency::find_many(&mut by_key, &[]).await.unwrap();
    event_keys::find_many(&mut by_key, &[]).await.unwrap();
    event_keys::set_matched(&mut by_key, &[], &[]).await.unwrap();
    event_keys::release_many(&mut by_key, &[]).await.unwrap();

    let partner = PartnerId::new();
    let answers = "insert into idempotency (partner_id, request_id, fingerprint, status, answer)
        select $1, gen_random_uuid(), '', 200, '' from generate_series(1, $2) returning request_id";
    let answers: Vec<Uuid> =
        sqlx::query_scalar(answers).bind(partner.0).bind(ROWS).fetch_all(&mut *connection).await.unwrap();
    let keys = "insert into event_keys (partner_id, key, event_id, content_hash)
        select $1, 'key-' || number, gen_random_uuid(), sha256('') from generate_series(1, $2) number returning key";
    let keys: Vec<String> =
        sqlx::query_scalar(keys).bind(partner.0).bind(ROWS).fetch_all(&mut *connection).await.unwrap();
    let answers: Vec<_> = answers.into_iter().take(TAKEN as usize).map(|id| (partner, id)).collect();
    let keys: Vec<_> = keys.into_iter().take(TAKEN as usize).map(|key| (partner, key)).collect();
    sqlx::raw_sql("begin").execute(&mut *by_key).await.unwrap();
    // Twice the same is answered once.
    let asked = [&answers[..], &answers[..1]].concat();
    assert_eq!(idempotency::find_many(&mut by_key, &asked).await.unwrap().len() as i64, TAKEN);
    assert_eq!(event_keys::find_many(&mut by_key, &keys).await.unwrap().len() as i64, TAKEN);
    event_keys::set_matched(&mut by_key, &keys, &vec![7; keys.len()]).await.unwrap();
    let found = event_keys::find_many(&mut by_key, &keys).await.unwrap();
    assert!(found.iter().all(|taken| taken.matched == 7));
    event_keys::release_many(&mut by_key, &keys).await.unwrap();
    assert_read_little(&mut by_key, "idempotency", 4, 12).await;
    // Four times, and once of these each row was written anew, with its entries in two indexes.
    assert_read_little(&mut by_key, "event_keys", 6, 36).await;
    sqlx::raw_sql("commit").execute(&mut *by_key).await.unwrap();
    let left = "select count(*) from event_keys";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&mut *connection).await.unwrap(), ROWS - TAKEN);
}
