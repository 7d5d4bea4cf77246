//! The database against a model of it: random orders of everything that happens to deliveries, and after each step both must say the same.
//! More cases than by default: `PROPTEST_CASES=1000 cargo test --test it model`.

mod pure;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use herald::domain::attempt::Outcome;
use herald::domain::delivery::{Batch, DeliveryState, Lease, Member, Whereabouts};
use herald::domain::event::{Event, NewEvent};
use herald::domain::id::{BatchId, CallbackId, DeliveryId, EventId, NodeId, PartnerId, SubscriptionId};
use herald::domain::publication::OrderingKey;
use herald::domain::route::Route;
use herald::domain::row_hint::RowHint;
use herald::domain::subscription::SubscriptionState;
use herald::domain::version::Version;
use herald::store::batches::{self, Terms};
use herald::store::events::{Alongside, Begins, Insert, NewDelivery};
use herald::store::queue::{self, Books, Claimed, Ending, Finish, Share, Walked};
use herald::store::subscriptions::{self, Disabling};
use herald::store::{self, bundles, deliveries, events, partitions, routes, targets};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::support::cluster::{self, TestDatabase};
use crate::support::leases;
use crate::support::sweeps;
use pure::{BATCH_SIZE, BATCHED, Given, LEASE_STEPS, Model, STEP_MS, Told};

const CASES: u32 = 48;
const STEPS_MAX: usize = 60;
const SUBSCRIPTIONS: usize = 2;
const NODES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        subscription: usize,
        key: Option<usize>,
        born_leased_to: Option<usize>,
        /// Events of one commit.
        events: usize,
    },
    Claim {
        node: usize,
        limit: usize,
    },
    /// Of what leaves in batches.
    Gather {
        node: usize,
    },
    Draw {
        node: usize,
        subscription: usize,
        limit: usize,
    },
    ClaimAlone {
        node: usize,
    },
    /// Of any right that was ever given, by its holder or by somebody who has no business with it.
    Finish {
        given: prop::sample::Index,
        by_a_stranger: bool,
        ending: Ending,
        outcome: Option<Outcome>,
    },
    Wait {
        steps: i64,
    },
    Crash {
        node: usize,
    },
    /// Somebody gives what a node has in bundles rows of their own, which changes nothing.
    TakeApart {
        node: usize,
    },
    Stop {
        node: usize,
    },
    Turn {
        subscription: usize,
        state: SubscriptionState,
    },
    Sweep,
    /// The events of all that is unfinished leave the retention window.
    Expire,
    Redeliver {
        delivery: prop::sample::Index,
    },
}

