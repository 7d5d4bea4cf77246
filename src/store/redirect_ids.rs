//! The global claims on the ids of the redirect surface: the first partner to use one keeps it.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::id::PartnerId;

#[derive(Debug, Clone, Copy)]
pub enum ClaimKind {
    Subscription,
    Session,
}

impl ClaimKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Session => "session",
        }
    }
}

/// Claims the id for the partner, or finds who has it. Returns its owner; waits for a claim that is being made at this moment.
pub async fn claim(
    db: &mut PgConnection,
    kind: ClaimKind,
    id: Uuid,
    partner: PartnerId,
) -> Result<PartnerId, Error> {
    let claimed = sqlx::query(
        "insert into redirect_ids (kind, id, partner_id) values ($1, $2, $3) on conflict do nothing",
    )
    .bind(kind.as_str())
    .bind(id)
    .bind(partner.0)
    .execute(&mut *db)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(partner);
    }
    owner(db, kind, id)
        .await?
        .ok_or_else(|| Error::internal("a claim on a redirect id vanished; claims are never deleted"))
}

/// Who has claimed the id, if anyone.
pub async fn owner(db: &mut PgConnection, kind: ClaimKind, id: Uuid) -> Result<Option<PartnerId>, Error> {
    let owner: Option<Uuid> =
        sqlx::query_scalar("select partner_id from redirect_ids where kind = $1 and id = $2")
            .bind(kind.as_str())
            .bind(id)
            .fetch_optional(db)
            .await?;
    Ok(owner.map(PartnerId))
}
