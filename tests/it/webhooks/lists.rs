//! Which subscriptions a list has, by every filter and all of them together, and that it reads these and few others: a partner may have many.

use herald::domain::id::PartnerId;
use herald::domain::webhook::{AccountId, EventName};
use herald::store::webhooks::{self, Filter};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::delivery::plans::read_so_far;
use crate::support::cluster;

const ROWS: i64 = 5_000;

/// A living subscription, as the tables have it.
#[derive(sqlx::FromRow)]
pub struct There {
    pub id: Uuid,
    pub key: String,
    account: Option<String>,
    event: String,
}

/// A partner with so many subscriptions: ten to an account, each to another event, and every seventh of them deleted. The last is by itself.
pub async fn fill(db: &mut PgConnection, rows: i64) -> (PartnerId, Vec<There>) {
    let partner = PartnerId::new();
    let made = "with partner as (insert into partners (id, name) values ($1, 'one')),
        made as (
            select number, gen_random_uuid() as callback, herald_uuid7_beside(herald_uuid7_floor(herald_now() + number * interval '1 ms')) as id,
                   case when number = $2 then 'last' when number >= 10 then 'account-' || number / 10 end as account,
                   case when number = $2 then 'rare_event' else 'event_' || number % 10 end as event,
                   number % 7 = 3 as deleted
            from generate_series(1, $2) number),
        called as (
            insert into callbacks (id, partner_id, surface, url, credentials)
            select callback, $1, 'webhooks', 'https://partner.example/', case when not deleted then bytea '' end from made),
        subscribed as (
            insert into subscriptions (id, partner_id, surface, external_key, callback_id, state)
            select id, $1, 'webhooks', gen_random_uuid(), callback, case when deleted then 'deleted' else 'active' end from made),
        owned as (
            insert into webhooks (subscription_id, partner_id, account_id) select id, $1, account from made)
        insert into subscription_event_types (partner_id, subscription_id, surface, event_type, exclusive_in)
        select $1, id, 'webhooks', event, sha256(convert_to(coalesce(account, ''), 'UTF8')) from made where not deleted";
    sqlx::query(made).bind(partner.0).bind(rows).execute(&mut *db).await.unwrap();
    let there = "select s.id, s.external_key as key, w.account_id as account, t.event_type as event
        from subscriptions s join webhooks w on w.subscription_id = s.id join subscription_event_types t on t.subscription_id = s.id
        where s.partner_id = $1 and s.state <> 'deleted' order by s.id";
    (partner, sqlx::query_as(there).bind(partner.0).fetch_all(db).await.unwrap())
}

const TABLES: [&str; 4] = ["subscriptions", "webhooks", "callbacks", "subscription_event_types"];

async fn read(db: &mut PgConnection) -> i64 {
    let mut rows = 0;
    for table in TABLES {
        rows += read_so_far(db, table).await.0;
    }
    rows
}

#[tokio::test]
async fn every_filter_finds_what_it_should_and_reads_little_else_however_it_is_planned() {
    let database = cluster::database().await;
    let mut db = database.pool.acquire().await.unwrap();
    // By what the planner knows, a partner has few.
    for _ in 0..30 {
        fill(&mut db, 10).await;
    }
    let deleted = "select external_key from subscriptions where state = 'deleted' limit 1";
    let deleted: String = sqlx::query_scalar(deleted).fetch_one(&mut *db).await.unwrap();
    sqlx::raw_sql("analyze").execute(&mut *db).await.unwrap();
    let (_, others) = fill(&mut db, ROWS).await;
    let (partner, there) = fill(&mut db, ROWS).await;
    let last = there.last().unwrap();

    let id = |key: &str| Uuid::parse_str(key).unwrap();
    let many: Vec<Uuid> =
        [&last.key, &there[100].key, &others[0].key, &deleted, &there[100].key, &there[7].key]
            .map(|key| id(key))
            .to_vec();
    let ids = [None, Some(vec![]), Some(vec![id(&last.key)]), Some(many)];
    let events = [None, Some("rare_event"), Some("event_4"), Some("nobodys")];
    let accounts = [None, Some("last"), Some("account-499"), Some("nobodys")];
    for mode in ["auto", "force_custom_plan", "force_generic_plan"] {
        let mut reading = database.pool.acquire().await.unwrap();
        let mode = sqlx::AssertSqlSafe(format!("begin; set plan_cache_mode = {mode}"));
        sqlx::raw_sql(mode).execute(&mut *reading).await.unwrap();
        for ids in &ids {
            for event in events {
                for account in accounts {
                    let expected = there.iter().filter(|one| {
                        ids.as_ref().is_none_or(|ids| ids.contains(&id(&one.key)))
                            && event.is_none_or(|event| one.event == event)
                            && account.is_none_or(|account| one.account.as_deref() == Some(account))
                    });
                    let (event, account) =
                        (event.and_then(EventName::parse), account.and_then(AccountId::parse));
                    let filter =
                        Filter { ids: ids.as_deref(), event: event.as_ref(), account: account.as_ref() };
                    for limit in [1, 50] {
                        let expected: Vec<Uuid> = expected.clone().take(limit).map(|one| one.id).collect();
                        let before = read(&mut reading).await;
                        let found =
                            webhooks::list(&mut reading, partner, &filter, limit as i64).await.unwrap();
                        let found: Vec<Uuid> =
                            found.iter().map(|kept| kept.webhook.subscription.id.0).collect();
                        assert_eq!(found, expected, "{filter:?}");
                        let rows = read(&mut reading).await - before;
                        let few = 6 * (limit as i64 + 6);
                        assert!(rows <= few, "{rows} rows were read by {filter:?} up to {limit}");
                    }
                }
            }
        }
        let before = read(&mut reading).await;
        webhooks::lock(&mut reading, partner, &[id(&last.key), id(&there[7].key)]).await.unwrap();
        let rows = read(&mut reading).await - before;
        assert!((2..=20).contains(&rows), "{rows} rows were read to lock two");
        reading.close_on_drop();
    }
}
