//! A delivery whose sending kills the process ends, and takes no innocent one with it (SECURITY rule 23).

use chrono::TimeDelta;
use serde_json::json;

use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::partner::{Partner, of_attempts, text};
use crate::support::receiver::{Receiver, Reply, gate};

const LEASE: TimeDelta = TimeDelta::seconds(30);
const INNOCENT: usize = 6;

#[tokio::test]
async fn rule_23_what_kills_its_sender_is_sent_alone_from_the_second_time_and_dead_after_the_fifth() {
    let (database, poisoned, healthy) =
        (cluster::database().await, Receiver::start().await, Receiver::start().await);
    let app = App::start(&database, settings()).await;
    poisoned.always(Reply::Gate(gate(), 204));
    healthy.always(Reply::Gate(gate(), 204));
    app.subscribe(&poisoned.url).await;
    app.cancel_one().await;
    let poison = app.the_delivery().await;
    let other = app.another_partner().await;
    other.subscribe(&healthy.url).await;
    for _ in 0..INNOCENT {
        other.cancel_one().await;
    }
    let innocents: Vec<String> =
        other.deliveries().await.iter().map(|delivery| text(&delivery["id"])).collect();
    assert_eq!(innocents.len(), INNOCENT);
    poisoned.wait_for(1).await;
    healthy.wait_for(4).await;
    app.kill();
    // Twice everything that the process had counts a crash.
    database.advance(LEASE).await;
    let app = App::start(&database, settings()).await;
    poisoned.wait_for(2).await;
    healthy.wait_for(8).await;
    app.kill();

    healthy.always(Reply::Status(204));
    for death in 3..=5 {
        database.advance(LEASE).await;
        let app = App::start(&database, settings()).await;
        poisoned.wait_for(death).await;
        let beside: i64 = sqlx::query_scalar(
            "select count(*) from unfinished where lease_owner is not null and due_at > herald_now()",
        )
        .fetch_one(&database.pool)
        .await
        .unwrap();
        assert_eq!(beside, 1, "it is alone");
        app.kill();
    }
    database.advance(LEASE).await;
    let app = App::start(&database, settings()).await;
    let dead = app.wait_for_state(&poison, "dead").await;
    assert_eq!(of_attempts(&dead, "outcome"), [] as [&str; 0], "nobody lived to tell");
    assert_eq!(poisoned.calls().len(), 5);
    let outcome: String = sqlx::query_scalar("select outcome from attempts where final_state = 'dead'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(outcome, "crashed");
    let other = Partner::new(&app.base, other.key);
    for innocent in innocents {
        let delivery = other.wait_for_state(&innocent, "delivered").await;
        assert_eq!(of_attempts(&delivery, "outcome"), [json!("delivered")]);
    }
}