fn ending() -> impl Strategy<Value = (Ending, Option<Outcome>)> {
    let end = |state, outcome| Just((Ending::Final(state), Some(outcome)));
    let delay_ms = (0..3_i64).prop_map(|steps| steps * STEP_MS);
    prop_oneof![
        3 => end(DeliveryState::Delivered, Outcome::Delivered),
        1 => end(DeliveryState::Dead, Outcome::Refused),
        1 => end(DeliveryState::Dead, Outcome::Crashed),
        1 => end(DeliveryState::Cancelled, Outcome::Cancelled),
        1 => end(DeliveryState::Expired, Outcome::Expired),
        3 => delay_ms.clone().prop_map(|delay_ms| (Ending::Retry { delay_ms }, Some(Outcome::TimedOut))),
        2 => Just((Ending::Hold, None)),
        1 => Just((Ending::Hold, Some(Outcome::Refused))),
        1 => delay_ms.prop_map(|delay_ms| (Ending::Release { delay_ms }, None)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let subscription = 0..SUBSCRIPTIONS;
    let node = 0..NODES;
    let state = prop_oneof![
        3 => Just(SubscriptionState::Active),
        2 => Just(SubscriptionState::Paused),
        2 => Just(SubscriptionState::Disabled),
        1 => Just(SubscriptionState::Deleted),
    ];
    let steps = prop_oneof![Just(1), Just(LEASE_STEPS)];
    prop_oneof![
        10 => (subscription.clone(), prop::option::of(0..2_usize), prop::option::of(node.clone()), 1..4_usize)
            .prop_map(|(subscription, key, born_leased_to, events)| Step::Publish { subscription, key, born_leased_to, events }),
        4 => node.clone().prop_map(|node| Step::Gather { node }),
        5 => (node.clone(), 1..4_usize).prop_map(|(node, limit)| Step::Claim { node, limit }),
        2 => (node.clone(), subscription.clone(), 1..4_usize)
            .prop_map(|(node, subscription, limit)| Step::Draw { node, subscription, limit }),
        2 => node.clone().prop_map(|node| Step::ClaimAlone { node }),
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.1), ending())
            .prop_map(|(given, by_a_stranger, (ending, outcome))| Step::Finish { given, by_a_stranger, ending, outcome }),
        3 => steps.prop_map(|steps| Step::Wait { steps }),
        1 => node.clone().prop_map(|node| Step::Crash { node }),
        1 => node.clone().prop_map(|node| Step::TakeApart { node }),
        1 => node.prop_map(|node| Step::Stop { node }),
        2 => (subscription, state).prop_map(|(subscription, state)| Step::Turn { subscription, state }),
        1 => Just(Step::Sweep),
        1 => Just(Step::Expire),
        2 => any::<prop::sample::Index>().prop_map(|delivery| Step::Redeliver { delivery }),
    ]
}

/// The real thing, and the model beside it.
struct World<'a> {
    database: &'a TestDatabase,
    db: &'a mut PgConnection,
    model: Model,
    partner: PartnerId,
    nodes: Vec<NodeId>,
    subscriptions: Vec<SubscriptionId>,
    deliveries: Vec<(DeliveryId, EventId)>,
    /// Where each delivery was when it was leased under an epoch.
    places: HashMap<(DeliveryId, i32), Whereabouts>,
    /// Those of each node.
    books: [Books; NODES],
}

