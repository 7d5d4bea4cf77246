//! Where outgoing calls go through, if the operator's network has them go through something: an HTTP proxy that opens tunnels.
//!
//! It is set explicitly, never taken from the environment, and holds no credentials. Names are resolved by it, so it has to keep the rule
//! about addresses; literals are judged here before it is asked.

use url::{Host, Url};

/// An `http` proxy: its host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressProxy {
    host: String,
    port: u16,
}

impl EgressProxy {
    /// Reads `http://host:port`, with nothing before, between or after that. `None` for anything else.
    pub fn parse(text: &str) -> Option<EgressProxy> {
        let url = Url::parse(text).ok()?;
        let bare = url.scheme() == "http"
            && url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        let host = match url.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let port = url.port_or_known_default().filter(|port| *port != 0)?;
        bare.then_some(EgressProxy { host, port })
    }

    /// A name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_03_a_proxy_is_a_host_and_a_port_and_nothing_else() {
        for (text, read) in [
            ("http://proxy.internal:3128", Some(("proxy.internal", 3128))),
            ("http://10.1.0.9:8080/", Some(("10.1.0.9", 8080))),
            ("http://[fd00::1]:3128", Some(("fd00::1", 3128))),
            ("http://proxy.internal", Some(("proxy.internal", 80))),
            ("https://proxy.internal:3128", None),
            ("socks5://proxy.internal:1080", None),
            ("http://user:password@proxy.internal:3128", None),
            ("http://user@proxy.internal:3128", None),
            ("http://proxy.internal:3128/path", None),
            ("http://proxy.internal:3128?q", None),
            ("http://proxy.internal:3128#f", None),
            ("http://proxy.internal:0", None),
            ("proxy.internal:3128", None),
            ("", None),
        ] {
            let proxy = EgressProxy::parse(text);
            assert_eq!(proxy.as_ref().map(|proxy| (proxy.host(), proxy.port())), read, "{text}");
        }
    }
}
