//! Deliveries as their partner sees them. A delivery has no row of its own: it is its queue row, else its last final attempt.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::unknown_word;
use crate::domain::Error;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};
use crate::domain::surface::Surface;

#[derive(Debug, Clone)]
pub struct DeliveryView {
    pub id: DeliveryId,
    pub event: EventId,
    pub event_type: String,
    pub subscription: SubscriptionId,
    pub surface: Surface,
    pub external_key: String,
    pub callback_url: String,
    pub state: DeliveryState,
    pub attempts: i64,
    pub due_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct Row {
    delivery_id: Uuid,
    event_id: Uuid,
    subscription_id: Uuid,
    event_type: String,
    state: String,
    due_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    surface: String,
    external_key: String,
    url: String,
    attempts: i64,
}

/// Which deliveries to show. Absent members do not narrow.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub state: Option<DeliveryState>,
    /// Of any of these.
    pub subscriptions: Option<Vec<SubscriptionId>>,
    pub event_type: Option<String>,
    pub event: Option<EventId>,
    pub delivery: Option<DeliveryId>,
}

/// Up to `limit` deliveries older than the cursor, newest first.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    filter: &Filter,
    before: Option<DeliveryId>,
    limit: i64,
) -> Result<Vec<DeliveryView>, Error> {
    // Deliveries share their event's millisecond, so those of one event lie between two ids.
    let moment = filter.event.map(|id| id.0).or(filter.delivery.map(|id| id.0));
    let (from, to) = moment.map_or((Uuid::nil(), Uuid::max()), millisecond_of);
    let ids = |ids: &Vec<SubscriptionId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let rows: Vec<Row> = sqlx::query_as(include_str!("queries/deliveries/list.sql"))
        .bind(partner.0)
        .bind(before.map_or(to, |id| id.0.min(to)))
        .bind(filter.state.map(DeliveryState::as_str))
        .bind(filter.subscriptions.as_ref().map(ids))
        .bind(&filter.event_type)
        .bind(filter.event.map(|id| id.0))
        .bind(filter.delivery.map(|id| id.0))
        .bind(limit)
        .bind(from)
        .fetch_all(db)
        .await?;
    rows.into_iter().map(DeliveryView::try_from).collect()
}

pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    id: DeliveryId,
) -> Result<Option<DeliveryView>, Error> {
    let filter = Filter { delivery: Some(id), ..Filter::default() };
    Ok(list(db, partner, &filter, None, 1).await?.pop())
}

/// The smallest and largest uuid that share the millisecond of a version 7 uuid.
pub(super) fn millisecond_of(id: Uuid) -> (Uuid, Uuid) {
    let millisecond = id.as_u128() >> 80;
    (Uuid::from_u128(millisecond << 80), Uuid::from_u128((millisecond << 80) | ((1 << 80) - 1)))
}

impl TryFrom<Row> for DeliveryView {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: DeliveryId(row.delivery_id),
            event: EventId(row.event_id),
            event_type: row.event_type,
            subscription: SubscriptionId(row.subscription_id),
            surface: Surface::parse(&row.surface).ok_or_else(|| unknown_word("surface", &row.surface))?,
            external_key: row.external_key,
            callback_url: row.url,
            state: DeliveryState::parse(&row.state)
                .ok_or_else(|| unknown_word("delivery state", &row.state))?,
            attempts: row.attempts,
            due_at: row.due_at,
            ended_at: row.ended_at,
        })
    }
}
