//! Subscriptions of the webhooks surface: made several at a time, changed and deleted by whoever knows their secret, shown with their history
//! and with the secret encrypted to its owner's key. Each use case is one transaction. Whoever asks for many hands in how they are written, too: that
//! is done behind the transaction, and where it holds up nobody.

mod showing;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Hub;
use super::subscriptions::{credentials_identity, delete, signing_key_identity};
use crate::domain::caller::Caller;
use crate::domain::id::{CallbackId, PartnerId, SubscriptionId};
use crate::domain::key_ring::KeyRing;
use crate::domain::recipient_key::RecipientKey;
use crate::domain::secret::Secret;
use crate::domain::subscription::SubscriptionState;
use crate::domain::surface::Surface;
use crate::domain::webhook::{AccountId, EventName, WebhookSecret};
use crate::domain::{Error, Noun, Violations};
use crate::store;
use crate::store::callbacks::{self, NewCallback};
use crate::store::subscriptions::{self, NewSubscription};
use crate::store::webhooks::{self, Filter, Kept, NewWebhook};

use showing::Read;
pub use showing::{Shown, Write};

/// Subscriptions in one answer at most.
pub const LISTED_MAX: usize = 1_000;

/// One subscription for each of several events; alike in everything else.
#[derive(Debug)]
pub struct Create {
    pub name: Option<String>,
    pub events: Vec<EventName>,
    pub callback_url: String,
    pub secret: WebhookSecret,
    pub recipient: Option<RecipientKey>,
    pub account: Option<AccountId>,
}

/// What changes; what is absent stays.
#[derive(Debug)]
pub struct Change {
    pub id: Uuid,
    pub current_secret: Secret,
    pub name: Option<String>,
    pub event: Option<EventName>,
    pub callback_url: Option<String>,
    pub new_secret: Option<WebhookSecret>,
    pub is_active: Option<bool>,
    pub recipient: Option<RecipientKey>,
}

/// A subscription that is to go, and what proves that its owner says so.
#[derive(Debug)]
pub struct Delete {
    pub id: Uuid,
    pub secret: Secret,
}

