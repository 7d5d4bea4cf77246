//! Redirect sessions: made, read, completed. Cancelling goes through [`super::ingest`], because it commits an event.

use std::time::Instant;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Hub;
use super::once::{Answer, Once, Opening};
use super::open_sessions::OpenSessions;
use crate::domain::caller::Caller;
use crate::domain::id::{CustomerId, PartnerId};
use crate::domain::key_ring::KeyRing;
use crate::domain::redirect_session::{RedirectSession, SessionKind, SessionState};
use crate::domain::row_hint::RowHint;
use crate::domain::secret::Secret;
use crate::domain::version::IfMatch;
use crate::domain::{Error, Noun};
use crate::store;
use crate::store::redirect_ids::{self, ClaimKind};
use crate::store::redirect_sessions::{self, Content, Found, Fresh};

/// A session as a partner asks for it. `content` is normalised, so that the same request always gives the same bytes.
#[derive(Debug)]
pub struct Open {
    pub id: Uuid,
    pub kind: SessionKind,
    pub customer: Option<CustomerId>,
    pub content: Vec<u8>,
    pub condition: IfMatch,
}

/// A session with the token that lets its customer in.
#[derive(Debug)]
pub struct Opened {
    pub session: RedirectSession,
    /// What was asked of it, as [`Open`] had it.
    pub content: Vec<u8>,
    pub token: Secret,
    pub row_at: RowHint,
}

impl Hub {
    /// Opens a session, or finds it open already with the same content.
    /// Errors: `NotFound(Customer)` (also of the customer that the session had before and who was erased since), `NotYours`, `VersionMismatch`, `Duplicate` (the id has other content).
    pub async fn open_session(
        &self,
        caller: &Caller,
        once: Option<Once>,
        command: Result<Open, Error>,
        render: impl FnOnce(Result<Opened, Error>) -> Answer,
    ) -> Result<Answer, Error> {
        let ttl = TimeDelta::from_std(self.settings.session_ttl).map_err(Error::internal)?;
        let (keys, remembered) = (&self.keys, &self.open_sessions);
        let (opened, answer) = match once {
            // One statement stores all there is to store.
            None => {
                let result = match command {
                    Ok(command) => {
                        let mut connection = self.connection().await?;
                        open(&mut connection, keys, remembered, caller.partner, ttl, command).await
                    }
                    Err(error) => Err(error),
                };
                (session_of(&result), render(result))
            }
            Some(once) => {
                let mut turn = match self.open(caller.partner, Some(once)).await? {
                    Opening::Answered(answer) => return Ok(answer),
                    Opening::Fresh(turn) => turn,
                };
                let result = match command {
                    Ok(command) => open(turn.db(), keys, remembered, caller.partner, ttl, command).await,
                    Err(error) => Err(error),
                };
                (session_of(&result), turn.close(result, render).await?)
            }
        };
        if let Some((session, row_at)) = opened.filter(|(session, _)| session.state == SessionState::Active) {
            self.open_sessions.remember(session, row_at);
        }
        Ok(answer)
    }

    /// A session of the caller as it stands now. Errors: `NotFound` of the session or of its erased customer.
    pub async fn find_session(&self, caller: &Caller, id: Uuid) -> Result<Opened, Error> {
        let mut connection = self.connection().await?;
        let found = redirect_sessions::find(&mut connection, caller.partner, id).await?;
        let (found, asked) = found.ok_or(Error::NotFound(Noun::Session))?;
        if found.customer_erased {
            return Err(Error::NotFound(Noun::Customer));
        }
        opened(&self.keys, (found.session.at(found.read_at), found.row_at), asked)
    }

    /// Completes anyone's session, for the operator. Errors: `NotFound` of the session or of its erased customer, `Transition`.
    pub async fn complete_session(&self, id: Uuid) -> Result<RedirectSession, Error> {
        let mut connection = self.connection().await?;
        let owner = redirect_ids::owner(&mut connection, ClaimKind::Session, id).await?;
        let owner = owner.ok_or(Error::NotFound(Noun::Session))?;
        loop {
            let found = redirect_sessions::read(&mut connection, &[(owner, id)]).await?.pop();
            let found = found.ok_or(Error::NotFound(Noun::Session))?;
            let Found { session, customer_erased, read_at, .. } = found;
            if customer_erased {
                return Err(Error::NotFound(Noun::Customer));
            }
            let completed = session.end(SessionState::Completed, &IfMatch::Absent, read_at)?;
            // Otherwise somebody else has ended it meanwhile, which the next look finds.
            if redirect_sessions::end(&mut connection, &completed).await? {
                return Ok(completed);
            }
        }
    }
}

async fn open(
    db: &mut PgConnection,
    keys: &KeyRing,
    open_sessions: &OpenSessions,
    partner: PartnerId,
    ttl: TimeDelta,
    command: Open,
) -> Result<Opened, Error> {
    if let Some(customer) = command.customer
        && !store::customers::exists(db, partner, customer).await?
    {
        return Err(Error::NotFound(Noun::Customer));
    }
    let (asked, digest) = (Instant::now(), content_digest(&command.content));
    if command.condition.allows(None) {
        let token = keys.seal(&token_identity(partner, command.id), new_token().as_bytes());
        let content = Content { content: command.content, content_digest: digest.clone(), token };
        let Open { id, kind, customer, .. } = command;
        let fresh = Fresh { id, partner, kind, customer, ttl, asked: &content };
        if let Some((session, row_at)) = redirect_sessions::open(db, fresh).await? {
            open_sessions.set_clock(session.created_at, asked);
            return opened(keys, (session, row_at), content);
        }
    }
    // Somebody has the id, or the caller takes it that somebody has.
    if redirect_ids::owner(db, ClaimKind::Session, command.id).await?.is_some_and(|owner| owner != partner) {
        return Err(Error::NotYours(Noun::Session));
    }
    let current = redirect_sessions::find(db, partner, command.id).await?;
    let Some((found, content)) = current else { return Err(Error::VersionMismatch(Noun::Session)) };
    if found.customer_erased {
        return Err(Error::NotFound(Noun::Customer));
    }
    let session = found.session.at(found.read_at);
    if !command.condition.allows(Some(session.version)) {
        return Err(Error::VersionMismatch(Noun::Session));
    }
    if content.content_digest != digest {
        return Err(Error::Duplicate(Noun::Session));
    }
    opened(keys, (session, found.row_at), content)
}

fn session_of(result: &Result<Opened, Error>) -> Option<(RedirectSession, RowHint)> {
    result.as_ref().ok().map(|opened| (opened.session.clone(), opened.row_at))
}

fn opened(
    keys: &KeyRing,
    (session, row_at): (RedirectSession, RowHint),
    asked: Content,
) -> Result<Opened, Error> {
    let token =
        keys.open(&token_identity(session.partner, session.id), &asked.token).map_err(Error::internal)?;
    Ok(Opened { session, content: asked.content, token, row_at })
}

fn content_digest(content: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content).as_ref().to_vec()
}

/// 256 random bits in letters that any URL carries unquoted.
fn new_token() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

fn token_identity(partner: PartnerId, session: Uuid) -> String {
    format!("redirect_sessions/{partner}/{session}/token")
}
