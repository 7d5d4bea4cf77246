//! Subscriptions: made, updated, deleted, shown.

use sqlx::PgConnection;

use super::PER_PARTNER_MAX;
use crate::domain::caller::Caller;
use crate::domain::id::{PartnerId, SubscriptionId};
use crate::domain::notification::{
    CAMPAIGN_BYTES, FILTERS_BYTES_MAX, Filter, Granted, Name, Refused, Status, Wish, weight_bytes,
};
use crate::domain::subscription::SubscriptionState;
use crate::domain::surface::Surface;
use crate::domain::{Error, Noun, Violations};
use crate::hub::Hub;
use crate::hub::subscriptions::cancel_deliveries;
use crate::store;
use crate::store::named_callbacks::{self, NamedCallback};
use crate::store::notifications::{self, Notification};
use crate::store::subscriptions::{self, NewSubscription};

impl Hub {
    /// Makes an active subscription. Errors: the update's, but for the first, and `SubscriptionNameTaken`.
    pub async fn create_notification(
        &self,
        caller: &Caller,
        name: &Name,
        wish: Wish,
    ) -> Result<Notification, Refused> {
        let partner = caller.partner;
        let mut transaction = self.transaction().await?;
        notifications::take_turn(&mut transaction, partner).await?;
        let callback = wanted_callback(&mut transaction, partner, name.as_str(), &wish).await?;
        let granted = wish.grant()?;
        let id = SubscriptionId::new();
        let new = NewSubscription {
            id,
            partner,
            surface: Surface::Notifications,
            external_key: name.as_str(),
            callback: callback.id,
            created_at: store::now(&mut transaction).await?,
        };
        match subscriptions::insert(&mut transaction, new).await {
            Err(Error::VersionMismatch(_)) => return Err(Refused::SubscriptionNameTaken),
            inserted => inserted?,
        }
        let (_, subscriptions) = notifications::count(&mut transaction, partner).await?;
        if subscriptions > PER_PARTNER_MAX {
            let full =
                format!("would be one more than the {PER_PARTNER_MAX} subscriptions that there may be");
            return Err(Violations::one("name", full).into());
        }
        let filters = granted.filters.unwrap_or_default();
        notifications::update(&mut transaction, partner, id, callback.id, &filters).await?;
        let whole = (granted.event_types.as_slice(), [filters.as_slice(), &[]], true);
        take_event_types(&mut transaction, partner, id, whole).await?;
        let made = own(&mut transaction, caller, name.as_str()).await?;
        transaction.commit().await.map_err(Error::from)?;
        self.handoff.changed(caller.partner);
        Ok(made)
    }

    /// Updates a subscription; active again, it gets what was held for it. Errors: the eight published ones, in their order.
    pub async fn update_notification(
        &self,
        caller: &Caller,
        name: &str,
        wish: Wish,
    ) -> Result<Notification, Refused> {
        let mut transaction = self.transaction().await?;
        notifications::take_turn(&mut transaction, caller.partner).await?;
        let current = own_to_change(&mut transaction, caller.partner, name).await?;
        let current = current.ok_or_else(|| Refused::UnknownSubscription(name.to_owned()))?;
        let callback = wanted_callback(&mut transaction, caller.partner, name, &wish).await?;
        update(&mut transaction, caller.partner, &current, &callback, wish.grant()?).await?;
        let updated = own(&mut transaction, caller, name).await?;
        transaction.commit().await.map_err(Error::from)?;
        self.handoff.changed(caller.partner);
        self.handoff.ring();
        self.handoff.ring_to_gather();
        Ok(updated)
    }

    /// Deletes a subscription; what was still meant for it is cancelled. Errors: `NoSubscription`.
    pub async fn delete_notification(&self, caller: &Caller, name: &str) -> Result<(), Refused> {
        let partner = caller.partner;
        let mut transaction = self.transaction().await?;
        notifications::take_turn(&mut transaction, partner).await?;
        let current = own_to_change(&mut transaction, partner, name).await?;
        let current = current.ok_or_else(|| Refused::NoSubscription(name.to_owned()))?;
        let deleted = SubscriptionState::Deleted;
        subscriptions::touch(&mut transaction, partner, current.id, current.version, deleted, None).await?;
        notifications::replace_event_types(&mut transaction, partner, current.id, &[], &[], false).await?;
        cancel_deliveries(&mut transaction, current.id).await?;
        transaction.commit().await.map_err(Error::from)?;
        self.handoff.changed(caller.partner);
        Ok(())
    }

