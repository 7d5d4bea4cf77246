//! What a partner may do about deliveries: send again, set the policy, roll the signing key.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Hub;
use super::subscriptions::signing_key_identity;
use crate::domain::caller::Caller;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::{AttemptId, DeliveryId, EventId};
use crate::domain::secret::Secret;
use crate::domain::signature::SigningKey;
use crate::domain::subscription::Subscription;
use crate::domain::surface::Surface;
use crate::domain::{Error, Noun, Violations};
use crate::store::deliveries::{DeliveryView, LOOKED_AT_MAX, Listed};
use crate::store::events::EventView;
use crate::store::sessions::plan_once_here;
use crate::store::subscriptions::PolicyRow;
use crate::store::{self, attempts, callbacks, deliveries, events, queue, subscriptions};

/// What the operator lets partners set.
#[derive(Debug, Clone)]
pub struct PolicyLimits {
    pub timeout_max: Duration,
    pub retries_max: usize,
    pub retry_delay_max: Duration,
    pub rate_per_s_max: u32,
}

/// A partner's wish for the policy of a subscription. `None` leaves a member as it is, `Some(None)` returns it to the default.
#[derive(Debug, Default)]
pub struct PolicyChange {
    pub retry_delays: Option<Option<Vec<Duration>>>,
    pub timeout: Option<Option<Duration>>,
    pub rate_per_s: Option<Option<u32>>,
}

/// How a subscription is doing.
pub struct SubscriptionStanding {
    pub subscription: Subscription,
    /// Deliveries that wait for it to be active again, counted up to [`queue::COUNTED_MAX`].
    pub held: i64,
    pub health: attempts::Health,
    pub policy: PolicyRow,
}

/// A fresh signing key, shown this once.
pub struct NewSigningKey {
    pub text: Secret,
    pub created_at: DateTime<Utc>,
    pub previous_valid_until: DateTime<Utc>,
}

impl Hub {
    /// A living subscription of the caller by what its surface publishes. Errors: `NotFound`.
    pub async fn find_published(
        &self,
        caller: &Caller,
        surface: Surface,
        key: &str,
    ) -> Result<Subscription, Error> {
        let mut connection = self.connection().await?;
        let found = subscriptions::find(&mut connection, caller.partner, surface, key).await?;
        found.ok_or(Error::NotFound(Noun::Subscription))
    }

    /// A page of the caller's deliveries, newest first. It may be short, or empty, and the list go on nevertheless. `of` narrows it to those of
    /// one published subscription, whichever stood behind it.
    pub async fn list_deliveries(
        &self,
        caller: &Caller,
        mut filter: deliveries::Filter,
        of: Option<(Surface, &str)>,
        before: Option<DeliveryId>,
        limit: i64,
    ) -> Result<Listed, Error> {
        let mut moment = self.snapshot().await?;
        if let Some((surface, key)) = of {
            let ids = subscriptions::list_ids_ever(&mut moment, caller.partner, surface, key).await?;
            filter.subscriptions = Some(ids);
        }
        plan_once_here(&mut moment).await?;
        deliveries::list(&mut moment, caller.partner, &filter, before, limit, LOOKED_AT_MAX).await
    }

    /// One delivery of the caller with a page of its attempts. The last ones come first, and oldest first within their page.
    /// Errors: `NotFound`.
    pub async fn find_delivery(
        &self,
        caller: &Caller,
        id: DeliveryId,
        before: Option<AttemptId>,
        limit: i64,
    ) -> Result<(DeliveryView, attempts::Listed), Error> {
        let mut moment = self.snapshot().await?;
        plan_once_here(&mut moment).await?;
        let view = deliveries::find(&mut moment, caller.partner, id).await?;
        let view = view.ok_or(Error::NotFound(Noun::Delivery))?;
        let attempts = attempts::list(&mut moment, caller.partner, id, before, limit).await?;
        Ok((view, attempts))
    }

