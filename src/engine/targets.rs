//! What the dispatcher knows of the subscriptions that it is sending to: a memory that is never more than a second old when it is used, so
//! that a pause, a deletion or a new secret anywhere is obeyed everywhere within that second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::Settings;
use crate::domain::Error;
use crate::domain::callback_url::CallbackUrl;
use crate::domain::egress::EgressPolicy;
use crate::domain::id::{CallbackId, IdMap, PartnerId, SubscriptionId};
use crate::domain::key_ring::KeyRing;
use crate::domain::retry::RetryPolicy;
use crate::domain::secret::Secret;
use crate::domain::signature::SigningKey;
use crate::domain::subscription::SubscriptionState;
use crate::domain::surface::Surface;
use crate::hub::changes::Changes;
use crate::hub::subscriptions::{credentials_identity, signing_key_identity};
use crate::store::sessions::within;
use crate::store::subscriptions::AsRead;
use crate::store::targets::{self, TargetRow};
use crate::telemetry::Pulse;

/// How long what was read is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// What nobody asked for in this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Who looks twice within this uses a target once.
const ONCE: Duration = Duration::from_millis(100);

/// How long it may take until it is seen that another process has moved a subscription of which nothing is sent.
const FOLLOWED_EVERY: Duration = Duration::from_secs(5);

/// Everything that is sent waits for these reads.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Unsuccessful attempts at the first URL before the backup URL is tried for the following ones [published].
const BACKUP_AFTER: i32 = 3;

/// Where and how to send.
pub struct Target {
    pub callback: CallbackId,
    pub surface: Surface,
    pub state: SubscriptionState,
    pub as_read: AsRead,
    pub retry: RetryPolicy,
    pub timeout: Duration,
    /// Of the callback, by the wish of its partner.
    pub rate_per_s: Option<u32>,
    /// For how long everything has failed; `None` when it is well.
    pub failing_for: Option<Duration>,
    /// Failing for so long is the end.
    pub disable_after: Duration,
    /// What sending needs, or why it cannot be done; the reason is for the operator.
    pub sending: Result<Sending, String>,
}

pub struct Sending {
    url: CallbackUrl,
    /// Where to send what the first did not take.
    backup_url: Option<CallbackUrl>,
    pub credentials: Option<Secret>,
    /// Newest first.
    pub signing_keys: Vec<SigningKey>,
}

impl Sending {
    /// Where an attempt goes that follows so many failed ones, and whether that is the backup URL.
    pub fn url(&self, failures: i32) -> (&CallbackUrl, bool) {
        match &self.backup_url {
            Some(backup_url) if failures >= BACKUP_AFTER => (backup_url, true),
            _ => (&self.url, false),
        }
    }

    /// Whether a delivery that fails goes on elsewhere.
    pub fn has_backup(&self) -> bool {
        self.backup_url.is_some()
    }
}

/// How a target is known. Only what is not known after it was read is not there.
pub enum Look {
    Fresh(Arc<Target>),
    /// Something of its partner has changed in this process since it was read, perhaps this. With the target as it was, if that is a second ago at most.
    Stale(Option<Arc<Target>>),
    Unknown,
}

struct Known {
    partner: PartnerId,
    target: Arc<Target>,
    read_at: Instant,
    change: u64,
    asked_at: Instant,
}

impl Known {
    fn is_asked_again(&self) -> bool {
        self.asked_at.saturating_duration_since(self.read_at) > ONCE
    }
}

pub struct Targets {
    pool: PgPool,
    keys: KeyRing,
    egress: Arc<EgressPolicy>,
    settings: Settings,
    changes: Changes,
    pulse: Pulse,
    known: IdMap<SubscriptionId, Known>,
    /// When it was looked last whether subscriptions have moved to other callbacks, and what had changed in this process by then.
    followed: (Instant, u64),
}

impl Targets {
    pub fn new(
        pool: PgPool,
        keys: KeyRing,
        egress: Arc<EgressPolicy>,
        settings: Settings,
        changes: Changes,
        pulse: Pulse,
    ) -> Self {
        let followed = (Instant::now(), changes.count());
        Self { pool, keys, egress, settings, changes, pulse, known: IdMap::default(), followed }
    }

