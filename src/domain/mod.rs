//! The nouns of Herald and the decisions about them. Nothing in here knows HTTP servers, SQL, async or JSON shapes; time and chance
//! come in as arguments.

pub mod access_token;
pub mod attempt;
pub mod breaker;
pub mod callback_url;
pub mod caller;
pub mod client_address;
pub mod credentials;
pub mod currency;
pub mod database_clock;
pub mod delivery;
pub mod dialect;
pub mod egress;
pub mod egress_proxy;
pub mod error;
pub mod event;
pub mod id;
pub mod key_ring;
pub mod notification;
pub mod outage;
pub mod partner_key;
pub mod partner_name;
pub mod publication;
pub mod recipient_key;
pub mod redirect_data;
pub mod redirect_session;
pub mod replay;
pub mod retry;
pub mod retry_after;
pub mod route;
pub mod row_hint;
pub mod secret;
pub mod signature;
pub mod subscription;
pub mod surface;
pub mod throttle;
pub mod time;
pub mod transaction;
pub mod version;
pub mod webhook;

pub use error::{Error, Noun, Violation, Violations};