impl Hub {
    /// Makes a subscription for each event, all or none; shown in the order of the events. Errors: `Conflict`, which names the event that the
    /// account is subscribed to already.
    pub async fn create_webhooks<Answer: Send + 'static>(
        &self,
        caller: &Caller,
        command: &Create,
        write: impl Write<Answer>,
    ) -> Result<Answer, Error> {
        let place = self.place_for(command.events.len(), caller.partner).await?;
        let mut transaction = self.transaction().await?;
        // Those who want the same events take them in the same order, so that one waits for the other and not each for each.
        let mut events: Vec<&EventName> = command.events.iter().collect();
        events.sort();
        // One request's subscriptions are of one moment.
        let at = store::now(&mut transaction).await?;
        let mut ids = HashMap::new();
        for event in events {
            let made = insert(&mut transaction, &self.keys, caller.partner, command, event, at).await?;
            ids.insert(event, made);
        }
        let made: Vec<Uuid> = command.events.iter().filter_map(|event| ids.get(event).copied()).collect();
        let read = self.read_in_order(&mut transaction, caller.partner, &made).await?;
        transaction.commit().await?;
        showing::written(place, read, write).await
    }

    /// A subscription of the caller. Errors: `NotFound`.
    pub async fn find_webhook(&self, caller: &Caller, id: Uuid) -> Result<Shown, Error> {
        let filter = Filter { ids: Some(&[id]), ..Filter::default() };
        self.the_first(caller, &filter).await
    }

    /// The caller's subscription to an event: of the account if one is named, else the oldest. Errors: `NotFound`.
    pub async fn find_webhook_to(
        &self,
        caller: &Caller,
        event: &EventName,
        account: Option<&AccountId>,
    ) -> Result<Shown, Error> {
        self.the_first(caller, &Filter { event: Some(event), account, ..Filter::default() }).await
    }

    /// The caller's subscriptions, of one account if it is named; the oldest [`LISTED_MAX`].
    pub async fn list_webhooks<Answer: Send + 'static>(
        &self,
        caller: &Caller,
        account: Option<&AccountId>,
        write: impl Write<Answer>,
    ) -> Result<Answer, Error> {
        self.list(caller, &Filter { account, ..Filter::default() }, write).await
    }

    /// Those of these subscriptions that there are, in the order of the ids, of which there are [`LISTED_MAX`] at most.
    pub async fn list_webhooks_of<Answer: Send + 'static>(
        &self,
        caller: &Caller,
        ids: &[Uuid],
        write: impl Write<Answer>,
    ) -> Result<Answer, Error> {
        self.list(caller, &Filter { ids: Some(ids), ..Filter::default() }, write).await
    }

    /// Changes a subscription for whoever knows its secret.
    /// Errors: `NotFound`, `Forbidden` (another secret), `Invalid` (the secret is too long for the key), `Conflict` (the event is taken).
    pub async fn change_webhook(&self, caller: &Caller, command: &Change) -> Result<Shown, Error> {
        let mut transaction = self.transaction().await?;
        webhooks::lock(&mut transaction, caller.partner, &[command.id]).await?;
        let kept = self.only(&mut transaction, caller.partner, command.id).await?;
        let secret = self.prove(&kept, &command.current_secret)?;
        change(&mut transaction, &self.keys, &kept, &secret, command).await?;
        let kept = self.only(&mut transaction, caller.partner, command.id).await?;
        let read = self.read(&mut transaction, caller.partner, vec![kept]).await?;
        transaction.commit().await?;
        self.handoff.changed(caller.partner);
        self.handoff.ring();
        read.only()
    }

    /// Deletes a subscription. Errors: as of several.
    pub async fn delete_webhook(&self, caller: &Caller, command: Delete) -> Result<Shown, Error> {
        self.delete_all(caller, &[command]).await?.only()
    }

    /// Deletes subscriptions, all or none, for whoever knows their secrets; what was still meant for them is cancelled. Shown as they stood.
    /// Errors: `NotFound`, `Forbidden` (another secret).
    pub async fn delete_webhooks<Answer: Send + 'static>(
        &self,
        caller: &Caller,
        commands: &[Delete],
        write: impl Write<Answer>,
    ) -> Result<Answer, Error> {
        let place = self.place_for(commands.len(), caller.partner).await?;
        let read = self.delete_all(caller, commands).await?;
        showing::written(place, read, write).await
    }

    async fn delete_all(&self, caller: &Caller, commands: &[Delete]) -> Result<Read, Error> {
        let mut transaction = self.transaction().await?;
        let ids: Vec<Uuid> = commands.iter().map(|command| command.id).collect();
        webhooks::lock(&mut transaction, caller.partner, &ids).await?;
        let mut all = Vec::with_capacity(commands.len());
        for command in commands {
            all.push(self.only(&mut transaction, caller.partner, command.id).await?);
        }
        for (command, kept) in commands.iter().zip(&all) {
            self.prove(kept, &command.secret)?;
        }
        let read = self.read_in_order(&mut transaction, caller.partner, &ids).await?;
        for kept in &all {
            delete(&mut transaction, &kept.webhook.subscription).await?;
        }
        transaction.commit().await?;
        self.handoff.changed(caller.partner);
        Ok(read)
    }

    async fn the_first(&self, caller: &Caller, filter: &Filter<'_>) -> Result<Shown, Error> {
        let mut moment = self.snapshot().await?;
        let kept = webhooks::list(&mut moment, caller.partner, filter, 1).await?;
        let read = self.read(&mut moment, caller.partner, kept).await?;
        drop(moment);
        read.only()
    }

    async fn only(&self, db: &mut PgConnection, partner: PartnerId, id: Uuid) -> Result<Kept, Error> {
        let filter = Filter { ids: Some(&[id]), ..Filter::default() };
        let kept = webhooks::list(db, partner, &filter, 1).await?.pop();
        kept.ok_or(Error::NotFound(Noun::Subscription))
    }

    /// The secret of a subscription, if this is it. Errors: `Forbidden`.
    fn prove(&self, kept: &Kept, presented: &Secret) -> Result<WebhookSecret, Error> {
        let secret = open(&self.keys, kept)?;
        if secret.is(presented) { Ok(secret) } else { Err(Error::Forbidden) }
    }
}

