//! Subscriptions of the redirect surface: made, replaced, changed, deleted. Each in one transaction, guarded by the row's version.

use aws_lc_rs::digest::{SHA256, digest};
use sqlx::PgConnection;
use uuid::Uuid;

use super::once::{Answer, Once, Opening};
use super::{Handoff, Hub};
use crate::domain::caller::Caller;
use crate::domain::credentials::CallbackKey;
use crate::domain::id::{CallbackId, PartnerId, SubscriptionId};
use crate::domain::key_ring::KeyRing;
use crate::domain::signature::SigningKey;
use crate::domain::subscription::{Subscription, SubscriptionState};
use crate::domain::surface::Surface;
use crate::domain::version::IfMatch;
use crate::domain::{Error, Noun};
use crate::store::callbacks::{self, NewCallback};
use crate::store::redirect_ids::{self, ClaimKind};
use crate::store::subscriptions::{self, NewSubscription};
use crate::store::{self, partitions, queue};

/// How many held or doomed deliveries a request sees to itself; the janitor does the rest within seconds.
const ROWS_PER_REQUEST: i64 = 1_000;

/// Everything a redirect subscription is made of. Event types are sorted and without duplicates.
#[derive(Debug)]
pub struct Replace {
    pub id: Uuid,
    pub callback_url: String,
    pub key: CallbackKey,
    pub event_types: Vec<String>,
    pub condition: IfMatch,
}

/// What changes; what is absent stays.
#[derive(Debug)]
pub struct Change {
    pub id: Uuid,
    pub callback_url: Option<String>,
    pub key: Option<CallbackKey>,
    pub event_types: Option<Vec<String>>,
    pub condition: IfMatch,
}

/// A subscription after a replacement, and whether it is new.
pub struct Replaced {
    pub subscription: Subscription,
    pub created: bool,
}

impl Hub {
    /// Makes a subscription under the caller's id, or replaces it.
    /// Errors: `NotYours`, `VersionMismatch`, `Duplicate`; all but infrastructure failures are rendered into the answer.
    pub async fn replace_subscription(
        &self,
        caller: &Caller,
        once: Option<Once>,
        command: Result<Replace, Error>,
        render: impl FnOnce(Result<Replaced, Error>) -> Answer,
    ) -> Result<Answer, Error> {
        let mut turn = match self.open(caller.partner, once).await? {
            Opening::Answered(answer) => return Ok(answer),
            Opening::Fresh(turn) => turn,
        };
        let result = match command {
            Ok(command) => replace(turn.db(), &self.keys, caller.partner, command).await,
            Err(error) => Err(error),
        };
        let changed = result.is_ok();
        let answer = turn.close(result, render).await?;
        if changed {
            tell(&self.handoff, caller.partner);
        }
        Ok(answer)
    }

    /// Changes a subscription of the caller. Errors: as above, and `NotFound`.
    pub async fn change_subscription(
        &self,
        caller: &Caller,
        once: Option<Once>,
        command: Result<Change, Error>,
        render: impl FnOnce(Result<Subscription, Error>) -> Answer,
    ) -> Result<Answer, Error> {
        let mut turn = match self.open(caller.partner, once).await? {
            Opening::Answered(answer) => return Ok(answer),
            Opening::Fresh(turn) => turn,
        };
        let result = match command {
            Ok(command) => change(turn.db(), &self.keys, caller.partner, command).await,
            Err(error) => Err(error),
        };
        let changed = result.is_ok();
        let answer = turn.close(result, render).await?;
        if changed {
            tell(&self.handoff, caller.partner);
        }
        Ok(answer)
    }

    /// Deletes a subscription of the caller; what was still meant for it is cancelled.
    /// Errors: `NotFound`, `NotYours`, `VersionMismatch`.
    pub async fn delete_subscription(
        &self,
        caller: &Caller,
        id: Uuid,
        condition: &IfMatch,
    ) -> Result<(), Error> {
        let mut transaction = self.transaction().await?;
        let current = own(&mut transaction, caller.partner, id).await?;
        if !condition.allows(Some(current.version)) {
            return Err(Error::VersionMismatch(Noun::Subscription));
        }
        delete(&mut transaction, &current).await?;
        transaction.commit().await?;
        self.handoff.changed(caller.partner);
        Ok(())
    }

    /// A subscription of the caller. Errors: `NotFound`, `NotYours`.
    pub async fn find_subscription(&self, caller: &Caller, id: Uuid) -> Result<Subscription, Error> {
        own(&mut *self.connection().await?, caller.partner, id).await
    }
}

/// A change that was committed concerns the engine: what it remembers is stale, and what was held may be due.
fn tell(handoff: &Handoff, partner: PartnerId) {
    handoff.changed(partner);
    handoff.ring();
}

async fn replace(
    db: &mut PgConnection,
    keys: &KeyRing,
    partner: PartnerId,
    command: Replace,
) -> Result<Replaced, Error> {
    if redirect_ids::claim(db, ClaimKind::Subscription, command.id, partner).await? != partner {
        return Err(Error::NotYours(Noun::Subscription));
    }
    let external_key = command.id.to_string();
    let current = subscriptions::find(db, partner, Surface::Redirect, &external_key).await?;
    if !command.condition.allows(current.as_ref().map(|current| current.version)) {
        return Err(Error::VersionMismatch(Noun::Subscription));
    }
    let created = current.is_none();
    match current {
        Some(current) => {
            let url = Some(command.callback_url);
            update(db, keys, &current, url, Some(&command.key), Some(command.event_types)).await?;
        }
        None => insert(db, keys, partner, &external_key, &command).await?,
    }
    let subscription = own(db, partner, command.id).await?;
    Ok(Replaced { subscription, created })
}

