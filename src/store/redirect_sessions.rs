//! Redirect sessions.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::unknown_word;
use crate::domain::id::{CustomerId, PartnerId};
use crate::domain::redirect_session::{RedirectSession, SessionKind, SessionState};
use crate::domain::version::Version;
use crate::domain::{Error, Noun};

#[derive(sqlx::FromRow)]
struct Row {
    partner_id: Uuid,
    id: Uuid,
    state: String,
    r#type: String,
    customer_id: Option<Uuid>,
    content: Vec<u8>,
    content_digest: Vec<u8>,
    token: Vec<u8>,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    customer_erased: bool,
}

/// A session as stored, with what its use cases need to know about it.
#[derive(Debug, Clone)]
pub struct Found {
    pub session: RedirectSession,
    pub content_digest: Vec<u8>,
    pub customer_erased: bool,
}

impl TryFrom<Row> for Found {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let session = RedirectSession {
            id: row.id,
            partner: PartnerId(row.partner_id),
            state: SessionState::parse(&row.state)
                .ok_or_else(|| unknown_word("session state", &row.state))?,
            kind: SessionKind::parse(&row.r#type).ok_or_else(|| unknown_word("session type", &row.r#type))?,
            customer: row.customer_id.map(CustomerId),
            content: row.content,
            token: row.token,
            version: Version(row.version),
            created_at: row.created_at,
            updated_at: row.updated_at,
            expires_at: row.expires_at,
        };
        Ok(Self { session, content_digest: row.content_digest, customer_erased: row.customer_erased })
    }
}

const COLUMNS: &str = "s.partner_id, s.id, s.state, s.type, s.customer_id, s.content, s.content_digest, s.token, s.version,
    s.created_at, s.updated_at, s.expires_at,
    s.customer_id is not null and not exists
        (select from customers c where c.id = s.customer_id and c.partner_id = s.partner_id and c.erased_at is null) as customer_erased";

pub async fn find(db: &mut PgConnection, partner: PartnerId, id: Uuid) -> Result<Option<Found>, Error> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from redirect_sessions s where s.partner_id = $1 and s.id = $2"
    )))
    .bind(partner.0)
    .bind(id)
    .fetch_optional(db)
    .await?;
    row.map(Found::try_from).transpose()
}

/// A session with the database's time at which it was locked.
#[derive(sqlx::FromRow)]
struct LockedRow {
    #[sqlx(flatten)]
    row: Row,
    locked_at: DateTime<Utc>,
}

/// Reads and locks sessions, in the order of their keys so that two lockers cannot wait for each other. Says when, if any was found.
pub async fn lock(
    db: &mut PgConnection,
    wanted: &[(PartnerId, Uuid)],
) -> Result<(Vec<Found>, Option<DateTime<Utc>>), Error> {
    let (partners, ids): (Vec<Uuid>, Vec<Uuid>) = wanted.iter().map(|(partner, id)| (partner.0, *id)).unzip();
    let rows: Vec<LockedRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS}, herald_now() as locked_at from redirect_sessions s
         where (s.partner_id, s.id) in (select * from unnest($1::uuid[], $2::uuid[]))
         order by s.partner_id, s.id for update of s"
    )))
    .bind(partners)
    .bind(ids)
    .fetch_all(db)
    .await?;
    let locked_at = rows.first().map(|locked| locked.locked_at);
    let found = rows.into_iter().map(|locked| Found::try_from(locked.row)).collect::<Result<_, _>>()?;
    Ok((found, locked_at))
}

/// Stores a new session. Errors: `VersionMismatch` when another request stored one under this id at the same moment.
pub async fn insert(
    db: &mut PgConnection,
    session: &RedirectSession,
    content_digest: &[u8],
) -> Result<(), Error> {
    let done = sqlx::query(
        "insert into redirect_sessions (partner_id, id, type, customer_id, content, content_digest, token, created_at, updated_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing",
    )
    .bind(session.partner.0)
    .bind(session.id)
    .bind(session.kind.as_str())
    .bind(session.customer.map(|customer| customer.0))
    .bind(&session.content)
    .bind(content_digest)
    .bind(&session.token)
    .bind(session.created_at)
    .bind(session.updated_at)
    .bind(session.expires_at)
    .execute(db)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(Error::VersionMismatch(Noun::Session)) }
}

/// Writes the ends of sessions, each only if it is still active and at the version it was read at; returns how many were written.
pub async fn end(db: &mut PgConnection, ended: &[RedirectSession]) -> Result<u64, Error> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for session in ended {
        columns.0.push(session.partner.0);
        columns.1.push(session.id);
        columns.2.push(session.state.as_str());
        columns.3.push(session.version.0);
        columns.4.push(session.updated_at);
    }
    let done = sqlx::query(
        "update redirect_sessions s set state = e.state, version = e.version, updated_at = e.updated_at
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::timestamptz[])
              as e (partner_id, id, state, version, updated_at)
         where s.partner_id = e.partner_id and s.id = e.id and s.state = 'Active' and s.version = e.version - 1",
    )
    .bind(columns.0)
    .bind(columns.1)
    .bind(columns.2)
    .bind(columns.3)
    .bind(columns.4)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
