//! Redirect sessions on the wire.
//!
//! What a partner asks for is stored as one normalised JSON object, [`Content`]: the same request always gives the same bytes, which is how
//! a repeat is told from another request under the same id.

use serde::{Deserialize, Serialize};
use serde_json::Number;
use url::Url;
use uuid::Uuid;

use super::{in_body, versioned};
use crate::domain::Error;
use crate::domain::currency::Currency;
use crate::domain::id::{CustomerId, parse_uuid};
use crate::domain::redirect_data::{Locale, RedirectData, ReturnUrl};
use crate::domain::redirect_session::{RedirectSession, SessionKind};
use crate::domain::time::wire_time;
use crate::domain::transaction::{Amount, Direction, ExternalReference, Flow, Transaction, TransactionKind};
use crate::hub::Answer;
use crate::hub::ingest::Cancel;
use crate::hub::sessions::{Open, Opened};
use crate::surfaces::kit::fields::Fields;
use crate::surfaces::redirect::extract::Asked;
use crate::surfaces::redirect::outbound;

const ID: &str = "redirectSessionId";

/// The id in the path. Errors: `Invalid`.
pub fn id(asked: &Asked) -> Result<Uuid, Error> {
    let mut violations = asked.violations();
    asked.id(ID, &mut violations).filter(|_| violations.is_empty()).ok_or(violations.into())
}

/// A PUT.
pub fn open(asked: &Asked) -> Result<Open, Error> {
    let mut violations = asked.violations();
    let id = asked.id(ID, &mut violations);
    let wish = in_body(&asked.body, &mut violations, wish);
    match (id, wish.flatten()) {
        (Some(id), Some(wish)) if violations.is_empty() => Ok(Open {
            id,
            kind: wish.purpose.kind(),
            customer: wish.customer.map(CustomerId),
            content: content(&wish)?,
            condition: asked.condition.clone(),
        }),
        _ => Err(violations.into()),
    }
}

/// A cancel. It needs no body; one that is there must be a JSON object, and nothing in it is read.
pub fn cancel(asked: &Asked) -> Result<Cancel, Error> {
    let mut violations = asked.violations();
    let session = asked.id(ID, &mut violations);
    if !asked.body.is_empty() {
        in_body(&asked.body, &mut violations, |_| ());
    }
    match session {
        Some(session) if violations.is_empty() => {
            Ok(Cancel { session, condition: asked.condition.clone(), announce: outbound::cancelled })
        }
        _ => Err(violations.into()),
    }
}

/// What a session is asked for with.
struct Wish {
    purpose: Purpose,
    customer: Option<Uuid>,
    redirect: RedirectData,
    locale: Locale,
}

/// What the session is for: the published `type`, with the member that it requires.
enum Purpose {
    NewTransactionIntent(Transaction),
    ExistingTransactionIntent(Uuid),
    NewCustomer,
}

impl Purpose {
    fn kind(&self) -> SessionKind {
        match self {
            Self::NewTransactionIntent(_) => SessionKind::NewTransactionIntent,
            Self::ExistingTransactionIntent(_) => SessionKind::ExistingTransactionIntent,
            Self::NewCustomer => SessionKind::NewCustomer,
        }
    }
}

/// Every field is read before any is missed, so that all complaints come at once.
fn wish(fields: &mut Fields<'_>) -> Option<Wish> {
    let kind = fields.required("type", |text: String| {
        SessionKind::parse(&text)
            .ok_or("must be one of NewTransactionIntent, ExistingTransactionIntent, NewCustomer")
    });
    let purpose = kind.and_then(|kind| purpose(kind, fields));
    let customer = fields.optional("customerId", |text: String| parse_uuid(&text));
    let redirect = required_object(fields, "redirectData", redirect_data);
    let locale = fields.optional("locale", Locale::parse);
    Some(Wish { purpose: purpose?, customer, redirect: redirect?, locale: locale.unwrap_or_default() })
}

fn purpose(kind: SessionKind, fields: &mut Fields<'_>) -> Option<Purpose> {
    match kind {
        SessionKind::NewTransactionIntent => {
            required_object(fields, "transactionData", transaction).map(Purpose::NewTransactionIntent)
        }
        SessionKind::ExistingTransactionIntent => fields
            .required("transactionIntentId", |text: String| parse_uuid(&text))
            .map(Purpose::ExistingTransactionIntent),
        SessionKind::NewCustomer => Some(Purpose::NewCustomer),
    }
}

fn required_object<'a, R>(
    fields: &mut Fields<'a>,
    name: &str,
    read: impl FnOnce(&mut Fields<'a>) -> Option<R>,
) -> Option<R> {
    if !fields.has(name) {
        fields.refuse(name, "is required");
    }
    fields.object(name, read)
}

fn redirect_data(fields: &mut Fields<'_>) -> Option<RedirectData> {
    let [success_url, failure_url, abort_url, qr_code_success_url] =
        ["successUrl", "failureUrl", "abortUrl", "qrCodeSuccessUrl"]
            .map(|name| fields.required(name, ReturnUrl::parse));
    Some(RedirectData {
        success_url: success_url?,
        failure_url: failure_url?,
        abort_url: abort_url?,
        qr_code_success_url: qr_code_success_url?,
    })
}

