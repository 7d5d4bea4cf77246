//! The answer to a commit never comes: the connection is lost before or after it, and nobody may be told what is not so.

use std::time::Duration;

use herald::config::RawConfig;
use herald::domain::event::NewEvent;
use herald::domain::id::{DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};
use herald::domain::publication::Attributes;
use herald::store::events::{self, Alongside, Begins, BirthLease, Insert, NewDelivery};
use herald::store::{partitions, queue};
use serde_json::json;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::of_attempts;
use crate::support::receiver::{Receiver, Reply, gate};
use crate::support::wire::{Cut, Wire};

/// Leases far longer than any test: what arrives was sent under its first one.
fn long_leases() -> RawConfig {
    RawConfig { lease_ms: Some("600000".to_owned()), ..settings() }
}

#[tokio::test]
async fn rule_18_a_commit_whose_answer_was_lost_is_looked_up_and_what_was_born_with_it_is_sent() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let wire = Wire::to(&database).await;
    let app = App::start_on(wire.options(), long_leases()).await;
    app.subscribe(&receiver.url).await;
    let session = app.open_session().await;
    wire.cut(Cut::After, "RedirectSessionCancelled");
    assert_eq!(app.cancel(session).await, Some(200));
    assert!(wire.is_cut());
    let id = receiver.wait_for(1).await[0].header("webhook-id").to_owned();
    let delivery = app.wait_for_state(&id, "delivered").await;
    assert_eq!(of_attempts(&delivery, "late"), [false]);
    assert_eq!(app.cancel(session).await, Some(400), "it is cancelled already");
    assert_eq!(receiver.calls().len(), 1);
}

#[tokio::test]
async fn rule_18_what_was_lost_on_its_way_to_a_commit_is_done_once_it_is_certain_that_it_was_not() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let wire = Wire::to(&database).await;
    let app = App::start_on(wire.options(), settings()).await;
    app.subscribe(&receiver.url).await;
    let session = app.open_session().await;
    wire.cut(Cut::Before, "RedirectSessionCancelled");
    assert_eq!(app.cancel(session).await, Some(200));
    assert!(wire.is_cut());
    assert_eq!(receiver.wait_for(1).await[0].session(), session.to_string());
    assert_eq!(app.cancel(session).await, Some(400), "it is cancelled already");
    let events = "select count(*) from events";
    assert_eq!(sqlx::query_scalar::<_, i64>(events).fetch_one(&database.pool).await.unwrap(), 1);
}

#[tokio::test]
async fn rule_18_results_whose_recording_was_not_answered_are_recorded_once() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let wire = Wire::to(&database).await;
    let app = App::start_on(wire.options(), settings()).await;
    app.subscribe(&receiver.url).await;
    for (count, when) in Cut::ALL.into_iter().enumerate() {
        let gate = gate();
        receiver.reply([Reply::Gate(gate.clone(), 200)]);
        app.cancel_one().await;
        let id = receiver.wait_for(count + 1).await[count].header("webhook-id").to_owned();
        // The event is stored; what speaks of it next is the record of its delivery.
        wire.cut(when, "RedirectSessionCancelled");
        gate.add_permits(1);
        let delivery = app.wait_for_state(&id, "delivered").await;
        assert!(wire.is_cut());
        assert_eq!(of_attempts(&delivery, "late"), [false], "{when:?}");
    }
    assert_eq!(receiver.calls().len(), Cut::ALL.len());
}

#[tokio::test]
async fn rule_24_a_connection_on_which_nothing_comes_any_more_is_given_up() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let wire = Wire::to(&database).await;
    let app = App::start_on(wire.options(), long_leases()).await;
    app.subscribe(&receiver.url).await;
    for when in [Cut::SilentlyBefore, Cut::SilentlyAfter] {
        let session = app.open_session().await;
        wire.cut(when, "RedirectSessionCancelled");
        assert_eq!(app.cancel(session).await, Some(200), "{when:?}");
        assert!(wire.is_cut());
        assert_eq!(app.cancel(session).await, Some(400), "it is cancelled already");
    }
    let calls = receiver.wait_for(2).await;
    for call in &calls {
        app.wait_for_state(call.header("webhook-id"), "delivered").await;
    }
    assert_eq!(receiver.calls().len(), 2);
}

#[tokio::test]
async fn rule_18_what_was_recorded_of_a_bundle_without_an_answer_is_recorded_once() {
    let (database, receiver) = (cluster::database().await, Receiver::start().await);
    let wire = Wire::to(&database).await;
    let app = App::start_on(wire.options(), long_leases()).await;
    app.subscribe(&receiver.url).await;
    for (turn, when) in [Cut::Before, Cut::After].into_iter().enumerate() {
        let gates = [gate(), gate()];
        receiver.reply(gates.clone().map(|gate| Reply::Gate(gate, 200)));
        app.operator().publish(&vec![json!({ "type": "RedirectSessionCancelled", "data": {} }); 2]).await;
        let calls = receiver.wait_for(2 * turn + 2).await;
        wire.cut(when, "RedirectSessionCancelled");
        for (gate, call) in gates.iter().zip(&calls[2 * turn..]) {
            gate.add_permits(1);
            let delivery = app.wait_for_state(call.header("webhook-id"), "delivered").await;
            assert!(wire.is_cut());
            assert_eq!(of_attempts(&delivery, "late"), [false], "{when:?}");
        }
    }
    // Whatever was told again was told before the last of them.
    for call in receiver.wait_for(4).await {
        let delivery = app.delivery(call.header("webhook-id")).await;
        assert_eq!(of_attempts(&delivery, "late"), [false]);
    }
    assert_eq!(receiver.calls().len(), 4);
    let left = "select count(*) from unfinished";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&database.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn rule_18_what_this_node_claimed_before_it_looked_is_not_taken_for_born_leased() {
    let database = cluster::database().await;
    let mut db = database.pool.acquire().await.unwrap();
    partitions::make_ahead(&mut db).await.unwrap();
    let owner = NodeId::new();
    let event = NewEvent {
        id: EventId::new(),
        partner: PartnerId::new(),
        kind: "order.paid".to_owned(),
        source: "/orders".to_owned(),
        payload: b"{}".to_vec(),
        occurred_at: chrono::DateTime::UNIX_EPOCH,
        attributes: Attributes::default(),
        ordering_key: None,
    };
    let deliveries = [Begins::Leased, Begins::Due].map(|begins| NewDelivery {
        id: DeliveryId::beside(event.id),
        partner: event.partner,
        event: event.id,
        subscription: SubscriptionId::new(),
        gathers: false,
        begins,
    });
    let insert = Insert {
        events: std::slice::from_ref(&event),
        matched: &[2],
        deliveries: &deliveries,
        versions: &[],
        alongside: Alongside::default(),
    };
    let lease = BirthLease { owner, duration: Duration::from_secs(60) };
    events::insert(&mut db, lease, insert).await.unwrap();
    let claimed = queue::claim(&mut db, owner, 10, 60_000).await.unwrap();
    assert_eq!(claimed.iter().map(|row| row.delivery_id).collect::<Vec<_>>(), [deliveries[1].id.0]);
    let found = events::find_inserted(&mut db, &[event], owner).await.unwrap().unwrap();
    assert_eq!(deliveries.map(|delivery| found[&delivery.id].leased), [true, false]);
}