    /// The target as it was at most a second ago; `None` when that is not known.
    pub fn fresh(&mut self, id: SubscriptionId) -> Option<Arc<Target>> {
        match self.look(id) {
            Look::Fresh(target) => Some(target),
            Look::Stale(_) | Look::Unknown => None,
        }
    }

    /// What is known of a target, and how well.
    pub fn look(&mut self, id: SubscriptionId) -> Look {
        let change = self.changes.count();
        let Some(known) = self.known.get_mut(&id) else { return Look::Unknown };
        known.asked_at = Instant::now();
        match known.read_at.elapsed() < BELIEVED_FOR {
            true if !self.changes.is_there_one_of(known.partner, known.change) => {
                known.change = change;
                Look::Fresh(known.target.clone())
            }
            true => Look::Stale(Some(known.target.clone())),
            false => Look::Stale(None),
        }
    }

    /// The callback of a subscription, as far as it is known: which lane it is in. What waits for one that has moved within this second is in the lane of
    /// the former callback.
    pub fn callback(&self, id: SubscriptionId) -> Option<CallbackId> {
        self.known.get(&id).map(|known| known.target.callback)
    }

    /// Those of these subscriptions that have another callback than this one by now. Nothing of theirs need be sent, so that nobody else looks at
    /// them: they are looked at when this process has changed something, and now and then.
    pub async fn moved(
        &mut self,
        which: Vec<(SubscriptionId, CallbackId)>,
    ) -> Vec<(SubscriptionId, CallbackId)> {
        let (looked_at, change) = (Instant::now(), self.changes.count());
        let is_time = self.followed.1 != change || self.followed.0.elapsed() >= FOLLOWED_EVERY;
        if which.is_empty() || !is_time {
            return Vec::new();
        }
        let ids: Vec<SubscriptionId> = which.iter().map(|(id, _)| *id).collect();
        let read = async { targets::callbacks(&mut *self.pool.acquire().await?, &ids).await };
        let now: IdMap<SubscriptionId, CallbackId> = match within(READ_WITHIN, read).await {
            Ok(rows) => rows.into_iter().collect(),
            Err(error) => {
                self.pulse.failed(&error, "subscriptions cannot be read now");
                return Vec::new();
            }
        };
        self.pulse.well();
        self.followed = (looked_at, change);
        let moved: Vec<_> = which
            .into_iter()
            .filter(|(id, callback)| now.get(id).is_some_and(|now| now != callback))
            .collect();
        for (id, _) in &moved {
            self.known.remove(id);
        }
        moved
    }

