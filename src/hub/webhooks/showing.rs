//! What owners are shown of their subscriptions. To read it takes a transaction, and to encrypt and write it takes long: many subscriptions with
//! keys of 8,192 bits take a processor for a second. So nothing is encrypted before the transaction is over, and many have a place to themselves,
//! apart from the runtime that all share.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::super::Hub;
use super::super::places::Place;
use super::{LISTED_MAX, open};
use crate::domain::caller::Caller;
use crate::domain::id::{PartnerId, SubscriptionId};
use crate::domain::key_ring::KeyRing;
use crate::domain::webhook::{Tried, Webhook, history_max};
use crate::domain::{Error, Noun};
use crate::store::sessions::plan_once_here;
use crate::store::webhooks::{self, Filter, Kept};

/// So many are written sooner than they would be given to somebody else.
const FEW: usize = 4;

/// A subscription as its owner is shown it.
pub struct Shown {
    pub webhook: Webhook,
    /// Encrypted to the owner's key, if there is one.
    pub secret: Option<Vec<u8>>,
    /// Newest first.
    pub history: Vec<Tried>,
}

/// How what is shown becomes an answer.
pub trait Write<Answer>: FnOnce(Vec<Shown>) -> Answer + Send + 'static {}

impl<Answer, How: FnOnce(Vec<Shown>) -> Answer + Send + 'static> Write<Answer> for How {}

/// Subscriptions with their histories, as they were read.
pub struct Read {
    keys: KeyRing,
    all: Vec<(Kept, Vec<Tried>)>,
}

impl Read {
    /// The one that was read. Errors: `NotFound`.
    pub fn only(self) -> Result<Shown, Error> {
        self.shown()?.pop().ok_or(Error::NotFound(Noun::Subscription))
    }

    fn shown(self) -> Result<Vec<Shown>, Error> {
        let Self { keys, all } = self;
        let show = |(kept, history)| {
            let secret = encrypted(&keys, &kept)?;
            Ok(Shown { webhook: kept.webhook, secret, history })
        };
        all.into_iter().map(show).collect()
    }
}

/// The answer that shows what was read; made apart from everything else if it has a place.
pub async fn written<Answer: Send + 'static>(
    place: Option<Place>,
    read: Read,
    write: impl Write<Answer>,
) -> Result<Answer, Error> {
    let work = move || read.shown().map(write);
    match place {
        Some(place) => place.apart(work).await?.0,
        None => work(),
    }
}

impl Hub {
    /// A place, if it takes one to show so many.
    pub(super) async fn place_for(&self, count: usize, partner: PartnerId) -> Result<Option<Place>, Error> {
        if count <= FEW {
            return Ok(None);
        }
        self.large_answers.take(partner).await.map(Some)
    }

    /// The answer that shows what the filter leaves; in the order of the ids if it has some.
    pub(super) async fn list<Answer: Send + 'static>(
        &self,
        caller: &Caller,
        filter: &Filter<'_>,
        write: impl Write<Answer>,
    ) -> Result<Answer, Error> {
        let partner = caller.partner;
        let mut moment = self.snapshot().await?;
        let mut kept = webhooks::list(&mut moment, partner, filter, FEW as i64 + 1).await?;
        let mut place = None;
        if kept.len() > FEW {
            // Who waits for a place keeps no connection from others; what was read is from before the wait.
            drop((moment, kept));
            place = Some(self.large_answers.take(partner).await?);
            moment = self.snapshot().await?;
            kept = webhooks::list(&mut moment, partner, filter, LISTED_MAX as i64).await?;
        }
        if let Some(ids) = filter.ids {
            put_in_order(&mut kept, ids);
        }
        let read = self.read(&mut moment, partner, kept).await?;
        drop(moment);
        written(place, read, write).await
    }

    pub(super) async fn read_in_order(
        &self,
        db: &mut PgConnection,
        partner: PartnerId,
        ids: &[Uuid],
    ) -> Result<Read, Error> {
        let filter = Filter { ids: Some(ids), ..Filter::default() };
        let mut kept = webhooks::list(db, partner, &filter, ids.len() as i64).await?;
        put_in_order(&mut kept, ids);
        self.read(db, partner, kept).await
    }

    /// Reads their histories. What the transaction does after that is to be by key.
    pub(super) async fn read(
        &self,
        db: &mut PgConnection,
        partner: PartnerId,
        all: Vec<Kept>,
    ) -> Result<Read, Error> {
        let ids: Vec<SubscriptionId> = all.iter().map(|kept| kept.webhook.subscription.id).collect();
        let mut histories: HashMap<SubscriptionId, Vec<Tried>> = HashMap::new();
        plan_once_here(db).await?;
        for (subscription, tried) in webhooks::history(db, partner, &ids, history_max(ids.len())).await? {
            histories.entry(subscription).or_default().push(tried);
        }
        let with_history = |kept: Kept| {
            let history = histories.remove(&kept.webhook.subscription.id).unwrap_or_default();
            (kept, history)
        };
        Ok(Read { keys: self.keys.clone(), all: all.into_iter().map(with_history).collect() })
    }
}

fn put_in_order(all: &mut [Kept], ids: &[Uuid]) {
    let place: HashMap<String, usize> =
        ids.iter().enumerate().map(|(place, id)| (id.to_string(), place)).collect();
    all.sort_by_key(|kept| place.get(&kept.webhook.subscription.external_key).copied());
}

fn encrypted(keys: &KeyRing, kept: &Kept) -> Result<Option<Vec<u8>>, Error> {
    let Some(recipient) = &kept.webhook.recipient else { return Ok(None) };
    let secret = open(keys, kept)?;
    let ciphertext = recipient.encrypt(secret.secret().expose());
    ciphertext.map(Some).ok_or_else(|| Error::internal("a stored secret does not fit its recipient's key"))
}