async fn change(
    db: &mut PgConnection,
    keys: &KeyRing,
    partner: PartnerId,
    command: Change,
) -> Result<Subscription, Error> {
    let current = own(db, partner, command.id).await?;
    if !command.condition.allows(Some(current.version)) {
        return Err(Error::VersionMismatch(Noun::Subscription));
    }
    update(db, keys, &current, command.callback_url, command.key.as_ref(), command.event_types).await?;
    own(db, partner, command.id).await
}

/// The caller's living subscription of this published id. Existence comes before ownership, and both before anything else.
async fn own(db: &mut PgConnection, partner: PartnerId, id: Uuid) -> Result<Subscription, Error> {
    match redirect_ids::owner(db, ClaimKind::Subscription, id).await? {
        None => Err(Error::NotFound(Noun::Subscription)),
        Some(owner) if owner != partner => Err(Error::NotYours(Noun::Subscription)),
        Some(_) => subscriptions::find(db, partner, Surface::Redirect, &id.to_string())
            .await?
            .ok_or(Error::NotFound(Noun::Subscription)),
    }
}

async fn insert(
    db: &mut PgConnection,
    keys: &KeyRing,
    partner: PartnerId,
    external_key: &str,
    command: &Replace,
) -> Result<(), Error> {
    let (callback, subscription) = (CallbackId::new(), SubscriptionId::new());
    let credentials = keys.seal(&credentials_identity(callback), command.key.secret().expose());
    let signing_key = keys.seal(&signing_key_identity(callback), SigningKey::generate().expose());
    let new = NewCallback {
        id: callback,
        partner,
        surface: Surface::Redirect,
        url: &command.callback_url,
        credentials: Some(&credentials),
        signing_key: &signing_key,
    };
    callbacks::insert(db, new).await?;
    let created_at = store::now(db).await?;
    let new = NewSubscription {
        id: subscription,
        partner,
        surface: Surface::Redirect,
        external_key,
        callback,
        created_at,
    };
    subscriptions::insert(db, new).await?;
    let exclusive_in = exclusive_in(&command.callback_url);
    subscriptions::replace_event_types(
        db,
        (partner, subscription, Surface::Redirect),
        &command.event_types,
        Some(&exclusive_in),
    )
    .await
}

/// Writes a change over the version that was read. A successful change by its owner also makes the subscription active again.
async fn update(
    db: &mut PgConnection,
    keys: &KeyRing,
    current: &Subscription,
    url: Option<String>,
    key: Option<&CallbackKey>,
    event_types: Option<Vec<String>>,
) -> Result<(), Error> {
    let (partner, id) = (current.partner, current.id);
    subscriptions::touch(db, partner, id, current.version, SubscriptionState::Active, None).await?;
    let credentials =
        key.map(|key| keys.seal(&credentials_identity(current.callback), key.secret().expose()));
    callbacks::update(db, partner, current.callback, url.as_deref(), credentials.as_deref()).await?;
    if url.is_some() || event_types.is_some() {
        let exclusive_in = exclusive_in(url.as_deref().unwrap_or(&current.callback_url));
        let event_types = event_types.as_ref().unwrap_or(&current.event_types);
        subscriptions::replace_event_types(
            db,
            (partner, id, Surface::Redirect),
            event_types,
            Some(&exclusive_in),
        )
        .await?;
    }
    Ok(())
}

/// Ends a subscription of any surface that has its callback to itself; what was still meant for it is cancelled.
pub(super) async fn delete(db: &mut PgConnection, current: &Subscription) -> Result<(), Error> {
    let (partner, id) = (current.partner, current.id);
    subscriptions::touch(db, partner, id, current.version, SubscriptionState::Deleted, None).await?;
    subscriptions::replace_event_types(db, (partner, id, current.surface), &[], None).await?;
    callbacks::wipe(db, partner, current.callback).await?;
    cancel_deliveries(db, id).await?;
    Ok(())
}

/// Ends what is unfinished of a deleted subscription, as far as a request sees to it. A day whose history has no partition gets one.
pub(super) async fn cancel_deliveries(db: &mut PgConnection, id: SubscriptionId) -> Result<(), Error> {
    sqlx::query("savepoint cancelling").execute(&mut *db).await?;
    match queue::cancel_deleted(db, id, ROWS_PER_REQUEST).await {
        Err(error) if partitions::is_missing_behind(&error) => {
            sqlx::query("rollback to savepoint cancelling").execute(&mut *db).await?;
            partitions::make_ahead(db).await?;
            queue::cancel_deleted(db, id, ROWS_PER_REQUEST).await?;
        }
        cancelled => drop(cancelled?),
    }
    Ok(())
}

/// Within one callback URL a partner may take an event type once. The digest stands for the URL, which may be too long for an index.
fn exclusive_in(callback_url: &str) -> [u8; 32] {
    let digest = digest(&SHA256, callback_url.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// What the sealed credentials of a callback are bound to.
pub fn credentials_identity(callback: CallbackId) -> String {
    format!("callbacks/{callback}/credentials")
}

/// What the sealed signing keys of a callback are bound to.
pub fn signing_key_identity(callback: CallbackId) -> String {
    format!("callbacks/{callback}/signing_key")
}
