//! Subscriptions of the notifications surface, which have filters and share callbacks, and whose event types are taken only while they are
//! active.

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::named_callbacks::NamedCallback;
use super::unknown_word;
use crate::domain::Error;
use crate::domain::id::{CallbackId, PartnerId, SubscriptionId};
use crate::domain::notification::{Filter, Name, passing_campaigns, weight_bytes};
use crate::domain::subscription::SubscriptionState;
use crate::domain::version::Version;

/// A type is taken once among a partner's active subscriptions; the index's other columns name the partner.
const AMONG_ACTIVE: &[u8] = b"active";

/// A subscription as its owner sees it.
#[derive(Debug, Clone)]
pub struct Notification {
    pub id: SubscriptionId,
    pub name: String,
    pub callback: NamedCallback,
    pub event_types: Vec<String>,
    pub state: SubscriptionState,
    pub state_reason: Option<String>,
    pub filters: Vec<Filter>,
    pub version: Version,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    external_key: String,
    callback_id: Uuid,
    callback_name: String,
    url: String,
    backup_url: Option<String>,
    batch_size: i32,
    event_types: Vec<String>,
    state: String,
    state_reason: Option<String>,
    filters: Option<String>,
    version: i64,
}

impl TryFrom<Row> for Notification {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let state = SubscriptionState::parse(&row.state)
            .ok_or_else(|| unknown_word("subscription state", &row.state))?;
        Ok(Self {
            id: SubscriptionId(row.id),
            name: row.external_key,
            callback: NamedCallback {
                id: CallbackId(row.callback_id),
                name: row.callback_name,
                url: row.url,
                backup_url: row.backup_url,
                batch_size: row.batch_size,
            },
            event_types: row.event_types,
            state,
            state_reason: row.state_reason,
            filters: row.filters.as_deref().map_or(Ok(Vec::new()), read_filters)?,
            version: Version(row.version),
        })
    }
}

const SELECT: &str = "select s.id, s.external_key, s.callback_id, coalesce(c.name, '') as callback_name, c.url, c.backup_url, c.batch_size,
        array(select event_type from subscription_event_types t where t.subscription_id = s.id order by place) as event_types,
        s.state, s.state_reason, s.filters::text as filters, s.version
    from subscriptions s join callbacks c on c.id = s.callback_id
    where s.partner_id = $1 and s.surface = 'notifications' and s.state <> 'deleted'";

/// Lets one request at a time change a partner's callbacks and subscriptions, so that those which swap event types with each other do not
/// wait for each other in a circle. Other writers that only point at the partner do not wait.
pub async fn take_turn(db: &mut PgConnection, partner: PartnerId) -> Result<(), Error> {
    sqlx::query("select from partners where id = $1 for no key update").bind(partner.0).execute(db).await?;
    Ok(())
}

/// How many callbacks and how many subscriptions the partner has.
pub async fn count(db: &mut PgConnection, partner: PartnerId) -> Result<(i64, i64), Error> {
    let counts = sqlx::query_as(
        "select (select count(*) from callbacks where partner_id = $1 and surface = 'notifications' and name is not null),
                (select count(*) from subscriptions where partner_id = $1 and surface = 'notifications' and state <> 'deleted')",
    )
    .bind(partner.0)
    .fetch_one(db)
    .await?;
    Ok(counts)
}

pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    name: &Name,
) -> Result<Option<Notification>, Error> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} and s.external_key = $2")))
        .bind(partner.0)
        .bind(name.as_str())
        .fetch_optional(db)
        .await?;
    row.map(Notification::try_from).transpose()
}

/// As [`find`], for changing it within the present transaction: nobody else does meanwhile.
pub async fn find_to_change(
    db: &mut PgConnection,
    partner: PartnerId,
    name: &Name,
) -> Result<Option<Notification>, Error> {
    // First the lock: what is read before it could be of a version that somebody else is just replacing.
    sqlx::query(
        "select from subscriptions
         where partner_id = $1 and surface = 'notifications' and external_key = $2 and state <> 'deleted' for update",
    )
    .bind(partner.0)
    .bind(name.as_str())
    .execute(&mut *db)
    .await?;
    find(db, partner, name).await
}

/// The active subscriptions, oldest first. There are never more than there are event types.
pub async fn list_active(db: &mut PgConnection, partner: PartnerId) -> Result<Vec<Notification>, Error> {
    let rows: Vec<Row> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} and s.state = 'active' order by s.id")))
            .bind(partner.0)
            .fetch_all(db)
            .await?;
    rows.into_iter().map(Notification::try_from).collect()
}

