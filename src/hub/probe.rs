//! Test events: a real event for one subscription, sent once through the same path and guard as any other, and waited for.

use std::time::{Duration, Instant};

use super::Hub;
use crate::domain::attempt::{Attempt, Outcome};
use crate::domain::caller::Caller;
use crate::domain::event::{NewEvent, TEST_EVENT_TYPE};
use crate::domain::id::{DeliveryId, EventId, PartnerId, SubscriptionId};
use crate::domain::publication::Attributes;
use crate::domain::surface::Surface;
use crate::domain::{Error, Noun};
use crate::store::sessions::plan_once_here;
use crate::store::{self, attempts, events, partitions};

const SOURCE: &str = "/herald";
const PAYLOAD: &[u8] = br#"{"test":true}"#;
/// How long after its last look the history is asked for the attempt again: most receivers answer at once, and the others take their time.
const LOOK_AFTER_MIN: Duration = Duration::from_millis(10);
const LOOK_AFTER_MAX: Duration = Duration::from_millis(320);
/// Beyond the longest attempt: time to be claimed and recorded.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a test event.
pub struct Tested {
    pub delivery: DeliveryId,
    pub attempt: Attempt,
}

impl Hub {
    /// Sends a test event to a subscription, whatever its state, and waits for its one attempt.
    /// Errors: `NotFound`, also when it is deleted before the attempt; `LimitExceeded` and `Unavailable` when too many are being sent, by this partner and by all; the latter
    /// also when there was no attempt in time (it may still come).
    pub async fn test(&self, caller: &Caller, surface: Surface, key: &str) -> Result<Tested, Error> {
        let subscription = self.find_published(caller, surface, key).await?;
        let place = self.handoff.begin_trial(caller.partner)?;
        let delivery = self.queue_probe(caller, subscription.id).await?;
        self.handoff.ring();
        let (hub, partner) = (self.clone(), caller.partner);
        // Goes on without a client who hangs up: the place is taken for as long as there is something to be sent.
        let waiting = tokio::spawn(async move {
            let tested = hub.wait_for_test(partner, delivery).await;
            drop(place);
            tested
        });
        waiting.await.map_err(Error::internal)?
    }

    async fn wait_for_test(&self, partner: PartnerId, delivery: DeliveryId) -> Result<Tested, Error> {
        let give_up = Instant::now() + self.test_patience();
        let mut look_after = LOOK_AFTER_MIN;
        while Instant::now() < give_up {
            // The connection goes back between looks: an attempt may take as long as its receiver likes.
            let mut moment = self.snapshot().await?;
            plan_once_here(&mut moment).await?;
            let last = attempts::find_last(&mut moment, partner, delivery).await?;
            drop(moment);
            match last {
                Some(attempt) if attempt.outcome.is_of_an_attempt() => {
                    return Ok(Tested { delivery, attempt });
                }
                Some(ended) if ended.outcome == Outcome::Cancelled => {
                    return Err(Error::NotFound(Noun::Subscription));
                }
                Some(_) => return Err(Error::unavailable("the test event ended without an attempt")),
                None => {}
            }
            tokio::time::sleep(look_after).await;
            look_after = (look_after * 2).min(LOOK_AFTER_MAX);
        }
        Err(Error::unavailable("the test event is queued and was not attempted in time"))
    }

    /// How long [`Hub::test`] takes at most, but for the database: longer than requests usually may.
    pub fn test_patience(&self) -> Duration {
        self.settings.policy_limits.timeout_max + PATIENCE
    }

    async fn queue_probe(&self, caller: &Caller, subscription: SubscriptionId) -> Result<DeliveryId, Error> {
        let mut connection = self.connection().await?;
        let event = NewEvent {
            id: EventId::new(),
            partner: caller.partner,
            kind: TEST_EVENT_TYPE.to_owned(),
            source: SOURCE.to_owned(),
            payload: PAYLOAD.to_vec(),
            occurred_at: store::now(&mut connection).await?,
            attributes: Attributes::default(),
            ordering_key: None,
        };
        let delivery = DeliveryId::beside(event.id);
        match events::insert_probe(&mut connection, &event, delivery, subscription).await {
            Err(error) if partitions::is_missing(&error) => {
                partitions::make_ahead(&mut connection).await?;
                events::insert_probe(&mut connection, &event, delivery, subscription).await?;
            }
            inserted => inserted?,
        }
        Ok(delivery)
    }
}
