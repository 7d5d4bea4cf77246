//! Deliveries as their partner sees them. A delivery has no row of its own: it is its queue row, else its last final attempt.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{sections, unknown_word};
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

impl Filter {
    fn narrows(&self) -> bool {
        self.state.is_some() || self.subscriptions.is_some() || self.event_type.is_some()
    }
}

/// Deliveries looked at for one page of a list that is narrowed: what the filter leaves may be far apart.
pub const LOOKED_AT_MAX: i64 = 10_000;

/// A page of a list.
#[derive(Debug)]
pub struct Listed {
    pub deliveries: Vec<DeliveryView>,
    /// Where the list goes on, if it may: before this one.
    pub rest: Option<DeliveryId>,
}

/// Deliveries older than the cursor, newest first, up to `limit`, as far as they are found among the next `looked_at_max`.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    filter: &Filter,
    before: Option<DeliveryId>,
    limit: i64,
    looked_at_max: i64,
) -> Result<Listed, Error> {
    let (from, to) = match filter {
        Filter { delivery: Some(id), .. } => (id.0, Uuid::from_u128(id.0.as_u128().saturating_add(1))),
        // Deliveries share their event's millisecond, so those of one event lie between two ids.
        Filter { event: Some(id), .. } => millisecond_of(id.0),
        _ => (Uuid::nil(), Uuid::max()),
    };
    let before = before.map_or(to, |id| id.0.min(to));
    let floor: Option<Uuid> = if from.is_nil() && filter.narrows() {
        sqlx::query_scalar(include_str!("queries/deliveries/floor.sql"))
            .bind(partner.0)
            .bind(before)
            .bind(filter.state.map(DeliveryState::as_str))
            .bind(looked_at_max)
            .fetch_one(&mut *db)
            .await?
    } else {
        None
    };
    let ids = |ids: &Vec<SubscriptionId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let mut rows: Vec<Row> = sqlx::query_as(page_of(filter.state))
        .bind(partner.0)
        .bind(before)
        .bind(filter.state.map(DeliveryState::as_str))
        .bind(filter.subscriptions.as_ref().map(ids))
        .bind(&filter.event_type)
        .bind(filter.event.map(|id| id.0))
        // One more tells whether there is more.
        .bind(limit.saturating_add(1))
        .bind(floor.unwrap_or(from))
        .fetch_all(db)
        .await?;
    let page_size = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_full = rows.len() > page_size;
    rows.truncate(page_size);
    let last = rows.last().filter(|_| is_full).map(|row| row.delivery_id);
    let deliveries = rows.into_iter().map(DeliveryView::try_from).collect::<Result<_, _>>()?;
    Ok(Listed { deliveries, rest: last.or(floor).map(DeliveryId) })
}

/// The statement for deliveries in a state, or in any.
fn page_of(state: Option<DeliveryState>) -> &'static str {
    static PAGES: LazyLock<[String; 4]> = LazyLock::new(|| {
        let list = include_str!("queries/deliveries/list.sql");
        let all: [&[&str]; 4] = [&["live", "both", "ended"], &["live"], &["ended"], &["ended", "rare"]];
        all.map(|sections| sections::with(list, sections))
    });
    let place = match state {
        None => 0,
        Some(DeliveryState::Pending | DeliveryState::Held) => 1,
        Some(DeliveryState::Delivered) => 2,
        Some(DeliveryState::Dead | DeliveryState::Cancelled | DeliveryState::Expired) => 3,
    };
    &PAGES[place]
}

pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    id: DeliveryId,
) -> Result<Option<DeliveryView>, Error> {
    let filter = Filter { delivery: Some(id), ..Filter::default() };
    Ok(list(db, partner, &filter, None, 1, LOOKED_AT_MAX).await?.deliveries.pop())
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
