//! Who takes which events: read here, remembered by whoever inserts events, and looked at again by the statement that inserts.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::{PartnerId, SubscriptionId};
use crate::domain::route::{Route, Routes};

#[derive(sqlx::FromRow)]
struct Row {
    /// From 1, of what was asked.
    number: i64,
    version: i64,
    subscription_id: Option<Uuid>,
    campaign_names: Option<Vec<String>>,
    holds: Option<bool>,
    gathers: Option<bool>,
}

/// The routes of each of these types, in the order in which they were asked for. All as of one moment.
pub async fn read(db: &mut PgConnection, asked: &[(PartnerId, &str)]) -> Result<Vec<Routes>, Error> {
    let rows: Vec<Row> = sqlx::query_as(include_str!("queries/routes/read.sql"))
        .bind(asked.iter().map(|(partner, _)| partner.0).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, event_type)| *event_type).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    let mut read = vec![Routes::default(); asked.len()];
    for row in rows {
        let place = usize::try_from(row.number - 1).ok().and_then(|place| read.get_mut(place));
        let routes = place.ok_or_else(|| Error::internal("routes of a type that was not asked for"))?;
        routes.version = row.version;
        if let (Some(subscription), Some(holds), Some(gathers)) =
            (row.subscription_id, row.holds, row.gathers)
        {
            // They are stored in this order, but nothing in the database keeps it.
            let sorted = |mut names: Vec<String>| {
                names.sort_unstable();
                names
            };
            let (subscription, campaigns) = (SubscriptionId(subscription), row.campaign_names.map(sorted));
            routes.all.push(Route { subscription, holds, gathers, campaigns });
        }
    }
    Ok(read)
}

/// Keeps the routes of these partners as they are until the transaction is over; waits for those who are changing them. A partner without changes
/// keeps the version that it has without a row: what is read under a lock is still right if that is rolled back.
pub async fn lock(db: &mut PgConnection, partners: &[PartnerId]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into matching_versions as m (partner_id, version) select id, 0 from unnest($1::uuid[]) as id order by id
         on conflict (partner_id) do update set version = m.version",
    )
    .bind(partners.iter().map(|partner| partner.0).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}