/// Up to `limit` subscriptions of a callback, oldest first.
pub async fn list_of_callback(
    db: &mut PgConnection,
    partner: PartnerId,
    callback: CallbackId,
    limit: i64,
) -> Result<Vec<Notification>, Error> {
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{SELECT} and s.callback_id = $2 order by s.id limit $3"
    )))
    .bind(partner.0)
    .bind(callback.0)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Notification::try_from).collect()
}

/// What the filters of all of the partner's subscriptions weigh together.
pub async fn filters_bytes(db: &mut PgConnection, partner: PartnerId) -> Result<usize, Error> {
    let bytes: i64 = sqlx::query_scalar(
        "select coalesce(sum(filters_bytes), 0) from subscriptions
         where partner_id = $1 and surface = 'notifications' and state <> 'deleted'",
    )
    .bind(partner.0)
    .fetch_one(db)
    .await?;
    usize::try_from(bytes).map_err(Error::internal)
}

/// Gives a subscription its callback and its filters.
pub async fn update(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
    callback: CallbackId,
    filters: &[Filter],
) -> Result<(), Error> {
    let bytes = i32::try_from(weight_bytes(filters)).map_err(Error::internal)?;
    let filters = (!filters.is_empty()).then(|| written_filters(filters).to_string());
    sqlx::query(
        "update subscriptions set callback_id = $3, filters = $4::jsonb, filters_bytes = $5 where partner_id = $1 and id = $2",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(callback.0)
    .bind(filters)
    .bind(bytes)
    .execute(db)
    .await?;
    Ok(())
}

/// Which of these types active subscriptions of the partner have other than this one.
pub async fn taken(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
    event_types: &[String],
) -> Result<Vec<String>, Error> {
    let taken = sqlx::query_scalar(
        "select event_type from subscription_event_types
         where partner_id = $1 and surface = 'notifications' and event_type = any ($2) and exclusive_in is not null
           and subscription_id <> $3",
    )
    .bind(partner.0)
    .bind(event_types)
    .bind(id.0)
    .fetch_all(db)
    .await?;
    Ok(taken)
}

/// Puts event types, with what filters say of each, in the place of those that a subscription had; active ones are taken for it alone.
/// Returns those that it did not get because another active subscription has them, by the word of the index that keeps this true.
pub async fn replace_event_types(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
    event_types: &[String],
    filters: &[Filter],
    active: bool,
) -> Result<Vec<String>, Error> {
    sqlx::query("delete from subscription_event_types where subscription_id = $1")
        .bind(id.0)
        .execute(&mut *db)
        .await?;
    let campaigns: serde_json::Map<String, Value> = event_types
        .iter()
        .filter_map(|kind| Some((kind.clone(), json!(passing_campaigns(filters, kind)?))))
        .collect();
    let inserted: Vec<String> = sqlx::query_scalar(
        "insert into subscription_event_types (partner_id, subscription_id, surface, event_type, place, exclusive_in, campaign_names)
         select $1, $2, 'notifications', event_type, place, $4,
                case when $5::jsonb ? event_type then array(select jsonb_array_elements_text($5::jsonb -> event_type)) end
         from unnest($3::text[]) with ordinality as e (event_type, place) order by event_type
         on conflict (partner_id, surface, event_type, exclusive_in) where exclusive_in is not null do nothing
         returning event_type",
    )
    .bind(partner.0)
    .bind(id.0)
    .bind(event_types)
    .bind(active.then_some(AMONG_ACTIVE))
    .bind(Value::Object(campaigns).to_string())
    .fetch_all(db)
    .await?;
    Ok(event_types.iter().filter(|kind| !inserted.contains(kind)).cloned().collect())
}

fn written_filters(filters: &[Filter]) -> Value {
    let written = |filter: &Filter| {
        let values: Vec<Value> =
            filter.campaign_names.iter().map(|names| json!({ "campaignNames": names })).collect();
        json!({ "eventTypes": filter.event_types, "values": values })
    };
    filters.iter().map(written).collect()
}

fn read_filters(text: &str) -> Result<Vec<Filter>, Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored {
        event_types: Vec<String>,
        values: Vec<Criterion>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Criterion {
        campaign_names: Vec<String>,
    }
    let stored: Vec<Stored> = serde_json::from_str(text).map_err(Error::internal)?;
    let read = |filter: Stored| Filter {
        event_types: filter.event_types,
        campaign_names: filter.values.into_iter().map(|criterion| criterion.campaign_names).collect(),
    };
    Ok(stored.into_iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_back_as_they_were() {
        let filters = vec![
            Filter {
                event_types: vec!["A".to_owned(), "B".to_owned()],
                campaign_names: vec![vec!["x".to_owned()], vec![]],
            },
            Filter { event_types: vec![], campaign_names: vec![] },
        ];
        assert_eq!(read_filters(&written_filters(&filters).to_string()).unwrap(), filters);
    }
}
