//! The address a partner wants to be called at: the only way to own one is to have had it checked.
//!
//! The text is kept exactly as it was sent, because every surface echoes it, beside what the WHATWG parser made of
//! it, because that is what gets called. Both are judged: parsers silently drop tabs and line breaks, turn
//! backslashes into slashes and accept an empty user name, so those must be looked for in the raw text; and only
//! the parsed form shows that `0x7f.1` is 127.0.0.1. Names are not resolved here; `engine::outbound` does that.

use std::net::IpAddr;

use thiserror::Error;
use url::{Position, Url};

use super::egress::{EgressPolicy, PortRule, Refusal};

/// In characters, as sent.
pub const URL_CHARS_MAX: usize = 2_048;

/// An absolute http or https URL that the policy of its parsing allowed. A stored one is parsed again before it is
/// called, since the policy may have changed since.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackUrl {
    raw: String,
    url: Url,
}

/// Whom the URL names, after every spelling of an address has been normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    Address(IpAddr),
    /// Lower case, punycoded, possibly with a trailing dot.
    Name(&'a str),
}

/// Why a URL was not taken. Its text is a sentence for the partner: it says what to change and nothing about which
/// networks are reachable from here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct UrlRefused {
    pub reason: UrlFault,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlFault {
    #[error("must be at most {URL_CHARS_MAX} characters long")]
    TooLong,
    #[error("must not contain spaces, control characters or backslashes")]
    ForbiddenCharacter,
    #[error("must be an absolute URL that starts with https://")]
    NotHttps,
    #[error("must be an absolute URL that starts with https:// or http://")]
    NotHttp,
    #[error("must not contain user information before the host")]
    UserInformation,
    #[error("must not contain a fragment (#)")]
    Fragment,
    #[error("must be a valid URL with a host")]
    Malformed,
    #[error("must use an allowed port ({0})")]
    Port(String),
    /// One sentence whatever the kind of address, so that nobody can map a network by trying URLs.
    #[error("must name a publicly reachable host: the address is not allowed")]
    Address(Refusal),
}

impl CallbackUrl {
    pub fn parse(raw: &str, policy: &EgressPolicy) -> Result<CallbackUrl, UrlRefused> {
        check_raw(raw, policy).map_err(|reason| UrlRefused { reason })?;
        let malformed = UrlRefused { reason: UrlFault::Malformed };
        let Ok(url) = Url::parse(raw) else { return Err(malformed) };
        let parsed = CallbackUrl { raw: raw.to_owned(), url };
        if matches!(parsed.host(), Host::Name(name) if !is_well_formed(name)) {
            return Err(malformed);
        }
        match parsed.vet(policy) {
            Ok(()) => Ok(parsed),
            Err(refusal) => Err(UrlRefused { reason: partner_view(refusal, policy) }),
        }
    }

    /// Whether this policy lets the URL be called, as far as can be told without resolving its name.
    pub fn vet(&self, policy: &EgressPolicy) -> Result<(), Refusal> {
        if !self.is_https() && !policy.http_allowed {
            return Err(Refusal::PlainHttp);
        }
        policy.vet_port(self.port())?;
        match self.host() {
            Host::Address(address) => policy.vet_address(address),
            Host::Name(name) => vet_name(name, policy),
        }
    }

    /// Exactly what was sent.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The port named, or the scheme's own; 0, which nothing may call, could neither be known.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(0)
    }

    pub fn host(&self) -> Host<'_> {
        match self.url.host() {
            Some(url::Host::Ipv4(address)) => Host::Address(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Host::Address(IpAddr::V6(address)),
            Some(url::Host::Domain(name)) => Host::Name(name),
            // URLs of these schemes always have one; the empty name is refused everywhere.
            None => Host::Name(""),
        }
    }

    /// Scheme, host and port: what requests that may share a connection have in common.
    pub fn origin(&self) -> &str {
        &self.url[..Position::AfterPort]
    }

    /// The `Host` header: the host, and the port unless it is the scheme's own.
    pub fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// The path and query of the request line, percent-encoded.
    pub fn request_target(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }
}

/// A callback's path or query often holds a token of its owner's making, so only the origin is shown.
impl std::fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CallbackUrl({}://{}/…)", self.url.scheme(), self.authority())
    }
}

impl UrlRefused {
    /// The operator's view, where the partner's is deliberately vague.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.reason {
            UrlFault::Address(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// What must be seen before a parser has tidied it away.
fn check_raw(raw: &str, policy: &EgressPolicy) -> Result<(), UrlFault> {
    if raw.chars().count() > URL_CHARS_MAX {
        return Err(UrlFault::TooLong);
    }
    if raw.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(UrlFault::ForbiddenCharacter);
    }
    let not_ours = if policy.http_allowed { UrlFault::NotHttp } else { UrlFault::NotHttps };
    // The parser would also take `https:host`, `https:/host` and `https:///host` for `https://host`.
    let Some((scheme, rest)) = raw.split_once("://") else { return Err(not_ours) };
    let scheme_allowed =
        scheme.eq_ignore_ascii_case("https") || (policy.http_allowed && scheme.eq_ignore_ascii_case("http"));
    if !scheme_allowed {
        return Err(not_ours);
    }
    if raw.contains('#') {
        return Err(UrlFault::Fragment);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(UrlFault::UserInformation);
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err(UrlFault::Malformed);
    }
    Ok(())
}

/// Whether DNS could hold the name: labels of 1 to 63 bytes, 253 in all, one trailing dot at most.
fn is_well_formed(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

fn vet_name(name: &str, policy: &EgressPolicy) -> Result<(), Refusal> {
    if policy.loopback_allowed {
        return Ok(());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.rsplit_once('.').map_or(name, |(_, last)| last) {
        "localhost" => Err(Refusal::LoopbackName),
        last if last == name => Err(Refusal::SingleLabelName),
        _ => Ok(()),
    }
}

fn partner_view(refusal: Refusal, policy: &EgressPolicy) -> UrlFault {
    match refusal {
        Refusal::PlainHttp => UrlFault::NotHttps,
        Refusal::Port(_) => UrlFault::Port(match &policy.ports {
            PortRule::Any => "1 to 65535".to_owned(),
            PortRule::Only(ports) => ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
        }),
        Refusal::Address { .. } | Refusal::LoopbackName | Refusal::SingleLabelName => {
            UrlFault::Address(refusal)
        }
    }
}

#[cfg(test)]
#[path = "callback_url_tests.rs"]
mod tests;
