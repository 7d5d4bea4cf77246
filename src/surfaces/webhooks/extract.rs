//! A request taken apart: who asks, how the answer is to be written, and all that was sent, bound from body, path and query.

pub mod input;
mod multipart;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Uri};
use axum::response::Response;

use super::error::Exchange;
use super::format::{Format, Node};
use crate::domain::caller::Caller;
use crate::domain::partner_key::Scope;
use crate::surfaces::kit::Api;
use crate::surfaces::kit::authorize::authorize;
use crate::surfaces::kit::body;
use crate::surfaces::kit::conversation::Conversation;
use input::Input;

pub struct Asked {
    pub exchange: Exchange,
    pub caller: Caller,
    /// With the complaints about what could not be bound.
    pub input: Input,
}

impl FromRequest<Api> for Asked {
    type Rejection = Response;

    /// The caller is proven before the body is read.
    async fn from_request(request: Request, api: &Api) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::of(&parts);
        let caller = authorize(&api.hub, &parts, Scope::Partner)
            .await
            .map_err(|error| exchange.respond(Err(error)))?;
        let mut input = Input::default();
        if parts.method == Method::POST {
            let body = body::read(body, api.settings.body_bytes_max).await;
            let bound = body.and_then(|body| input.bind_body(&parts.headers, &body));
            bound.map_err(|trouble| exchange.trouble(&trouble))?;
        }
        input.bind(path_parameters(&mut parts, api).await);
        input.bind_encoded(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self { exchange, caller, input })
    }
}

/// For those who answer without having looked at the request.
impl FromRequestParts<Api> for Exchange {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Self::Rejection> {
        Ok(Exchange::of(parts))
    }
}

impl Exchange {
    /// The listener's outermost layer has put the ids there, and the surface's the format.
    fn of(parts: &Parts) -> Self {
        let format = parts.extensions.get::<Format>().copied().unwrap_or(Format::Json);
        Self::new(format, Conversation::among(&parts.extensions))
    }
}

/// A parameter that is unreadable is one that nothing fits.
async fn path_parameters(parts: &mut Parts, api: &Api) -> Vec<(String, Node)> {
    match RawPathParams::from_request_parts(parts, api).await {
        Ok(parameters) => parameters
            .iter()
            .filter(|(name, _)| *name != super::OPERATION)
            .map(|(name, value)| (name.to_owned(), Node::Word(value.to_owned())))
            .collect(),
        Err(_) => vec![(super::ID.to_owned(), Node::Word("?".to_owned()))],
    }
}

/// Settles how the answer is written, as an extension of the request: by a suffix of the path (which is taken off), by `format`, by a prefix
/// of the path that names a format, by `Accept`, or else as JSON.
pub fn settle_format(request: &mut Request) -> Format {
    let suffix = take_suffix(request.uri_mut());
    let uri = request.uri();
    let prefix = uri.path().split('/').nth(1).filter(|_| uri.path().split('/').nth(2) == Some("reply"));
    let query = uri.query().unwrap_or_default().as_bytes();
    let wish = url::form_urlencoded::parse(query).find(|(name, _)| name.eq_ignore_ascii_case("format"));
    let format = suffix
        .or_else(|| wish.and_then(|(_, name)| Format::named(&name)))
        .or_else(|| prefix.and_then(Format::named))
        .or_else(|| Format::accepted(request.headers()))
        .unwrap_or(Format::Json);
    request.extensions_mut().insert(format);
    format
}

/// Takes a format's name off the end of the path, if there is one behind something.
fn take_suffix(uri: &mut Uri) -> Option<Format> {
    let (rest, suffix) = uri.path().rsplit_once('.')?;
    let format = Format::named(suffix)?;
    if rest.is_empty() || rest.ends_with('/') {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let shorter = PathAndQuery::try_from(format!("{rest}{query}")).ok()?;
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(shorter);
    *uri = Uri::from_parts(parts).expect("a path in the place of a path leaves a URI");
    Some(format)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn suffix_format_prefix_and_accept_decide_in_this_order() {
        for (uri, accept, format, path) in [
            ("/sync/webhooks/subscriptions", "", Format::Json, "/sync/webhooks/subscriptions"),
            ("/sync/webhooks/subscriptions", "text/jsv", Format::Jsv, "/sync/webhooks/subscriptions"),
            ("/sync/webhooks?format=XML", "text/jsv", Format::Xml, "/sync/webhooks"),
            ("/sync/webhooks?Format=csv&a=b", "", Format::Csv, "/sync/webhooks"),
            ("/sync/webhooks?format=other", "text/jsv", Format::Jsv, "/sync/webhooks"),
            ("/sync/webhooks.jsv?format=xml", "text/csv", Format::Jsv, "/sync/webhooks"),
            ("/sync/1/delete.JSV", "", Format::Jsv, "/sync/1/delete"),
            ("/sync/.jsv", "", Format::Json, "/sync/.jsv"),
            ("/sync/a.txt", "", Format::Json, "/sync/a.txt"),
            ("/xml/reply/Some.jsv?format=csv", "text/csv", Format::Jsv, "/xml/reply/Some"),
            ("/xml/reply/Some?format=csv", "text/jsv", Format::Csv, "/xml/reply/Some"),
            ("/xml/reply/Some?format=other", "text/jsv", Format::Xml, "/xml/reply/Some"),
            ("/json/reply/Some", "text/jsv", Format::Json, "/json/reply/Some"),
            ("/api/Some.jsv", "", Format::Jsv, "/api/Some"),
            ("/xml/other", "", Format::Json, "/xml/other"),
        ] {
            let request = Request::builder().uri(uri).header("accept", accept);
            let mut request = request.body(Body::empty()).unwrap();
            assert_eq!(settle_format(&mut request), format, "{uri} {accept}");
            assert_eq!(request.uri().path(), path, "{uri}");
            assert_eq!(request.extensions().get::<Format>(), Some(&format));
            assert_eq!(request.uri().query(), uri.split_once('?').map(|(_, query)| query));
        }
    }
}
