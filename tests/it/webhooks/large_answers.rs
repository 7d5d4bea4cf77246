//! Many subscriptions in one answer: they are encrypted and written where that holds up nobody, and few are shown all that there is.

use std::sync::mpsc::channel;
use std::thread::{self, ThreadId};

use herald::domain::caller::Caller;
use herald::domain::id::{ApiKeyId, PartnerId};
use herald::domain::partner_key::Scopes;
use herald::domain::secret::Secret;
use herald::domain::webhook::{AccountId, EventName, WebhookSecret};
use herald::hub::webhooks::{Create, Delete, Shown};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::SECRET;
use super::lists::fill;
use crate::support::desk::Desk;

fn caller(partner: PartnerId) -> Caller {
    Caller { partner, key: ApiKeyId::new(), scopes: Scopes::parse("partner").unwrap() }
}

/// An answer that says how many are shown, and which thread has written it.
fn said(shown: &[Shown]) -> (usize, ThreadId) {
    (shown.len(), thread::current().id())
}

#[tokio::test]
async fn rule_14_many_webhooks_are_written_apart_from_the_runtime_and_few_wait_for_nobody() {
    let desk = Desk::open().await;
    let mut db = desk.database.pool.acquire().await.unwrap();
    let (partner, there) = fill(&mut db, 9).await;
    drop(db);
    let (hub, caller) = (&desk.hub, caller(partner));
    let here = thread::current().id();
    let few = AccountId::parse("last").unwrap();

    let (go_on, told) = channel();
    let (begin, begun) = oneshot::channel();
    let write = move |shown: Vec<Shown>| {
        assert_ne!(thread::current().id(), here, "the runtime has one thread, and that is not free");
        begin.send(()).unwrap();
        told.recv().unwrap();
        shown.len()
    };
    let (same_hub, same_caller) = (hub.clone(), caller.clone());
    let many = tokio::spawn(async move { same_hub.list_webhooks(&same_caller, None, write).await });
    begun.await.expect("it is written apart");
    let answer = hub.list_webhooks(&caller, Some(&few), |shown| said(&shown)).await.unwrap();
    assert_eq!(answer, (1, here), "few need neither a place nor a thread");
    let mut connections = Vec::new();
    for _ in 0..desk.database.pool.options().get_max_connections() {
        connections.push(desk.database.pool.acquire().await.expect("who writes has no connection"));
    }
    drop(connections);
    go_on.send(()).unwrap();
    assert_eq!(many.await.unwrap().unwrap(), there.len());

    let mut ids: Vec<Uuid> = there.iter().map(|one| Uuid::parse_str(&one.key).unwrap()).collect();
    ids.reverse();
    let order = |shown: Vec<Shown>| {
        let keys = shown.iter().map(|one| one.webhook.subscription.external_key.clone());
        (keys.collect::<Vec<_>>(), thread::current().id())
    };
    let (keys, thread) = hub.list_webhooks_of(&caller, &ids, order).await.unwrap();
    assert_eq!(keys, ids.iter().map(Uuid::to_string).collect::<Vec<_>>());
    assert_ne!(thread, here);

    let names = ["ones", "twos", "threes", "fours", "fives"];
    let mut command = Create {
        name: None,
        events: names.iter().filter_map(|name| EventName::parse(name)).collect(),
        callback_url: "http://127.0.0.1:9/in".to_owned(),
        secret: WebhookSecret::parse(SECRET).unwrap(),
        recipient: None,
        account: None,
    };
    let order = |shown: Vec<Shown>| {
        let key = |one: &Shown| Uuid::parse_str(&one.webhook.subscription.external_key).unwrap();
        (shown.iter().map(key).collect::<Vec<_>>(), thread::current().id())
    };
    let (made, thread) = hub.create_webhooks(&caller, &command, order).await.unwrap();
    assert_eq!(made.len(), 5);
    assert_ne!(thread, here);
    let delete = |id: &Uuid| Delete { id: *id, secret: Secret::new(SECRET) };
    let all: Vec<Delete> = made.iter().map(delete).collect();
    let (deleted, thread) = hub.delete_webhooks(&caller, &all, order).await.unwrap();
    assert_eq!(deleted, made);
    assert_ne!(thread, here);
    command.events.truncate(1);
    let (_, thread) = hub.create_webhooks(&caller, &command, order).await.unwrap();
    assert_eq!(thread, here);
}

#[tokio::test]
async fn of_more_than_a_hundred_webhooks_the_newest_ten_attempts_each_are_shown() {
    let desk = Desk::open().await;
    let mut db = desk.database.pool.acquire().await.unwrap();
    let (partner, there) = fill(&mut db, 120).await;
    let tried = "insert into attempts (id, partner_id, delivery_id, event_id, subscription_id, event_type, outcome, started_at, latency_ms)
        select herald_uuid7_beside(herald_uuid7_floor(herald_now() - number * interval '1 s')), $1, gen_random_uuid(), gen_random_uuid(), id, 'any',
               'refused', herald_now() - number * interval '1 s', 1
        from unnest($2::uuid[]) id, generate_series(1, 101) number";
    let ids: Vec<Uuid> = there.iter().map(|one| one.id).collect();
    sqlx::query(tried).bind(partner.0).bind(&ids).execute(&mut *db).await.unwrap();
    let newest = "select array_agg(id order by id desc) from attempts where subscription_id = $1";
    let newest: Vec<Uuid> = sqlx::query_scalar(newest).bind(ids[0]).fetch_one(&mut *db).await.unwrap();
    drop(db);
    let (hub, caller) = (&desk.hub, caller(partner));
    let attempts = |shown: Vec<Shown>| -> Vec<Vec<Uuid>> {
        shown.iter().map(|one| one.history.iter().map(|tried| tried.id.0).collect()).collect()
    };
    let all = hub.list_webhooks(&caller, None, attempts).await.unwrap();
    assert!(all.len() > 100 && all.iter().all(|history| history.len() == 10));
    assert_eq!(all[0], newest[..10]);
    let keys: Vec<Uuid> = there.iter().map(|one| Uuid::parse_str(&one.key).unwrap()).collect();
    let some = hub.list_webhooks_of(&caller, &keys[..100], attempts).await.unwrap();
    assert!(some.len() == 100 && some.iter().all(|history| history.len() == 100));
    assert_eq!(some[0], newest[..100]);
}