    /// Errors: `NoSubscription`.
    pub async fn find_notification(&self, caller: &Caller, name: &str) -> Result<Notification, Refused> {
        own(&mut *self.connection().await?, caller, name).await
    }

    /// The active ones, oldest first.
    pub async fn list_notifications(&self, caller: &Caller) -> Result<Vec<Notification>, Error> {
        notifications::list_active(&mut *self.connection().await?, caller.partner).await
    }
}

/// Errors: `NoSubscription`.
async fn own(db: &mut PgConnection, caller: &Caller, name: &str) -> Result<Notification, Refused> {
    let found = match Name::parse(name) {
        Ok(name) => notifications::find(db, caller.partner, &name).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| Refused::NoSubscription(name.to_owned()))
}

/// As [`own`], for changing it within the present transaction; what a missing one is called is the caller's to say.
async fn own_to_change(
    db: &mut PgConnection,
    partner: PartnerId,
    name: &str,
) -> Result<Option<Notification>, Error> {
    match Name::parse(name) {
        Ok(name) => notifications::find_to_change(db, partner, &name).await,
        Err(_) => Ok(None),
    }
}

/// Errors: `UnknownCallback`.
async fn wanted_callback(
    db: &mut PgConnection,
    partner: PartnerId,
    subscription: &str,
    wish: &Wish,
) -> Result<NamedCallback, Refused> {
    let found = match Name::parse(&wish.callback) {
        Ok(name) => named_callbacks::find(db, partner, &name).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| Refused::UnknownCallback { subscription: subscription.to_owned() })
}

async fn update(
    db: &mut PgConnection,
    partner: PartnerId,
    current: &Notification,
    callback: &NamedCallback,
    granted: Granted,
) -> Result<(), Refused> {
    let id = current.id;
    let state = match granted.status {
        None => current.state,
        Some(Status::Active) => SubscriptionState::Active,
        Some(Status::Paused) => SubscriptionState::Paused,
    };
    // A reason speaks of the state that it was given for.
    let kept = current.state_reason.clone().filter(|_| state == current.state);
    let reason = granted.status_reason.unwrap_or(kept);
    let filters = granted.filters.as_ref().unwrap_or(&current.filters);
    match subscriptions::touch(db, partner, id, current.version, state, reason.as_deref()).await {
        // The row is locked, so that this is our own mistake.
        Err(Error::VersionMismatch(Noun::Subscription)) => {
            return Err(Error::internal("a locked subscription was changed").into());
        }
        touched => touched?,
    }
    notifications::update(db, partner, id, callback.id, filters).await?;
    let active = state == SubscriptionState::Active;
    take_event_types(db, partner, id, (&granted.event_types, [filters, &current.filters], active)).await
}

/// Refuses filters that are more than there were before, if a partner's filters are too much together with them.
async fn leaves_room(
    db: &mut PgConnection,
    partner: PartnerId,
    [filters, before]: [&[Filter]; 2],
) -> Result<(), Refused> {
    if weight_bytes(filters) <= weight_bytes(before) {
        return Ok(());
    }
    let bytes = notifications::filters_bytes(db, partner).await?;
    if bytes <= FILTERS_BYTES_MAX {
        return Ok(());
    }
    let full = format!(
        "would make the filters of all your subscriptions {bytes} bytes, of which there may be {FILTERS_BYTES_MAX}; each campaign's name counts \
         its bytes and {CAMPAIGN_BYTES} more, once for each type in its filter: name fewer campaigns or types, or delete subscriptions"
    );
    Err(Violations::one("filters", full).into())
}

/// Gives a subscription its event types, with what filters say of each; before, there were others. Errors: `EventTaken`, whether the subscription
/// is active or not; `Invalid` where the filters are too much.
async fn take_event_types(
    db: &mut PgConnection,
    partner: PartnerId,
    id: SubscriptionId,
    (event_types, [filters, before], active): (&[String], [&[Filter]; 2], bool),
) -> Result<(), Refused> {
    let mut taken = notifications::taken(db, partner, id, event_types).await?;
    if taken.is_empty() {
        // Before they are written once for each type.
        leaves_room(db, partner, [filters, before]).await?;
        // The index has the last word, whoever else writes.
        taken = notifications::replace_event_types(db, partner, id, event_types, filters, active).await?;
    }
    match event_types.iter().find(|kind| taken.contains(kind)) {
        Some(kind) => Err(Refused::EventTaken(kind.clone())),
        None => Ok(()),
    }
}
