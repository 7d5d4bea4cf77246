//! What webhook subscriptions have besides what all have, and what their owners see of them. Reads their secrets back, sealed.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::subscriptions::{COLUMNS, Row as SubscriptionRow};
use super::{sections, unknown_word};
use crate::domain::Error;
use crate::domain::attempt::Outcome;
use crate::domain::id::{AttemptId, EventId, PartnerId, SubscriptionId};
use crate::domain::recipient_key::RecipientKey;
use crate::domain::subscription::Subscription;
use crate::domain::webhook::{AccountId, EventName, Tried, Webhook};

pub struct NewWebhook<'a> {
    pub subscription: SubscriptionId,
    pub partner: PartnerId,
    pub name: Option<&'a str>,
    pub account: Option<&'a AccountId>,
    pub recipient: Option<&'a RecipientKey>,
}

pub async fn insert(db: &mut PgConnection, new: NewWebhook<'_>) -> Result<(), Error> {
    sqlx::query(
        "insert into webhooks (subscription_id, partner_id, name, account_id, recipient_key) values ($1, $2, $3, $4, $5)",
    )
    .bind(new.subscription.0)
    .bind(new.partner.0)
    .bind(new.name)
    .bind(new.account.map(AccountId::as_str))
    .bind(new.recipient.map(RecipientKey::der))
    .execute(db)
    .await?;
    Ok(())
}

/// Changes what is `Some`.
pub async fn update(
    db: &mut PgConnection,
    partner: PartnerId,
    subscription: SubscriptionId,
    name: Option<&str>,
    recipient: Option<&RecipientKey>,
) -> Result<(), Error> {
    sqlx::query(
        "update webhooks set name = coalesce($3, name), recipient_key = coalesce($4, recipient_key)
         where partner_id = $1 and subscription_id = $2",
    )
    .bind(partner.0)
    .bind(subscription.0)
    .bind(name)
    .bind(recipient.map(RecipientKey::der))
    .execute(db)
    .await?;
    Ok(())
}

/// Which of a partner's living subscriptions. Absent members do not narrow.
#[derive(Debug, Default)]
pub struct Filter<'a> {
    pub ids: Option<&'a [Uuid]>,
    pub event: Option<&'a EventName>,
    pub account: Option<&'a AccountId>,
}

/// A subscription with its secret, sealed.
pub struct Kept {
    pub webhook: Webhook,
    pub account: Option<String>,
    pub sealed_secret: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    subscription: SubscriptionRow,
    name: Option<String>,
    account_id: Option<String>,
    recipient_key: Option<Vec<u8>>,
    credentials: Vec<u8>,
}

impl TryFrom<Row> for Kept {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let read = |der: Vec<u8>| {
            RecipientKey::from_der(&der).ok_or_else(|| Error::internal("a stored recipient key is none"))
        };
        let recipient = row.recipient_key.map(read).transpose()?;
        let subscription = Subscription::try_from(row.subscription)?;
        let webhook = Webhook { subscription, name: row.name, recipient };
        Ok(Self { webhook, account: row.account_id, sealed_secret: row.credentials })
    }
}

/// Up to `limit` living subscriptions, oldest first.
pub async fn list(
    db: &mut PgConnection,
    partner: PartnerId,
    filter: &Filter<'_>,
    limit: i64,
) -> Result<Vec<Kept>, Error> {
    let rows: Vec<Row> = sqlx::query_as(list_by(filter))
        .bind(partner.0)
        .bind(filter.ids.map(external_keys))
        .bind(filter.event.map(EventName::as_str))
        .bind(filter.account.map(AccountId::as_str))
        .bind(limit)
        .bind(AccountId::digest_of(filter.account))
        .fetch_all(db)
        .await?;
    rows.into_iter().map(Kept::try_from).collect()
}

/// The statement that looks where the filter leaves least.
fn list_by(filter: &Filter<'_>) -> &'static str {
    static LISTS: LazyLock<[String; 5]> = LazyLock::new(|| {
        let list = include_str!("queries/webhooks/list.sql");
        let all = ["by_key", "by_event_and_account", "by_event", "by_account", "by_partner"];
        all.map(|chosen| sections::with(list, &[chosen]).replace("{columns}", COLUMNS))
    });
    let place = match filter {
        Filter { ids: Some(_), .. } => 0,
        Filter { event: Some(_), account: Some(_), .. } => 1,
        Filter { event: Some(_), account: None, .. } => 2,
        Filter { account: Some(_), .. } => 3,
        Filter { .. } => 4,
    };
    &LISTS[place]
}

/// Holds these subscriptions against every other change until the transaction ends; always in the same order, so that two who want several
/// do not wait for each other. What they are is to be read after this, by another statement: this one may have waited.
pub async fn lock(db: &mut PgConnection, partner: PartnerId, ids: &[Uuid]) -> Result<(), Error> {
    sqlx::query(include_str!("queries/webhooks/lock.sql"))
        .bind(partner.0)
        .bind(external_keys(ids))
        .execute(db)
        .await?;
    Ok(())
}

fn external_keys(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}

#[derive(sqlx::FromRow)]
struct TriedRow {
    subscription_id: Uuid,
    id: Uuid,
    event_id: Uuid,
    started_at: DateTime<Utc>,
    outcome: String,
    status: Option<i16>,
}

/// The latest attempts of each of these subscriptions, up to `limit` of each, newest first. Ends that no attempt made are not among them.
pub async fn history(
    db: &mut PgConnection,
    partner: PartnerId,
    subscriptions: &[SubscriptionId],
    limit: i64,
) -> Result<Vec<(SubscriptionId, Tried)>, Error> {
    let rows: Vec<TriedRow> = sqlx::query_as(include_str!("queries/webhooks/history.sql"))
        .bind(partner.0)
        .bind(subscriptions.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.into_iter()
        .map(|row| {
            let tried = Tried {
                id: AttemptId(row.id),
                event: EventId(row.event_id),
                attempted_at: row.started_at,
                outcome: Outcome::parse(&row.outcome).ok_or_else(|| unknown_word("outcome", &row.outcome))?,
                status: row.status.and_then(|status| u16::try_from(status).ok()),
            };
            Ok((SubscriptionId(row.subscription_id), tried))
        })
        .collect()
}
