//! Access tokens: a key traded for something that lives three hours, and a token for a fresh one.

use chrono::{DateTime, Utc};

use super::Hub;
use crate::domain::Error;
use crate::domain::access_token::AccessToken;
use crate::domain::caller::Caller;
use crate::domain::id::{ApiKeyId, PartnerId, parse_uuid};
use crate::domain::partner_key::{Scope, Scopes};
use crate::domain::secret::Secret;
use crate::store::access_tokens;

/// A token that was just made. Its text is nowhere else and cannot be had again.
pub struct IssuedToken {
    pub text: Secret,
    pub issued_at: DateTime<Utc>,
}

impl Hub {
    /// Trades a partner's key for a token. Errors: `Unauthorized` unless the key is that partner's and has the partner scope; `LimitExceeded`.
    pub async fn issue_token(&self, partner: &str, key: &str) -> Result<IssuedToken, Error> {
        if AccessToken::parse(key).is_some() {
            return Err(Error::Unauthorized);
        }
        let caller = self.authenticate(key).await?;
        if parse_uuid(partner).ok() != Some(caller.partner.0) || caller.require(Scope::Partner).is_err() {
            return Err(Error::Unauthorized);
        }
        self.issue_to(&caller).await
    }

    /// Trades a token for a fresh one; the old one lives on until its time. Errors: `Unauthorized` when it opens nothing; `LimitExceeded`.
    pub async fn refresh_token(&self, text: &str) -> Result<IssuedToken, Error> {
        let token = AccessToken::parse(text).ok_or(Error::Unauthorized)?;
        let caller = self.authenticate_token(&token).await?;
        self.issue_to(&caller).await
    }

    /// Who presents this token. It reaches no further than partners do, whatever its key could. Errors: `Unauthorized`.
    pub(super) async fn authenticate_token(&self, token: &AccessToken) -> Result<Caller, Error> {
        let row = access_tokens::find_usable(&mut *self.connection().await?, token).await?;
        let row = row.ok_or(Error::Unauthorized)?;
        let key_scopes = Scopes::parse(&row.scopes.join(",")).map_err(Error::internal)?;
        if !key_scopes.contains(Scope::Partner) {
            return Err(Error::Unauthorized);
        }
        let scopes = Scopes::only(Scope::Partner);
        Ok(Caller { partner: PartnerId(row.partner_id), key: ApiKeyId(row.key_id), scopes })
    }

    async fn issue_to(&self, caller: &Caller) -> Result<IssuedToken, Error> {
        self.admit(caller.partner)?;
        let (token, text) = AccessToken::generate();
        let mut connection = self.connection().await?;
        let issued_at = access_tokens::insert(&mut connection, &token, caller.partner, caller.key).await?;
        Ok(IssuedToken { text, issued_at })
    }
}
