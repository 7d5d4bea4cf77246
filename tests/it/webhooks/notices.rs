//! Who subscribes to it is told when a subscription of theirs was disabled.

use herald::store::{self, partitions};

use super::*;
use crate::support::partner::PATIENCE;
use crate::support::receiver::Receiver;

const DISABLED: &str = "HeraldSubscriptionDisabled";

/// Has a subscription of the redirect surface disabled because its callback is gone; its id.
async fn disable_one(partner: &Partner, gone: &Receiver) -> String {
    let subscription = partner.subscribe(&gone.url).await;
    gone.reply([410]);
    partner.cancel_one().await;
    partner.wait_for_state(&text(&partner.deliveries().await[0]["id"]), "held").await;
    subscription.to_string()
}

/// Every notice is an event by now, or nobody took it.
async fn wait_until_none_is_left(database: &TestDatabase) {
    let count = "select count(*) from notices";
    let deadline = std::time::Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&database.pool).await.unwrap() > 0 {
        assert!(std::time::Instant::now() < deadline, "a notice is never sent");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn rule_21_a_partner_is_told_out_of_band_what_was_disabled_and_why() {
    let world = world().await;
    let (told, others, gone) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    subscribe_one(&world.app, &told.url, DISABLED).await;
    let stranger = world.app.another_partner().await;
    subscribe_one(&stranger, &others.url, DISABLED).await;
    let id = disable_one(&world.app, &gone).await;

    let call = told.wait_for(1).await.remove(0);
    assert_eq!(call.header("x-webhook-event"), DISABLED);
    let notice = call.json();
    let standing = world.app.get(&format!("/herald/v1/subscriptions/redirect/{id}")).await;
    assert_eq!((&notice["surface"], &notice["id"]), (&json!("redirect"), &json!(id)));
    assert_eq!(notice["reason"], standing["reason"]);
    assert!(text(&notice["disabledAt"]).parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{notice}");
    let shown = world.app.deliveries().await;
    assert_eq!((&shown[0]["event"]["type"], shown.len()), (&json!(DISABLED), 2));
    let event = world.app.get(&format!("/herald/v1/events/{}", text(&shown[0]["event"]["id"]))).await;
    assert_eq!((&event["matched"], &event["data"]), (&json!(1), &notice));
    wait_until_none_is_left(&world.database).await;
    assert_eq!(others.calls().len(), 0);
}

#[tokio::test]
async fn rule_21_a_notice_outlives_the_server_that_disabled() {
    let World { database, app } = world().await;
    let (told, gone) = (Receiver::start().await, Receiver::start().await);
    subscribe_one(&app, &told.url, DISABLED).await;
    let id = disable_one(&app, &gone).await;
    app.kill();
    let _app = App::start(&database, settings()).await;
    let call = told.wait_for(1).await.remove(0);
    assert_eq!(call.json()["id"], id);
}

#[tokio::test]
async fn a_disabled_subscription_that_would_be_told_of_it_has_its_notice_held_and_where_nobody_takes_it_there_is_none()
 {
    let World { database, app } = world().await;
    let (gone, its_own) = (Receiver::start().await, Receiver::start().await);
    disable_one(&app, &gone).await;
    wait_until_none_is_left(&database).await;
    let events = "select count(*) from events where type = 'HeraldSubscriptionDisabled'";
    assert_eq!(sqlx::query_scalar::<_, i64>(events).fetch_one(&database.pool).await.unwrap(), 0);

    let id = subscribe_one(&app, &its_own.url, DISABLED).await;
    its_own.reply([410]);
    app.operator().publish(&[json!({ "type": DISABLED, "data": {} })]).await;
    its_own.wait_for(1).await;
    app.wait_for_state(&text(&app.deliveries().await[0]["id"]), "held").await;
    wait_until_none_is_left(&database).await;
    let standing = app.get(&format!("/herald/v1/subscriptions/webhooks/{id}")).await;
    assert_eq!((&standing["state"], &standing["heldCount"]), (&json!("disabled"), &json!(2)));
}

#[tokio::test]
async fn a_notice_says_when_the_day_that_it_falls_on_has_no_partition_yet() {
    let World { database, app } = world().await;
    subscribe_one(&app, ANY_URL, DISABLED).await;
    app.stop().await;
    let disabled = "insert into notices (partner_id, subscription_id, version, reason) select partner_id, id, 1, 'gone' from subscriptions";
    sqlx::query(disabled).execute(&database.pool).await.unwrap();
    let mut db = database.pool.acquire().await.unwrap();
    database.advance(chrono::TimeDelta::days(40)).await;
    let refused = store::notices::send(&mut db).await.unwrap_err();
    assert!(partitions::is_missing_behind(&refused), "{}", refused.chain());
    partitions::make_ahead(&mut db).await.unwrap();
    assert_eq!(store::notices::send(&mut db).await.unwrap(), Some(1));
    assert_eq!(store::notices::send(&mut db).await.unwrap(), None);
}