fn transaction(fields: &mut Fields<'_>) -> Option<Transaction> {
    let currency = fields.required("currency", |text: String| Currency::parse(&text));
    let amount =
        fields.required("amount", |number: Number| Amount::parse(number.as_f64().unwrap_or(f64::NAN)));
    let flow = flow(fields);
    let reference = fields.optional("externalReference", ExternalReference::parse);
    Some(Transaction { currency: currency?, amount: amount?, flow: flow?, external_reference: reference })
}

/// Exactly one of two fields says which way the money goes.
fn flow(fields: &mut Fields<'_>) -> Option<Flow> {
    let direction = fields.optional("direction", |text: String| Direction::parse(&text));
    let kind = fields.optional("type", |text: String| TransactionKind::parse(&text));
    match (fields.has("direction"), fields.has("type")) {
        (true, false) => direction.map(Flow::Direction),
        (false, true) => kind.map(Flow::Kind),
        (true, true) => {
            fields.refuse("direction", "must not be given together with type");
            None
        }
        (false, false) => {
            fields.refuse("direction", "is required, unless type is given");
            None
        }
    }
}

/// The stored form.
fn content(wish: &Wish) -> Result<Vec<u8>, Error> {
    let (transaction, transaction_intent) = match &wish.purpose {
        Purpose::NewTransactionIntent(transaction) => (Some(transaction), None),
        Purpose::ExistingTransactionIntent(id) => (None, Some(*id)),
        Purpose::NewCustomer => (None, None),
    };
    let content = Content {
        kind: wish.purpose.kind().as_str().to_owned(),
        customer_id: wish.customer,
        transaction_data: transaction.map(TransactionBody::from),
        transaction_intent_id: transaction_intent,
        redirect_data: RedirectDataBody::from(&wish.redirect),
        locale: wish.locale.as_str().to_owned(),
    };
    serde_json::to_vec(&content).map_err(Error::internal)
}

/// A session with its token. Errors: `Internal` when what was stored cannot be read any more.
pub fn shown(opened: &Opened, public_url: &Url) -> Result<Answer, Error> {
    let session = &opened.session;
    let content: Content = serde_json::from_slice(&opened.content).map_err(Error::internal)?;
    let token = opened.token.expose_str().ok_or_else(|| Error::internal("a session's token is no text"))?;
    let body = SessionBody {
        id: session.id,
        kind: session.kind.as_str(),
        merchant_id: session.partner.0,
        customer_id: content.customer_id,
        transaction_data: content.transaction_data,
        transaction_intent_id: content.transaction_intent_id,
        redirect_data: content.redirect_data,
        locale: content.locale,
        state: session.state.as_str(),
        created_on: wire_time(session.created_at),
        last_modified_on: wire_time(session.updated_at),
        token,
        redirect_url: format!("{}/redirect", public_url.as_str().trim_end_matches('/')),
    };
    Ok(versioned(200, session.version, &body))
}

pub fn cancelled(session: &RedirectSession) -> Answer {
    let body = CancelledBody {
        id: session.id,
        state: session.state.as_str(),
        created_on: wire_time(session.created_at),
        last_modified_on: wire_time(session.updated_at),
    };
    versioned(200, session.version, &body)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_data: Option<TransactionBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_intent_id: Option<Uuid>,
    redirect_data: RedirectDataBody,
    locale: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionBody {
    currency: String,
    amount: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_reference: Option<String>,
}

impl From<&Transaction> for TransactionBody {
    fn from(transaction: &Transaction) -> Self {
        let (direction, kind) = match transaction.flow {
            Flow::Direction(direction) => (Some(direction.as_str().to_owned()), None),
            Flow::Kind(kind) => (None, Some(kind.as_str().to_owned())),
        };
        Self {
            currency: transaction.currency.as_str().to_owned(),
            amount: number(transaction.amount),
            direction,
            kind,
            external_reference: transaction.external_reference.as_ref().map(|text| text.as_str().to_owned()),
        }
    }
}

/// `50`, `50.0` and `5e1` are one amount and are written as `50`.
fn number(amount: Amount) -> Number {
    let units = amount.units();
    let whole = units.trunc();
    if whole == units {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole amount lies between 1 and 10000"
        )]
        return Number::from(whole as u32);
    }
    Number::from_f64(units).expect("an amount is finite")
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedirectDataBody {
    success_url: String,
    failure_url: String,
    abort_url: String,
    qr_code_success_url: String,
}

impl From<&RedirectData> for RedirectDataBody {
    fn from(data: &RedirectData) -> Self {
        Self {
            success_url: data.success_url.as_str().to_owned(),
            failure_url: data.failure_url.as_str().to_owned(),
            abort_url: data.abort_url.as_str().to_owned(),
            qr_code_success_url: data.qr_code_success_url.as_str().to_owned(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionBody<'a> {
    id: Uuid,
    #[serde(rename = "type")]
    kind: &'static str,
    merchant_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_data: Option<TransactionBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_intent_id: Option<Uuid>,
    redirect_data: RedirectDataBody,
    locale: String,
    state: &'static str,
    created_on: String,
    last_modified_on: String,
    token: &'a str,
    redirect_url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelledBody {
    id: Uuid,
    state: &'static str,
    created_on: String,
    last_modified_on: String,
}

#[cfg(test)]
mod tests;
