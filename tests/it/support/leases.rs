//! Leases as the engine holds them, for tests that do its work by hand, and what comes of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::DateTime;
use herald::domain::attempt::Outcome;
use herald::domain::delivery::{Lease, Whereabouts};
use herald::domain::event::{Event, NewEvent};
use herald::domain::id::{AttemptId, DeliveryId, EventId, PartnerId, SubscriptionId};
use herald::domain::row_hint::RowHint;
use herald::store::events::NewDelivery;
use herald::store::queue::{self, Claimed, Ending, Finish, Finished, Record};
use sqlx::PgConnection;

const LEASE: Duration = Duration::from_secs(30);

/// Of a delivery that is nowhere.
pub fn unknown() -> Lease {
    let event = Event {
        id: EventId::new(),
        kind: "it.happened".to_owned(),
        source: "/".to_owned(),
        payload: Vec::new(),
        occurred_at: DateTime::UNIX_EPOCH,
    };
    Lease {
        partner: PartnerId::new(),
        delivery: DeliveryId::new(),
        subscription: SubscriptionId::new(),
        event: Arc::new(event),
        attempts: 0,
        epoch: 1,
        probe: false,
        draining: false,
        crashes: 0,
        until: Instant::now() + LEASE,
        batch: None,
        at: Whereabouts::Row(RowHint::default()),
        in_line: false,
    }
}

/// Of a row that was claimed with its event.
pub fn claimed(row: Claimed) -> Lease {
    let event = Event {
        id: EventId(row.event_id),
        kind: row.r#type.unwrap(),
        source: row.source.unwrap(),
        payload: row.payload.unwrap(),
        occurred_at: row.occurred_at.unwrap(),
    };
    Lease {
        partner: PartnerId(row.partner_id),
        delivery: DeliveryId(row.delivery_id),
        subscription: SubscriptionId(row.subscription_id),
        event: Arc::new(event),
        attempts: row.attempts,
        epoch: row.lease_epoch,
        probe: row.probe,
        draining: row.draining,
        crashes: row.crashes,
        at: Whereabouts::Row(row.row_at),
        in_line: row.in_line,
        ..unknown()
    }
}

/// Of a delivery that was born leased with its event, and stands there.
pub fn born(event: NewEvent, delivery: &NewDelivery, at: Whereabouts) -> Lease {
    let event = Event {
        id: event.id,
        kind: event.kind,
        source: event.source,
        payload: event.payload,
        occurred_at: event.occurred_at,
    };
    Lease {
        partner: delivery.partner,
        delivery: delivery.id,
        subscription: delivery.subscription,
        event: Arc::new(event),
        epoch: 0,
        at,
        ..unknown()
    }
}

/// An attempt that has just ended so.
pub fn record(outcome: Outcome) -> Record {
    Record {
        attempt: AttemptId::new(),
        outcome,
        status: None,
        started_ago_ms: 0,
        latency_ms: 1,
        response: None,
        detail: None,
    }
}

/// The end of a lease with such an attempt.
pub fn finish(lease: &Lease, ending: Ending, outcome: Outcome) -> Finish<'_> {
    Finish { lease, ending, record: Some(record(outcome)) }
}

/// Whether a finished delivery is queued again.
pub async fn begins_again(db: &mut PgConnection, lease: &Lease) -> bool {
    let finished =
        Finished { delivery: lease.delivery, event: lease.event.id, subscription: lease.subscription };
    queue::insert_again(db, lease.partner, &[finished]).await.unwrap() == 1
}