    /// An event of the caller with a page of its deliveries. The last ones come first, as in every list, and oldest first within their page.
    /// Errors: `NotFound`.
    pub async fn find_event(
        &self,
        caller: &Caller,
        id: EventId,
        before: Option<DeliveryId>,
        limit: i64,
    ) -> Result<(EventView, Listed), Error> {
        let mut moment = self.snapshot().await?;
        plan_once_here(&mut moment).await?;
        let event = events::find(&mut moment, caller.partner, id).await?;
        let event = event.ok_or(Error::NotFound(Noun::Event))?;
        let filter = deliveries::Filter { event: Some(id), ..deliveries::Filter::default() };
        let mut page =
            deliveries::list(&mut moment, caller.partner, &filter, before, limit, LOOKED_AT_MAX).await?;
        page.deliveries.reverse();
        Ok((event, page))
    }

    /// How a subscription of the caller is doing. Errors: `NotFound`.
    pub async fn find_standing(
        &self,
        caller: &Caller,
        surface: Surface,
        key: &str,
    ) -> Result<SubscriptionStanding, Error> {
        let mut moment = self.snapshot().await?;
        let subscription = subscriptions::find(&mut moment, caller.partner, surface, key).await?;
        let subscription = subscription.ok_or(Error::NotFound(Noun::Subscription))?;
        let policy = subscriptions::find_policy(&mut moment, caller.partner, subscription.id).await?;
        plan_once_here(&mut moment).await?;
        let held = queue::count_held(&mut moment, subscription.id, queue::COUNTED_MAX).await?;
        let health = attempts::health(&mut moment, caller.partner, subscription.id).await?;
        Ok(SubscriptionStanding { subscription, held, health, policy })
    }

    /// Makes a pending delivery due, or queues a finished one again under its own id with a fresh budget.
    /// Errors: `NotFound`; `Transition` when it is held, or when its subscription is deleted.
    pub async fn redeliver(&self, caller: &Caller, id: DeliveryId) -> Result<DeliveryView, Error> {
        let mut transaction = self.transaction().await?;
        // Leaves alone what is not pending, and what is being sent at this very moment, which is as due as it gets.
        queue::hasten(&mut transaction, caller.partner, id).await?;
        plan_once_here(&mut transaction).await?;
        let view = deliveries::find(&mut transaction, caller.partner, id).await?;
        let mut view = view.ok_or(Error::NotFound(Noun::Delivery))?;
        match view.state {
            DeliveryState::Pending => {}
            DeliveryState::Held => return Err(not_redeliverable("held")),
            DeliveryState::Delivered
            | DeliveryState::Dead
            | DeliveryState::Cancelled
            | DeliveryState::Expired => {
                let (event, subscription) = (view.event, view.subscription);
                if events::find(&mut transaction, caller.partner, event).await?.is_none() {
                    return Err(not_redeliverable("expired"));
                }
                let finished = queue::Finished { delivery: id, event, subscription };
                if queue::insert_again(&mut transaction, caller.partner, &[finished]).await? == 0 {
                    return Err(not_redeliverable(view.state.as_str()));
                }
                let due_at = queue::find_due_at(&mut transaction, caller.partner, id).await?;
                let state = if due_at.is_some() { DeliveryState::Pending } else { DeliveryState::Held };
                view = DeliveryView { state, due_at, ended_at: None, ..view };
            }
        }
        transaction.commit().await?;
        self.handoff.ring();
        self.handoff.ring_to_gather();
        Ok(view)
    }

