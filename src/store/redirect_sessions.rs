//! Redirect sessions.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::unknown_word;
use crate::domain::Error;
use crate::domain::id::{CustomerId, PartnerId};
use crate::domain::redirect_session::{RedirectSession, SessionKind, SessionState};
use crate::domain::row_hint::RowHint;
use crate::domain::version::Version;

#[derive(sqlx::FromRow)]
struct Row {
    partner_id: Uuid,
    id: Uuid,
    state: String,
    r#type: String,
    customer_id: Option<Uuid>,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    customer_erased: bool,
    read_at: DateTime<Utc>,
    row_at: RowHint,
}

/// A session as stored, with what its use cases need to know about it.
#[derive(Debug, Clone)]
pub struct Found {
    pub session: RedirectSession,
    pub customer_erased: bool,
    /// By database time.
    pub read_at: DateTime<Utc>,
    pub row_at: RowHint,
}

/// A session that was ended, as it is from now on: one version further than it was before.
#[derive(Debug, Clone)]
pub struct Ended {
    pub session: RedirectSession,
    /// It is written there or not at all: who changes a session moves its row. One that was moved for another reason is read again.
    pub row_at: RowHint,
    /// Whether it was not read but remembered. Then all that reading would have shown is looked at when it is written.
    pub remembered: bool,
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
            version: Version(row.version),
            created_at: row.created_at,
            updated_at: row.updated_at,
            expires_at: row.expires_at,
        };
        Ok(Self { session, customer_erased: row.customer_erased, read_at: row.read_at, row_at: row.row_at })
    }
}

/// What was asked of a session, and the token that lets its customer in.
#[derive(Clone, sqlx::FromRow)]
pub struct Content {
    /// As its surface normalised it.
    pub content: Vec<u8>,
    /// What tells a repeat from another request under the same id.
    pub content_digest: Vec<u8>,
    /// Sealed by the key ring.
    pub token: Vec<u8>,
}

const STANDING: &str = "s.partner_id, s.id, s.state, s.type, s.customer_id, s.version, s.created_at, s.updated_at, s.expires_at,
    s.customer_id is not null and not exists
        (select from customers c where c.id = s.customer_id and c.partner_id = s.partner_id and c.erased_at is null) as customer_erased,
    herald_now() as read_at, s.ctid as row_at";

pub async fn find(
    db: &mut PgConnection,
    partner: PartnerId,
    id: Uuid,
) -> Result<Option<(Found, Content)>, Error> {
    #[derive(sqlx::FromRow)]
    struct Whole {
        #[sqlx(flatten)]
        row: Row,
        #[sqlx(flatten)]
        content: Content,
    }
    let whole: Option<Whole> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {STANDING}, asked.content, asked.content_digest, asked.token from redirect_sessions s
         join redirect_session_contents asked on asked.partner_id = s.partner_id and asked.id = s.id
         where s.partner_id = $1 and s.id = $2"
    )))
    .bind(partner.0)
    .bind(id)
    .fetch_optional(db)
    .await?;
    whole.map(|whole| Ok((Found::try_from(whole.row)?, whole.content))).transpose()
}

/// How sessions stand. Nothing is locked: who changes one says what it was read as, and changes nothing if it is not so any more.
pub async fn read(db: &mut PgConnection, wanted: &[(PartnerId, Uuid)]) -> Result<Vec<Found>, Error> {
    let (partners, ids): (Vec<Uuid>, Vec<Uuid>) = wanted.iter().map(|(partner, id)| (partner.0, *id)).unzip();
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        // Written so that it can only be looked up in the index, see docs/decisions/0027.
        "select {STANDING} from unnest($1::uuid[], $2::uuid[]) as w (partner_id, id)
         join redirect_sessions s
             on s.partner_id = any (array[w.partner_id]) and s.id between w.id and w.id"
    )))
    .bind(partners)
    .bind(ids)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Found::try_from).collect()
}

/// A session that nobody has opened yet.
pub struct Fresh<'a> {
    pub id: Uuid,
    pub partner: PartnerId,
    pub kind: SessionKind,
    pub customer: Option<CustomerId>,
    pub ttl: TimeDelta,
    pub asked: &'a Content,
}

/// Claims a session's id and stores the session, in one statement; `None` if somebody has claimed that id before, for which a claim that is being made
/// at this moment is waited for. It is open from now, by database time.
pub async fn open(
    db: &mut PgConnection,
    fresh: Fresh<'_>,
) -> Result<Option<(RedirectSession, RowHint)>, Error> {
    let Fresh { id, partner, kind, customer, ttl, asked } = fresh;
    let opened: Option<(DateTime<Utc>, DateTime<Utc>, RowHint)> = sqlx::query_as(
        "with claimed as (
             insert into redirect_ids (kind, id, partner_id) values ('session', $2, $1) on conflict do nothing returning id),
         asked as (
             insert into redirect_session_contents (partner_id, id, content, content_digest, token)
             select $1, id, $5, $6, $7 from claimed)
         insert into redirect_sessions (partner_id, id, type, customer_id, created_at, updated_at, expires_at)
         select $1, id, $3, $4, herald_now(), herald_now(), herald_now() + $8 from claimed
         returning created_at, expires_at, ctid",
    )
    .bind(partner.0)
    .bind(id)
    .bind(kind.as_str())
    .bind(customer.map(|customer| customer.0))
    .bind(&asked.content)
    .bind(&asked.content_digest)
    .bind(&asked.token)
    .bind(ttl)
    .fetch_optional(db)
    .await?;
    let session = |(now, expires_at)| RedirectSession {
        id,
        partner,
        state: SessionState::Active,
        kind,
        customer,
        version: Version(1),
        created_at: now,
        updated_at: now,
        expires_at,
    };
    Ok(opened.map(|(now, expires_at, row_at)| (session((now, expires_at)), row_at)))
}

/// Writes the end of a session, if it still is active and at the version it was read at; says whether it was.
pub async fn end(db: &mut PgConnection, ended: &RedirectSession) -> Result<bool, Error> {
    let done = sqlx::query(
        "update redirect_sessions set state = $3, version = $4, updated_at = $5
         where partner_id = $1 and id = $2 and state = 'Active' and version = $4 - 1",
    )
    .bind(ended.partner.0)
    .bind(ended.id)
    .bind(ended.state.as_str())
    .bind(ended.version.0)
    .bind(ended.updated_at)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