impl World<'_> {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Publish { subscription, key, born_leased_to, events } => {
                self.publish(subscription, key, born_leased_to, events).await
            }
            Step::Gather { node } => self.gather(node).await,
            Step::Claim { node, limit } => self.claim(node, limit).await,
            Step::Draw { node, subscription, limit } => self.draw(node, subscription, limit).await,
            Step::ClaimAlone { node } => self.claim_alone(node).await,
            Step::Finish { given, by_a_stranger, ending, outcome } => {
                if !self.model.given.is_empty() {
                    let given = given.get(&self.model.given).clone();
                    let by = if by_a_stranger { (given.node + 1) % NODES } else { given.node };
                    self.finish(given, by, ending, outcome).await;
                }
            }
            Step::Wait { steps } => self.wait(steps).await,
            Step::Crash { node } => {
                self.take_apart(node).await;
                let ended = queue::end_leases(self.db, self.nodes[node], 1_000).await.unwrap();
                assert_eq!(ended, self.model.crash(node));
            }
            Step::TakeApart { node } => self.take_apart(node).await,
            Step::Stop { node } => {
                let released = queue::release_all(self.db, self.nodes[node]).await.unwrap();
                assert_eq!(released, self.model.stop(node));
            }
            Step::Turn { subscription, state } => self.turn(subscription, state).await,
            Step::Sweep => {
                sweeps::resume(self.db, 1_000).await;
                sweeps::cancel_deleted(self.db, 1_000).await;
                self.model.sweep();
            }
            Step::Expire => self.expire().await,
            Step::Redeliver { delivery } => {
                if !self.deliveries.is_empty() {
                    self.redeliver(delivery.index(self.deliveries.len())).await;
                }
            }
        }
    }

    async fn publish(
        &mut self,
        subscription: usize,
        key: Option<usize>,
        born_leased_to: Option<usize>,
        events: usize,
    ) {
        let event = || NewEvent {
            id: EventId::new(),
            partner: self.partner,
            kind: format!("Type{subscription}"),
            source: "/".to_owned(),
            payload: b"{}".to_vec(),
            attributes: Default::default(),
            ordering_key: key.map(|key| OrderingKey::parse(format!("key-{key}")).unwrap()),
            occurred_at: chrono::DateTime::UNIX_EPOCH,
        };
        let new: Vec<_> = std::iter::repeat_with(event).take(events).collect();
        let lease = events::BirthLease {
            owner: self.nodes[born_leased_to.unwrap_or_default()],
            duration: Duration::from_millis(u64::try_from(LEASE_STEPS * STEP_MS).unwrap()),
        };
        let routes = routes::read(self.db, &[(self.partner, &new[0].kind)]).await.unwrap().remove(0);
        let delivery = |event: &NewEvent, route: &Route| NewDelivery {
            id: DeliveryId::beside(event.id),
            partner: event.partner,
            event: event.id,
            subscription: route.subscription,
            gathers: route.gathers,
            begins: match born_leased_to {
                _ if route.holds => Begins::Held,
                Some(_) if !route.gathers => Begins::Leased,
                _ => Begins::Due,
            },
        };
        let of_event = |event| routes.of(&new[0].attributes).map(move |route| delivery(event, route));
        let born: Vec<_> = new.iter().flat_map(of_event).collect();
        let matched = i32::try_from(born.len() / events).unwrap();
        let insert = Insert {
            events: &new,
            matched: &vec![matched; events],
            deliveries: &born,
            versions: &[(self.partner, routes.version)],
            alongside: Alongside::default(),
        };
        let stored = events::insert(self.db, lease, insert).await.unwrap();
        assert_eq!(stored.len(), born.len());
        for _ in &new {
            let is_matched = self.model.publish(subscription, key, born_leased_to);
            assert_eq!(matched, i32::from(is_matched));
        }
        self.deliveries.extend(born.iter().map(|born| (born.id, born.event)));
        self.places.extend(stored.into_iter().map(|(id, stored)| ((id, 0), stored.at)));
    }

    async fn claim(&mut self, node: usize, limit: usize) {
        let claimable = self.model.claimable();
        bundles::take_apart_due(self.db, None, 1_000).await.unwrap();
        let rows =
            queue::claim(self.db, self.nodes[node], limit as i64, LEASE_STEPS * STEP_MS).await.unwrap();
        assert_eq!(rows.len(), limit.min(claimable.len()), "as much as is due and no more");
        self.claimed(node, rows, &claimable);
    }

    async fn draw(&mut self, node: usize, subscription: usize, limit: usize) {
        let drawable = self.model.drawable(subscription);
        let share =
            Share { subscription: self.subscriptions[subscription], up_to: limit as i64, due_from: None };
        let rows =
            queue::draw(self.db, self.nodes[node], LEASE_STEPS * STEP_MS, &[share], None).await.unwrap();
        assert_eq!(rows.len(), limit.min(drawable.len()));
        self.claimed(node, rows, &drawable);
    }

    async fn claim_alone(&mut self, node: usize) {
        let suspects = self.model.suspects();
        bundles::take_apart_due(self.db, None, 1_000).await.unwrap();
        let row = queue::claim_suspect(self.db, self.nodes[node], LEASE_STEPS * STEP_MS).await.unwrap();
        assert_eq!(row.is_some(), !suspects.is_empty());
        self.claimed(node, row.into_iter().collect(), &suspects);
    }

    fn claimed(&mut self, node: usize, rows: Vec<Claimed>, claimable: &[usize]) {
        for row in rows {
            let place = self.place(row.delivery_id);
            assert!(claimable.contains(&place), "held, leased and later ones are not claimed");
            let given = self.model.claimed(place, node);
            assert_eq!(row.lease_epoch, given.epoch);
            let leased = (DeliveryId(row.delivery_id), row.lease_epoch);
            self.places.insert(leased, Whereabouts::Row(row.row_at));
        }
    }

    /// Batches that are due again, and new ones of all that has none.
    async fn gather(&mut self, node: usize) {
        let lease_ms = LEASE_STEPS * STEP_MS;
        let owner = self.nodes[node];
        let terms = Terms::of(owner, lease_ms, 1_000);
        let (due, suspects) = (self.model.batches_due(false), self.model.batches_due(true));
        let mut claimed = batches::claim(self.db, &terms).await.unwrap();
        assert_eq!(claimed.len(), due.len(), "all that are due and no others");
        let alone = batches::claim_suspect(self.db, owner, lease_ms).await.unwrap();
        assert_eq!(alone.is_some(), !suspects.is_empty());
        claimed.extend(alone);
        let due = [due, suspects].concat();
        for rows in claimed {
            let (batch, mut deliveries) = self.batch(&rows);
            assert!(due.contains(&batch));
            let given = self.model.batch_claimed(batch, deliveries.clone(), node);
            deliveries.sort_unstable();
            assert_eq!(deliveries, self.model.members(batch), "whole");
            assert!(rows.iter().all(|row| row.lease_epoch == given.epoch));
        }
        let to_gather = self.model.to_gather();
        let formed = batches::form(self.db, &terms, 0).await.unwrap();
        for rows in &formed {
            let (batch, deliveries) = self.batch(rows);
            assert!(self.model.may_be_together(&deliveries), "{deliveries:?} of {to_gather:?}");
            assert!(self.model.members(batch).is_empty(), "a new one");
        }
        for rows in formed {
            let (batch, deliveries) = self.batch(&rows);
            let given = self.model.batch_claimed(batch, deliveries, node);
            assert!(rows.iter().all(|row| row.lease_epoch == given.epoch));
        }
        assert!(self.model.to_gather().is_empty(), "nothing that may go stays behind");
    }

    async fn take_apart(&mut self, node: usize) {
        let now = store::now(self.db).await.unwrap();
        bundles::take_apart_of(self.db, self.nodes[node], now, 1_000).await.unwrap();
    }

    fn batch(&self, rows: &[batches::Claimed]) -> (Uuid, Vec<usize>) {
        assert!(rows.iter().all(|row| row.batch_id == rows[0].batch_id));
        (rows[0].batch_id, rows.iter().map(|row| self.place(row.delivery_id)).collect())
    }

    fn place(&self, delivery: Uuid) -> usize {
        self.deliveries.iter().position(|(id, _)| id.0 == delivery).unwrap()
    }

    async fn finish(&mut self, given: Given, by: usize, ending: Ending, outcome: Option<Outcome>) {
        let members: Vec<Member> = given
            .deliveries
            .iter()
            .map(|place| {
                let (delivery, event) = self.deliveries[*place];
                let event = Event {
                    id: event,
                    kind: "Type".to_owned(),
                    source: "/".to_owned(),
                    payload: vec![],
                    occurred_at: chrono::DateTime::UNIX_EPOCH,
                };
                Member { delivery, event: Arc::new(event), epoch: given.epoch }
            })
            .collect();
        let subscription = self.subscriptions[self.model.deliveries[given.deliveries[0]].subscription];
        let others = || members[1..].to_vec();
        let nowhere = Whereabouts::Row(RowHint::default());
        let lease = Lease {
            partner: self.partner,
            delivery: members[0].delivery,
            subscription,
            event: members[0].event.clone(),
            epoch: given.epoch,
            batch: given.batch.map(|id| Box::new(Batch { id: BatchId(id), others: others() })),
            at: self.places.get(&(members[0].delivery, given.epoch)).copied().unwrap_or(nowhere),
            ..leases::unknown()
        };
        let record = outcome.map(leases::record);
        let finish = Finish { lease: &lease, ending, record };
        let changed =
            queue::finish(self.db, &mut self.books[by], self.nodes[by], &[finish]).await.unwrap().changed;
        assert_eq!(changed, self.model.finish(&given, by, ending, outcome) as i64);
    }

    async fn wait(&mut self, steps: i64) {
        self.database.advance(TimeDelta::milliseconds(steps * STEP_MS)).await;
        self.model.now += steps;
    }

    async fn turn(&mut self, subscription: usize, state: SubscriptionState) {
        let id = self.subscriptions[subscription];
        if state == SubscriptionState::Disabled {
            let judged = targets::find(self.db, &[id]).await.unwrap()[0].as_read();
            let disabled =
                subscriptions::disable(self.db, (self.partner, id), judged, None, "gone").await.unwrap();
            let was_active = self.model.subscriptions[subscription] == SubscriptionState::Active;
            let expected = if was_active { Disabling::Done } else { Disabling::Outdated };
            assert_eq!(disabled, expected, "its owner's pause or deletion stands");
            if was_active {
                self.model.turn(subscription, state);
            }
            return;
        }
        let version: i64 = sqlx::query_scalar("select version from subscriptions where id = $1")
            .bind(id.0)
            .fetch_one(&mut *self.db)
            .await
            .unwrap();
        let touched =
            subscriptions::touch(self.db, self.partner, id, Version(version), state, None).await.is_ok();
        assert_eq!(touched, self.model.turn(subscription, state), "deleted is for good");
        if touched && state == SubscriptionState::Deleted {
            queue::cancel_deleted(self.db, id, 1_000).await.unwrap();
        }
    }

    /// With a retention that ends with the day to come, and two rows at a time.
    async fn expire(&mut self) {
        bundles::take_apart_due(self.db, None, 1_000).await.unwrap();
        let (mut walked, mut expired) = (Walked::default(), 0);
        while let Some((count, last)) = queue::expire(self.db, -1, walked, 2).await.unwrap() {
            (walked, expired) = (last, expired + count);
        }
        assert_eq!(expired, self.model.expire(), "all but what somebody is sending");
    }

    /// As a partner asks for it, who takes longer than a lease can change hands in.
    async fn redeliver(&mut self, delivery: usize) {
        self.wait(1).await;
        let (id, event) = self.deliveries[delivery];
        let subscription = self.subscriptions[self.model.deliveries[delivery].subscription];
        let hastened = queue::hasten(self.db, self.partner, id).await.unwrap();
        assert_eq!(hastened, self.model.hasten(delivery));
        let finished = queue::Finished { delivery: id, event, subscription };
        let again = queue::insert_again(self.db, self.partner, &[finished]).await.unwrap() == 1;
        assert_eq!(again, self.model.may_begin_again(delivery), "never beside itself");
        if again {
            let epoch = sqlx::query_scalar("select lease_epoch from queue where delivery_id = $1")
                .bind(id.0)
                .fetch_one(&mut *self.db)
                .await
                .unwrap();
            self.model.begin_again(delivery, epoch);
        }
    }

    /// Everything that is stored about the deliveries, against the model.
    async fn compare(&mut self) {
        type Row = (Uuid, Option<Uuid>, i32, i32, i16, bool, bool, bool, bool, Option<Uuid>);
        let rows: Vec<Row> = sqlx::query_as(
            "select delivery_id, lease_owner, lease_epoch, attempts, crashes, due_at = 'infinity', due_at <= herald_now(), waits, batched, batch_id
             from unfinished where partner_id = $1",
        )
        .bind(self.partner.0)
        .fetch_all(&mut *self.db)
        .await
        .unwrap();
        let history: Vec<(Uuid, String, Option<String>, bool)> = sqlx::query_as(
            "select delivery_id, outcome, final_state, late from attempts where partner_id = $1",
        )
        .bind(self.partner.0)
        .fetch_all(&mut *self.db)
        .await
        .unwrap();
        for ((id, _), expected) in self.deliveries.iter().zip(&self.model.deliveries) {
            let row = rows.iter().find(|row| row.0 == id.0).map(|row| {
                let owner = row.1.map(|owner| self.nodes.iter().position(|node| node.0 == owner).unwrap());
                ((owner, row.2, row.3, row.4), (row.5, row.6), (row.7, row.8, row.9))
            });
            let modelled = expected.queued.as_ref().map(|queued| {
                let due = queued.due.is_some_and(|due| due <= self.model.now);
                let held_and_due = (queued.due.is_none(), due);
                let lease = (queued.owner, queued.epoch, queued.attempts, queued.crashes);
                (lease, held_and_due, (queued.waits, queued.batched, queued.batch))
            });
            assert_eq!(row, modelled, "owner, epoch, attempts, crashes; held, due; waits, batched, batch");
            let mut told: Vec<(&str, Option<&str>, bool)> = history
                .iter()
                .filter(|told| told.0 == id.0)
                .map(|told| (told.1.as_str(), told.2.as_deref(), told.3))
                .collect();
            let mut expected_told: Vec<_> = expected
                .history
                .iter()
                .map(|Told { outcome, final_state, late }| (*outcome, *final_state, *late))
                .collect();
            told.sort_unstable();
            expected_told.sort_unstable();
            assert_eq!(told, expected_told, "the history");
        }
    }

    /// What the partner sees, against the model.
    async fn compare_views(&mut self) {
        let everything = deliveries::Filter::default();
        let listed = deliveries::list(self.db, self.partner, &everything, None, 1_000, 1_000).await.unwrap();
        let views = listed.deliveries;
        assert_eq!(views.len(), self.deliveries.len(), "none is lost, none is invented, none is seen twice");
        for ((id, _), expected) in self.deliveries.iter().zip(&self.model.deliveries) {
            let seen = views.iter().find(|view| view.id == *id).map(|view| view.state);
            let of_subscription = self.model.subscriptions[expected.subscription];
            assert_eq!(seen, Some(expected.state(of_subscription)));
        }
    }
}

