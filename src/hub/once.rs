//! `x-request-id`: a request that is repeated is answered again, not executed again.
//!
//! The first answer is stored by the transaction that makes it true. Two requests with one id wait for each other: within a process in
//! memory, so that they hold no connection meanwhile, and across processes on the row itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

use super::Hub;
use crate::domain::Error;
use crate::domain::id::PartnerId;
use crate::domain::key_ring::KeyRing;
use crate::store;
use crate::store::idempotency::FirstAnswer;

/// What makes a request the same as another: its id, and everything else about it that counts.
#[derive(Clone)]
pub struct Once {
    pub request_id: Uuid,
    /// Method, path, `If-Match` and body in one; only a keyed hash of it is kept.
    pub fingerprint: Vec<u8>,
}

/// A finished answer: what is stored for a repeat and sent for the first time alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

const HASH_DOMAIN: &str = "request fingerprint";

/// Either the answer that was given before, or the turn to find one.
pub(super) enum Opening {
    Answered(Answer),
    Fresh(Box<Turn>),
}

/// A request's transaction, which ends with its answer.
pub(super) struct Turn {
    transaction: Transaction<'static, Postgres>,
    claim: Option<Claim>,
    keys: KeyRing,
}

struct Claim {
    partner: PartnerId,
    request_id: Uuid,
    _turn: OwnedMutexGuard<()>,
}

impl Hub {
    /// Begins a request's transaction, unless it has been answered before.
    /// Errors: `Invalid` on `x-request-id` when the id was used for another request.
    pub(super) async fn open(&self, partner: PartnerId, once: Option<Once>) -> Result<Opening, Error> {
        let Some(once) = once else {
            let transaction = self.transaction().await?;
            return Ok(Opening::Fresh(Box::new(Turn { transaction, claim: None, keys: self.keys.clone() })));
        };
        let turn = self.requests.turn(partner, once.request_id).await;
        let mut transaction = self.transaction().await?;
        let hash = fingerprint_hash(&self.keys, &once);
        if !store::idempotency::claim(&mut transaction, partner, once.request_id, &hash).await? {
            let first = store::idempotency::find(&mut transaction, partner, once.request_id).await?;
            // The claim was refused, so there was an answer; if the janitor took it in between, the caller simply asks again.
            let expired = || Error::unavailable("the first answer to this request has just expired");
            return first_answer(&self.keys, partner, &once, &first.ok_or_else(expired)?)
                .map(Opening::Answered);
        }
        // What the work below writes can be undone without losing the claim, so that a 404 can be stored as an answer.
        sqlx::query("savepoint work").execute(&mut *transaction).await?;
        let claim = Some(Claim { partner, request_id: once.request_id, _turn: turn });
        Ok(Opening::Fresh(Box::new(Turn { transaction, claim, keys: self.keys.clone() })))
    }
}