async fn insert(
    db: &mut PgConnection,
    keys: &KeyRing,
    partner: PartnerId,
    command: &Create,
    event: &EventName,
    created_at: DateTime<Utc>,
) -> Result<Uuid, Error> {
    let (id, callback, subscription) = (Uuid::new_v4(), CallbackId::new(), SubscriptionId::new());
    let secret = command.secret.secret().expose();
    let new = NewCallback {
        id: callback,
        partner,
        surface: Surface::Webhooks,
        url: &command.callback_url,
        credentials: Some(&keys.seal(&credentials_identity(callback), secret)),
        signing_key: &keys.seal(&signing_key_identity(callback), secret),
    };
    callbacks::insert(db, new).await?;
    let external_key = id.to_string();
    let new = NewSubscription {
        id: subscription,
        partner,
        surface: Surface::Webhooks,
        external_key: &external_key,
        callback,
        created_at,
    };
    subscriptions::insert(db, new).await?;
    let new = NewWebhook {
        subscription,
        partner,
        name: command.name.as_deref(),
        account: command.account.as_ref(),
        recipient: command.recipient.as_ref(),
    };
    webhooks::insert(db, new).await?;
    take_event(db, partner, subscription, event, AccountId::digest_of(command.account.as_ref())).await?;
    Ok(id)
}

/// Errors: `Conflict` when the account is subscribed to the event already.
async fn take_event(
    db: &mut PgConnection,
    partner: PartnerId,
    subscription: SubscriptionId,
    event: &EventName,
    exclusive_in: [u8; 32],
) -> Result<(), Error> {
    let (whose, events) = ((partner, subscription, Surface::Webhooks), [event.as_str().to_owned()]);
    match subscriptions::replace_event_types(db, whose, &events, Some(&exclusive_in)).await {
        Err(Error::Duplicate(_)) => {
            let taken = format!("The subscription for event {} already exists", event.as_str());
            Err(Error::Conflict(Violations::one("event", taken)))
        }
        taken => taken,
    }
}

/// Writes a change over what was read under the lock. Who says whether the subscription is active takes it out of being disabled as well.
async fn change(
    db: &mut PgConnection,
    keys: &KeyRing,
    kept: &Kept,
    secret: &WebhookSecret,
    command: &Change,
) -> Result<(), Error> {
    let current = &kept.webhook.subscription;
    let (partner, id, callback) = (current.partner, current.id, current.callback);
    check_fit(kept, secret, command)?;
    let (state, reason) = match command.is_active {
        Some(true) => (SubscriptionState::Active, None),
        Some(false) => (SubscriptionState::Paused, None),
        None => (current.state, current.state_reason.as_deref()),
    };
    subscriptions::touch(db, partner, id, current.version, state, reason).await?;
    webhooks::update(db, partner, id, command.name.as_deref(), command.recipient.as_ref()).await?;
    let new_secret = command.new_secret.as_ref().filter(|new| !secret.is(new.secret()));
    let seal = |identity: String| new_secret.map(|new| keys.seal(&identity, new.secret().expose()));
    let credentials = seal(credentials_identity(callback));
    callbacks::update(db, partner, callback, command.callback_url.as_deref(), credentials.as_deref()).await?;
    if let Some(signing_key) = seal(signing_key_identity(callback)) {
        callbacks::rotate_signing_key(db, partner, callback, &signing_key).await?;
    }
    if let Some(event) = &command.event {
        let account = kept.account.as_deref().and_then(AccountId::parse);
        take_event(db, partner, id, event, AccountId::digest_of(account.as_ref())).await?;
    }
    Ok(())
}

/// The secret that there will be must fit the key that there will be, or no answer could show it.
fn check_fit(kept: &Kept, secret: &WebhookSecret, command: &Change) -> Result<(), Error> {
    let Some(recipient) = command.recipient.as_ref().or(kept.webhook.recipient.as_ref()) else {
        return Ok(());
    };
    let next = command.new_secret.as_ref().unwrap_or(secret);
    if fits(recipient, next) {
        return Ok(());
    }
    let field = if command.new_secret.is_some() { "newSecret" } else { "publicKeyXml" };
    Err(Error::invalid(field, unfit(recipient)))
}

/// Whether the secret can be encrypted to the key.
pub fn fits(recipient: &RecipientKey, secret: &WebhookSecret) -> bool {
    secret.secret().expose().len() <= recipient.secret_bytes_max()
}

/// What to do about a secret that does not fit.
pub fn unfit(recipient: &RecipientKey) -> String {
    format!("The RSA key can hold a secret of at most {} characters", recipient.secret_bytes_max())
}

fn open(keys: &KeyRing, kept: &Kept) -> Result<WebhookSecret, Error> {
    let identity = credentials_identity(kept.webhook.subscription.callback);
    keys.open(&identity, &kept.sealed_secret).map(WebhookSecret::from_stored).map_err(Error::internal)
}