/// A partner of its own for each case, with nothing of earlier ones left in the queue.
async fn begin<'a>(database: &'a TestDatabase, db: &'a mut PgConnection) -> World<'a> {
    let partner = PartnerId::new();
    // The cases before have moved the clock on.
    partitions::make_ahead(db).await.unwrap();
    sqlx::raw_sql("delete from queue; delete from bundles").execute(&mut *db).await.unwrap();
    sqlx::query("insert into partners (id, name) values ($1, 'P')")
        .bind(partner.0)
        .execute(&mut *db)
        .await
        .unwrap();
    let mut subscriptions = Vec::new();
    for place in 0..SUBSCRIPTIONS {
        let (callback, subscription) = (CallbackId::new(), SubscriptionId::new());
        sqlx::query(
            "with c as (insert into callbacks (id, partner_id, surface, url, batch_size) values ($1, $2, 'notifications', 'http://127.0.0.1/', $5)),
             s as (insert into subscriptions (id, partner_id, surface, external_key, callback_id) values ($3, $2, 'notifications', $4, $1))
             insert into subscription_event_types (partner_id, subscription_id, surface, event_type) values ($2, $3, 'notifications', $4)",
        )
        .bind(callback.0)
        .bind(partner.0)
        .bind(subscription.0)
        .bind(format!("Type{place}"))
        .bind(if place == BATCHED { BATCH_SIZE as i32 } else { 1 })
        .execute(&mut *db)
        .await
        .unwrap();
        subscriptions.push(subscription);
    }
    let nodes = (0..NODES).map(|_| NodeId::new()).collect();
    World {
        database,
        db,
        model: Model::new(SUBSCRIPTIONS),
        partner,
        nodes,
        subscriptions,
        deliveries: vec![],
        places: HashMap::new(),
        books: Default::default(),
    }
}

#[test]
fn rule_19_the_database_does_what_the_model_does_in_any_order() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(cluster::database());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let steps = prop::collection::vec(step(), 1..STEPS_MAX);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(async {
            let mut connection = database.pool.acquire().await.unwrap();
            let mut world = begin(&database, &mut connection).await;
            for step in steps {
                world.take(step).await;
                world.compare().await;
            }
            world.compare_views().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let _inside = runtime.enter();
    drop(database);
}