impl Turn {
    pub(super) fn db(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Ends the transaction with the answer that the result renders to: a success commits, a failure undoes the work.
    pub(super) async fn close<T>(
        mut self,
        result: Result<T, Error>,
        render: impl FnOnce(Result<T, Error>) -> Answer,
    ) -> Result<Answer, Error> {
        let succeeded = result.is_ok();
        let answer = render(result);
        match &self.claim {
            Some(claim) if is_kept(answer.status) => {
                if !succeeded {
                    sqlx::query("rollback to savepoint work").execute(&mut *self.transaction).await?;
                }
                let sealed = seal(&self.keys, claim.partner, claim.request_id, &answer);
                let status = i16::try_from(answer.status).map_err(Error::internal)?;
                store::idempotency::answer(
                    &mut self.transaction,
                    claim.partner,
                    claim.request_id,
                    status,
                    &sealed,
                )
                .await?;
                self.transaction.commit().await?;
            }
            _ if succeeded => self.transaction.commit().await?,
            _ => self.transaction.rollback().await?,
        }
        Ok(answer)
    }
}

/// Answers that a repeat gets again. Any other releases the id: asking again may succeed.
pub(super) fn is_kept(status: u16) -> bool {
    matches!(status, 200..=299 | 400 | 403 | 404)
}

/// The answer that was given to this request before.
/// Errors: `Invalid` on `x-request-id` when it was another request.
pub(super) fn first_answer(
    keys: &KeyRing,
    partner: PartnerId,
    once: &Once,
    first: &FirstAnswer,
) -> Result<Answer, Error> {
    if !keys.verify_keyed_hash(HASH_DOMAIN, &once.fingerprint, &first.fingerprint) {
        return Err(Error::invalid(
            "x-request-id",
            "was used for another request; use a new uuid for each new request",
        ));
    }
    let opened = keys.open(&identity(partner, once.request_id), &first.answer).map_err(Error::internal)?;
    decode(u16::try_from(first.status).map_err(Error::internal)?, opened.expose())
}

pub(super) fn fingerprint_hash(keys: &KeyRing, once: &Once) -> Vec<u8> {
    keys.keyed_hash(HASH_DOMAIN, &once.fingerprint)
}

/// Seals an answer for storing: it may hold a redirect session's token.
pub(super) fn seal(keys: &KeyRing, partner: PartnerId, request_id: Uuid, answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::with_capacity(answer.body.len() + 128);
    for (name, value) in &answer.headers {
        plain.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    plain.push(b'\n');
    plain.extend_from_slice(&answer.body);
    keys.seal(&identity(partner, request_id), &plain)
}

fn decode(status: u16, plain: &[u8]) -> Result<Answer, Error> {
    let mut headers = Vec::new();
    let mut rest = plain;
    loop {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| Error::internal("a stored answer is cut short"))?;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if line.is_empty() {
            return Ok(Answer { status, headers, body: rest.to_vec() });
        }
        let line = std::str::from_utf8(line).map_err(Error::internal)?;
        let (name, value) =
            line.split_once(": ").ok_or_else(|| Error::internal("a stored answer has a broken header"))?;
        headers.push((name.to_owned(), value.to_owned()));
    }
}

fn identity(partner: PartnerId, request_id: Uuid) -> String {
    format!("idempotency/{partner}/{request_id}")
}

/// The requests of this process that carry an id, so that those with the same one take turns.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<Turns>>);

type Turns = HashMap<(PartnerId, Uuid), Weak<AsyncMutex<()>>>;

/// Above this many entries the ones that nobody holds are swept out.
const SWEEP_ABOVE: usize = 1024;

impl InFlight {
    pub(super) async fn turn(&self, partner: PartnerId, request_id: Uuid) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() > SWEEP_ABOVE {
                turns.retain(|_, turn| turn.strong_count() > 0);
            }
            let entry = turns.entry((partner, request_id)).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let turn = Arc::new(AsyncMutex::new(()));
                *entry = Arc::downgrade(&turn);
                turn
            })
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_answer_comes_back_as_it_was() {
        let (keys, _) = KeyRing::generate();
        let (partner, request_id) = (PartnerId::new(), Uuid::now_v7());
        for (headers, body) in [
            (vec![], b"".to_vec()),
            (
                vec![("etag".to_owned(), "\"1\"".to_owned()), ("location".to_owned(), "/x: y".to_owned())],
                b"{\n\n}".to_vec(),
            ),
        ] {
            let answer = Answer { status: 201, headers, body };
            let sealed = seal(&keys, partner, request_id, &answer);
            let opened = keys.open(&identity(partner, request_id), &sealed).unwrap();
            assert_eq!(decode(201, opened.expose()).unwrap(), answer);
        }
    }

    #[tokio::test]
    async fn requests_with_one_id_take_turns_and_leave_nothing_behind() {
        let in_flight = InFlight::default();
        let (partner, id) = (PartnerId::new(), Uuid::now_v7());
        let first = in_flight.turn(partner, id).await;
        let waiting = tokio::spawn({
            let in_flight = in_flight.clone();
            async move { in_flight.turn(partner, id).await }
        });
        let _other = in_flight.turn(partner, Uuid::now_v7()).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        for _ in 0..=SWEEP_ABOVE {
            in_flight.turn(partner, Uuid::now_v7()).await;
        }
        assert!(in_flight.0.lock().unwrap().len() <= SWEEP_ABOVE + 1);
    }
}
