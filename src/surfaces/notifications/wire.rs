//! The bodies of the surface, in both directions: requests into commands, results into answers.

pub mod callback;
pub mod subscription;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use url::Url;

use crate::domain::Error;
use crate::domain::notification::Name;
use crate::hub::tokens::IssuedToken;
use crate::surfaces::kit::fields::Fields;

/// What complaints about the body as a whole name.
const BODY: &str = "body";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenBody {
    auth_token: String,
    /// Milliseconds since 1970.
    issued_at: i64,
    /// Scheme and host, to which clients add the paths that they know.
    end_point: String,
}

impl TokenBody {
    /// The one place where a token's text leaves.
    pub fn shown_once(issued: &IssuedToken, public_url: &Url) -> Result<Self, Error> {
        let token = issued.text.expose_str().ok_or_else(|| Error::internal("a token is no text"))?;
        Ok(Self {
            auth_token: token.to_owned(),
            issued_at: issued.issued_at.timestamp_millis(),
            end_point: public_url.origin().ascii_serialization(),
        })
    }
}

#[derive(Serialize)]
pub struct Deleted {
    message: String,
    status: bool,
}

impl Deleted {
    pub fn new(what: &str, name: &str) -> Self {
        Self { message: format!("{what} [{name} ] deleted successfully"), status: true }
    }
}

/// Where a client may go from here.
#[derive(Serialize)]
pub struct Link {
    rel: &'static str,
    href: String,
    method: &'static str,
}

impl Link {
    fn new(rel: &'static str, href: impl Into<String>, method: &'static str) -> Self {
        Self { rel, href: href.into(), method }
    }
}

/// What is written otherwise in a segment of a path: all but the unreserved characters of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path of one thing of a collection.
fn path_of(collection: &str, name: &str) -> String {
    format!("{collection}/{}", utf8_percent_encode(name, SEGMENT))
}

/// The name that a body gives what is to be made.
fn name(fields: &mut Fields<'_>) -> Option<Name> {
    fields.required("name", |text: String| Name::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_its_path() {
        for (name, path) in [
            ("Email_Callback", "/c/Email_Callback"),
            ("a b/c?d#e%2F", "/c/a%20b%2Fc%3Fd%23e%252F"),
            ("é", "/c/%C3%A9"),
            ("a-b.c_d~", "/c/a-b.c_d~"),
            ("[|]^\\", "/c/%5B%7C%5D%5E%5C"),
        ] {
            assert_eq!(path_of("/c", name), path);
        }
    }
}