    /// Sets the policy of a subscription within the operator's limits. Errors: `NotFound`, `Invalid`.
    pub async fn set_policy(
        &self,
        caller: &Caller,
        surface: Surface,
        key: &str,
        change: PolicyChange,
    ) -> Result<(), Error> {
        check_policy(&change, &self.settings.policy_limits)?;
        let mut transaction = self.transaction().await?;
        let subscription = subscriptions::find(&mut transaction, caller.partner, surface, key).await?;
        let subscription = subscription.ok_or(Error::NotFound(Noun::Subscription))?;
        let policy = subscriptions::lock_policy(&mut transaction, caller.partner, subscription.id).await?;
        let mut policy = policy.ok_or(Error::NotFound(Noun::Subscription))?;
        let former_per_s = self.rate_of(&mut transaction, subscription.callback).await?;
        apply(&mut policy, change);
        subscriptions::update_policy(&mut transaction, caller.partner, subscription.id, &policy).await?;
        let present_per_s = self.rate_of(&mut transaction, subscription.callback).await?;
        let changed_at = store::now(&mut transaction).await?;
        transaction.commit().await?;
        self.handoff.changed(caller.partner);
        if present_per_s > former_per_s {
            self.move_up(subscription.callback, former_per_s, changed_at);
        }
        Ok(())
    }

    /// Rolls the signing key of a subscription's callback; the old one stays valid for a day beside it.
    /// Errors: `NotFound`; `Transition` where the surface signs with the partner's own secret.
    pub async fn roll_signing_key(
        &self,
        caller: &Caller,
        surface: Surface,
        key: &str,
    ) -> Result<NewSigningKey, Error> {
        let mut transaction = self.transaction().await?;
        let subscription = subscriptions::find(&mut transaction, caller.partner, surface, key).await?;
        let subscription = subscription.ok_or(Error::NotFound(Noun::Subscription))?;
        if surface.signs_with_partners_secret() {
            return Err(Error::Transition { noun: Noun::Key, from: "fixed", to: "rolled" });
        }
        let fresh = SigningKey::generate();
        let sealed = self.keys.seal(&signing_key_identity(subscription.callback), fresh.expose());
        let until =
            callbacks::rotate_signing_key(&mut transaction, caller.partner, subscription.callback, &sealed)
                .await?;
        let created_at = store::now(&mut transaction).await?;
        transaction.commit().await?;
        self.handoff.changed(caller.partner);
        Ok(NewSigningKey { text: fresh.text(), created_at, previous_valid_until: until })
    }
}

fn not_redeliverable(from: &'static str) -> Error {
    Error::Transition { noun: Noun::Delivery, from, to: "pending" }
}

fn check_policy(change: &PolicyChange, limits: &PolicyLimits) -> Result<(), Error> {
    let mut violations = Violations::default();
    if let Some(Some(delays)) = &change.retry_delays {
        if delays.len() > limits.retries_max {
            violations.add("retryDelaysS", format!("must have at most {} entries", limits.retries_max));
        }
        if delays.iter().any(|delay| delay.is_zero() || *delay > limits.retry_delay_max) {
            violations
                .add("retryDelaysS", format!("each must be from 1 to {}", limits.retry_delay_max.as_secs()));
        }
    }
    if let Some(Some(timeout)) = change.timeout
        && (timeout < Duration::from_millis(100) || timeout > limits.timeout_max)
    {
        violations.add("timeoutMs", format!("must be from 100 to {}", limits.timeout_max.as_millis()));
    }
    if let Some(Some(rate)) = change.rate_per_s
        && !(1..=limits.rate_per_s_max).contains(&rate)
    {
        violations.add("ratePerS", format!("must be from 1 to {}", limits.rate_per_s_max));
    }
    if violations.is_empty() { Ok(()) } else { Err(violations.into()) }
}

/// The limits were checked: every number fits its column.
fn apply(policy: &mut PolicyRow, change: PolicyChange) {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    if let Some(delays) = change.retry_delays {
        policy.retry_delays_ms = delays.map(|delays| delays.into_iter().map(ms).collect());
    }
    if let Some(timeout) = change.timeout {
        policy.timeout_ms = timeout.map(|timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
    }
    if let Some(rate) = change.rate_per_s {
        policy.rate_per_s = rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX));
    }
}