    /// Reads these subscriptions anew. What the database does not know is forgotten. Returns those that are there and not understood, for instance
    /// because a newer server wrote them. `None` when nothing can be read now, which is said in the log.
    pub async fn read(&mut self, ids: &[SubscriptionId]) -> Option<Vec<SubscriptionId>> {
        // Both taken before the query, so that a change during it makes the result stale rather than the other way round.
        let (read_at, change) = (Instant::now(), self.changes.count());
        let rows =
            within(READ_WITHIN, async { targets::find(&mut *self.pool.acquire().await?, ids).await }).await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                self.pulse.failed(&error, "subscriptions cannot be read now");
                return None;
            }
        };
        self.pulse.well();
        for id in ids {
            self.known.remove(id);
        }
        let mut not_understood = Vec::new();
        for row in rows {
            let (id, partner) = (SubscriptionId(row.subscription_id), PartnerId(row.partner_id));
            match self.target(row) {
                Ok(target) => {
                    let target = Arc::new(target);
                    self.known.insert(id, Known { partner, target, read_at, change, asked_at: read_at });
                }
                Err(error) => {
                    tracing::error!(subscription = %id, error = %error.chain(), "a subscription is not understood; what is for it waits");
                    not_understood.push(id);
                }
            }
        }
        Some(not_understood)
    }

    /// A callback as it is now, whichever subscriptions have it; `None` when there is no such callback.
    pub async fn read_callback(&self, id: CallbackId) -> Result<Option<Target>, Error> {
        let row =
            within(READ_WITHIN, async { targets::find_callback(&mut *self.pool.acquire().await?, id).await })
                .await?;
        row.map(|row| self.target(row)).transpose()
    }

    /// Reads what is in use anew before it grows too old to be believed, and forgets what is not. What was asked for once and not again is not in use:
    /// with one delivery for each of thousands, each would be read five times.
    pub async fn refresh(&mut self) {
        self.known.retain(|_, known| known.asked_at.elapsed() < FORGOTTEN_AFTER);
        let in_use: Vec<(SubscriptionId, Instant)> = self
            .known
            .iter()
            .filter(|(_, known)| known.asked_at.elapsed() < BELIEVED_FOR * 2 && known.is_asked_again())
            .map(|(id, known)| (*id, known.asked_at))
            .collect();
        // What failed is tried until it is known to be well again, also when nobody needs it any more.
        if in_use.is_empty() && !self.pulse.is_failing() {
            return;
        }
        let ids: Vec<SubscriptionId> = in_use.iter().map(|(id, _)| *id).collect();
        if self.read(&ids).await.is_none() {
            return;
        }
        for (id, asked_at) in in_use {
            if let Some(known) = self.known.get_mut(&id) {
                known.asked_at = asked_at;
            }
        }
    }

    fn target(&self, row: TargetRow) -> Result<Target, Error> {
        let unknown =
            |what: &str, word: &str| Error::internal(format!("the database holds an unknown {what}: {word}"));
        let delays = row.retry_delays_ms.as_ref();
        let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or_default());
        Ok(Target {
            callback: CallbackId(row.callback_id),
            surface: Surface::parse(&row.surface).ok_or_else(|| unknown("surface", &row.surface))?,
            state: SubscriptionState::parse(&row.state).ok_or_else(|| unknown("state", &row.state))?,
            as_read: row.as_read(),
            retry: delays.map_or_else(
                || self.settings.retry.clone(),
                |list| RetryPolicy { delays: list.iter().copied().map(ms).collect() },
            ),
            timeout: row
                .timeout_ms
                .map_or(self.settings.timeout, |timeout| ms(timeout.into()).min(self.settings.timeout)),
            rate_per_s: row.rate_per_s.and_then(|rate| u32::try_from(rate).ok()),
            failing_for: row.failing_for_s.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()),
            disable_after: self.settings.disable_after,
            sending: self.sending(&row),
        })
    }

    /// Opens the secrets and parses the URL under the present policy, which may be stricter than the one it was accepted under.
    fn sending(&self, row: &TargetRow) -> Result<Sending, String> {
        let callback = CallbackId(row.callback_id);
        let open = |identity: String, sealed: &[u8]| {
            self.keys
                .open(&identity, sealed)
                .map_err(|error| format!("a secret of callback {callback} cannot be opened: {error}"))
        };
        let credentials = row
            .credentials
            .as_ref()
            .map(|sealed| open(credentials_identity(callback), sealed))
            .transpose()?;
        let partners_own = Surface::parse(&row.surface).is_some_and(Surface::signs_with_partners_secret);
        let mut signing_keys = Vec::new();
        for sealed in row.signing_key.iter().chain(&row.superseded_signing_keys) {
            let bytes = open(signing_key_identity(callback), sealed)?;
            signing_keys.push(match bytes.expose_str() {
                Some(secret) if partners_own => SigningKey::from_utf8_secret(secret),
                _ => SigningKey::from_bytes(bytes).map_err(|error| error.to_string())?,
            });
        }
        let url = CallbackUrl::parse(&row.url, &self.egress).map_err(|refused| refused.to_string())?;
        // One that the present policy refuses is not there: the attempts that it would have had go on to the first.
        let backup_url = row
            .backup_url
            .as_deref()
            .and_then(|backup_url| CallbackUrl::parse(backup_url, &self.egress).ok());
        Ok(Sending { url, backup_url, credentials, signing_keys })
    }
}
