//! Partners, their keys and their customers.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Hub;
use crate::domain::access_token::AccessToken;
use crate::domain::caller::Caller;
use crate::domain::id::{ApiKeyId, CustomerId, PartnerId};
use crate::domain::partner_key::{DEVELOPMENT_PREFIX, PartnerKey, Scopes};
use crate::domain::secret::Secret;
use crate::domain::{Error, Noun};
use crate::store;
use crate::store::api_keys::NewApiKey;

/// A key that was just made. Its text is nowhere else and cannot be had again.
pub struct NewKey {
    pub id: ApiKeyId,
    pub prefix: String,
    pub text: Secret,
    pub created_at: DateTime<Utc>,
}

impl Hub {
    /// Who presents this key, or a token that stands for one. Errors: `Unauthorized` when it opens nothing.
    pub async fn authenticate(&self, text: &str) -> Result<Caller, Error> {
        if let Some(token) = AccessToken::parse(text) {
            return self.authenticate_token(&token).await;
        }
        let key = PartnerKey::parse(text).map_err(|_| Error::Unauthorized)?;
        self.caller_with(&key).await
    }

    pub async fn create_partner(&self, name: &str) -> Result<(PartnerId, DateTime<Utc>), Error> {
        create_partner(&self.pool, name).await
    }

    /// Makes a key for a partner. Errors: `NotFound` when there is no such partner, `Invalid` when it would have expired already.
    pub async fn create_key(
        &self,
        partner: PartnerId,
        scopes: Scopes,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<NewKey, Error> {
        create_key(&self.pool, partner, scopes, expires_at).await
    }

    /// Revokes a key. Errors: `NotFound` when the partner has no such usable key.
    pub async fn revoke_key(&self, partner: PartnerId, key: ApiKeyId) -> Result<(), Error> {
        let revoked = store::api_keys::revoke(&mut *self.connection().await?, partner, key).await?;
        if revoked { Ok(()) } else { Err(Error::NotFound(Noun::Key)) }
    }

    /// Makes a customer. Errors: `NotFound` when there is no such partner, `Duplicate` when the id is taken.
    pub async fn create_customer(&self, partner: PartnerId, id: CustomerId) -> Result<DateTime<Utc>, Error> {
        let mut transaction = self.transaction().await?;
        if !store::partners::exists(&mut transaction, partner).await? {
            return Err(Error::NotFound(Noun::Partner));
        }
        let created_at = store::customers::insert(&mut transaction, partner, id).await?;
        transaction.commit().await?;
        Ok(created_at)
    }

    /// Erases anyone's customer, for the operator. Errors: `NotFound` when there is none to erase.
    pub async fn erase_customer(&self, id: CustomerId) -> Result<(), Error> {
        let erased = store::customers::erase(&mut *self.connection().await?, id).await?;
        if erased { Ok(()) } else { Err(Error::NotFound(Noun::Customer)) }
    }

    /// Sees to it that the development partner exists and that this key, and no other one of its kind, opens it.
    pub async fn ensure_development_partner(&self, key: &PartnerKey) -> Result<PartnerId, Error> {
        let mut transaction = self.transaction().await?;
        let rows = store::api_keys::find_usable(&mut transaction, &key.prefix).await?;
        if let Some(row) = rows.iter().find(|row| row.hash == key.hash.as_bytes()) {
            return Ok(PartnerId(row.partner_id));
        }
        let partner = match store::api_keys::find_last_owner(&mut transaction, &key.prefix).await? {
            Some(partner) => partner,
            None => {
                let partner = PartnerId::new();
                store::partners::insert(&mut transaction, partner, "development").await?;
                partner
            }
        };
        insert_key(&mut transaction, partner, ApiKeyId::new(), key, Scopes::all(), None).await?;
        store::api_keys::revoke_others(&mut transaction, &key.prefix, key.hash.as_bytes()).await?;
        transaction.commit().await?;
        Ok(partner)
    }

    /// Revokes what opened everything while this database was used in development. Returns how many keys that were.
    pub async fn end_development(&self) -> Result<u64, Error> {
        store::api_keys::revoke_others(&mut *self.connection().await?, DEVELOPMENT_PREFIX, &[]).await
    }
}

/// Makes a partner. By itself, because the first one is made before there is a server.
pub async fn create_partner(pool: &PgPool, name: &str) -> Result<(PartnerId, DateTime<Utc>), Error> {
    let id = PartnerId::new();
    let created_at = store::partners::insert(&mut *pool.acquire().await?, id, name).await?;
    Ok((id, created_at))
}

/// As [`Hub::create_key`], which the first key cannot wait for either.
pub async fn create_key(
    pool: &PgPool,
    partner: PartnerId,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> Result<NewKey, Error> {
    let mut transaction = pool.begin().await?;
    if !store::partners::exists(&mut transaction, partner).await? {
        return Err(Error::NotFound(Noun::Partner));
    }
    let now = store::now(&mut transaction).await?;
    if expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(Error::invalid("expiresAt", "must lie in the future"));
    }
    let (key, text) = PartnerKey::generate();
    let id = ApiKeyId::new();
    let created_at = insert_key(&mut transaction, partner, id, &key, scopes, expires_at).await?;
    transaction.commit().await?;
    Ok(NewKey { id, prefix: key.prefix, text, created_at })
}

async fn insert_key(
    db: &mut sqlx::PgConnection,
    partner: PartnerId,
    id: ApiKeyId,
    key: &PartnerKey,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, Error> {
    let scopes: Vec<String> = scopes.to_string().split(',').map(str::to_owned).collect();
    let new = NewApiKey {
        id,
        partner,
        prefix: &key.prefix,
        hash: key.hash.as_bytes(),
        scopes: &scopes,
        expires_at,
    };
    store::api_keys::insert(db, new).await
}
