//! Callbacks: made, changed, deleted, shown, and tried out.

use super::PER_PARTNER_MAX;
use crate::domain::caller::Caller;
use crate::domain::credentials::BasicCredentials;
use crate::domain::id::CallbackId;
use crate::domain::notification::{Name, Refused};
use crate::domain::signature::SigningKey;
use crate::domain::{Error, Violations};
use crate::hub::Hub;
use crate::hub::subscriptions::{credentials_identity, signing_key_identity};
use crate::store;
use crate::store::named_callbacks::{self, NamedCallback, NewNamedCallback};
use crate::store::notifications::{self, Notification};

#[derive(Debug)]
pub struct CreateCallback {
    pub name: Name,
    pub url: String,
    pub backup_url: Option<String>,
    pub batch_size: i32,
    pub credentials: BasicCredentials,
}

/// What changes; what is absent stays.
#[derive(Debug)]
pub struct ChangeCallback {
    pub url: Option<String>,
    /// `Some(None)` takes it away.
    pub backup_url: Option<Option<String>>,
    pub batch_size: Option<i32>,
    pub credentials: BasicCredentials,
}

impl Hub {
    pub async fn create_callback(
        &self,
        caller: &Caller,
        command: CreateCallback,
    ) -> Result<NamedCallback, Refused> {
        check_backup(&command.url, command.backup_url.as_deref())?;
        let mut transaction = self.transaction().await?;
        notifications::take_turn(&mut transaction, caller.partner).await?;
        let (callbacks, _) = notifications::count(&mut transaction, caller.partner).await?;
        let id = CallbackId::new();
        let credentials = self.keys.seal(&credentials_identity(id), command.credentials.secret().expose());
        let signing_key = self.keys.seal(&signing_key_identity(id), SigningKey::generate().expose());
        let new = NewNamedCallback {
            id,
            partner: caller.partner,
            name: &command.name,
            url: &command.url,
            backup_url: command.backup_url.as_deref(),
            batch_size: command.batch_size,
            credentials: &credentials,
            signing_key: &signing_key,
        };
        match named_callbacks::insert(&mut transaction, new).await {
            Err(Error::Duplicate(_)) => {
                return Err(Refused::CallbackNameTaken(command.name.as_str().to_owned()));
            }
            inserted => inserted?,
        }
        if callbacks >= PER_PARTNER_MAX {
            let full = format!("would be one more than the {PER_PARTNER_MAX} callbacks that there may be");
            return Err(Violations::one("name", full).into());
        }
        let made = named_callbacks::find(&mut transaction, caller.partner, &command.name).await?;
        transaction.commit().await.map_err(Error::from)?;
        made.ok_or_else(|| Error::internal("a callback that was just made is not there").into())
    }

    /// Errors: `NoCallback`; `Invalid` when the backup URL would be the URL.
    pub async fn change_callback(
        &self,
        caller: &Caller,
        name: &str,
        command: ChangeCallback,
    ) -> Result<NamedCallback, Refused> {
        let mut transaction = self.transaction().await?;
        notifications::take_turn(&mut transaction, caller.partner).await?;
        let mut callback = callback(&mut transaction, caller, name).await?;
        if let Some(url) = command.url {
            callback.url = url;
        }
        if let Some(backup_url) = command.backup_url {
            callback.backup_url = backup_url;
        }
        if let Some(batch_size) = command.batch_size {
            callback.batch_size = batch_size;
        }
        check_backup(&callback.url, callback.backup_url.as_deref())?;
        let identity = credentials_identity(callback.id);
        let credentials = self.keys.seal(&identity, command.credentials.secret().expose());
        named_callbacks::update(&mut transaction, caller.partner, &callback, &credentials).await?;
        transaction.commit().await.map_err(Error::from)?;
        self.handoff.changed(caller.partner);
        self.handoff.ring_to_gather();
        Ok(callback)
    }

    /// Errors: `NoCallback`, `CallbackInUse`.
    pub async fn delete_callback(&self, caller: &Caller, name: &str) -> Result<(), Refused> {
        let mut transaction = self.transaction().await?;
        notifications::take_turn(&mut transaction, caller.partner).await?;
        let callback = callback(&mut transaction, caller, name).await?;
        let using = notifications::list_of_callback(&mut transaction, caller.partner, callback.id, 1).await?;
        if !using.is_empty() {
            return Err(Refused::CallbackInUse);
        }
        named_callbacks::unname(&mut transaction, caller.partner, callback.id).await?;
        store::callbacks::wipe(&mut transaction, caller.partner, callback.id).await?;
        transaction.commit().await.map_err(Error::from)?;
        self.handoff.changed(caller.partner);
        Ok(())
    }

    /// Errors: `NoCallback`.
    pub async fn find_callback(&self, caller: &Caller, name: &str) -> Result<NamedCallback, Refused> {
        callback(&mut *self.connection().await?, caller, name).await
    }

    /// Oldest first.
    pub async fn list_callbacks(&self, caller: &Caller) -> Result<Vec<NamedCallback>, Error> {
        let mut connection = self.connection().await?;
        named_callbacks::list(&mut connection, caller.partner, PER_PARTNER_MAX).await
    }

    /// A callback with its subscriptions, oldest first. Errors: `NoCallback`.
    pub async fn find_callback_with_subscriptions(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<(NamedCallback, Vec<Notification>), Refused> {
        let mut moment = self.snapshot().await?;
        let callback = callback(&mut moment, caller, name).await?;
        let subscriptions =
            notifications::list_of_callback(&mut moment, caller.partner, callback.id, PER_PARTNER_MAX)
                .await?;
        Ok((callback, subscriptions))
    }

    /// Has the engine post nothing at all to a callback, as it posts everything else. Errors: `NoCallback`; `CallbackUnreachable` unless a
    /// 2xx comes back; `Unavailable` when too many are being tried.
    pub async fn verify_callback(&self, caller: &Caller, name: &str) -> Result<NamedCallback, Refused> {
        let callback = self.find_callback(caller, name).await?;
        let answer = self.handoff.verify(caller.partner, callback.id)?;
        match tokio::time::timeout(self.test_patience(), answer).await {
            Ok(Ok(true)) => Ok(callback),
            Ok(Ok(false)) => Err(Refused::CallbackUnreachable(callback.url)),
            Ok(Err(_)) | Err(_) => Err(Error::unavailable("the callback was not tried in time").into()),
        }
    }
}

/// The caller's callback of this name; a name that none can have is nobody's. Errors: `NoCallback`.
async fn callback(
    db: &mut sqlx::PgConnection,
    caller: &Caller,
    name: &str,
) -> Result<NamedCallback, Refused> {
    let found = match Name::parse(name) {
        Ok(name) => named_callbacks::find(db, caller.partner, &name).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| Refused::NoCallback(name.to_owned()))
}

/// Errors: `Invalid` when both are the same.
fn check_backup(url: &str, backup_url: Option<&str>) -> Result<(), Violations> {
    if backup_url == Some(url) { Err(Violations::one("backupUrl", "must differ from url")) } else { Ok(()) }
}
