//! Which addresses, ports and schemes an outbound call may use. One policy object answers for every call Herald makes.
//!
//! It judges addresses, not names: resolving belongs to `engine::outbound`, which asks here about every address
//! it was given, again for each new connection. It does not know who is asking; partners cannot change a policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// What the operator allows outbound calls to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Networks the operator vouches for; they win over every denial below.
    pub allow: Vec<IpNet>,
    pub ports: PortRule,
    /// Plain `http` beside `https`.
    pub http_allowed: bool,
    /// Development only: 127/8, `::1`, `localhost` and single-label names.
    pub loopback_allowed: bool,
    /// Where this network translates IPv6 to IPv4, addresses in the prefix are judged by the IPv4 inside.
    pub nat64_prefix: Option<Nat64Prefix>,
}

/// The ports a callback may name. Port 0 is never one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRule {
    Any,
    Only(Vec<u16>),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ports are `any` or a list of numbers from 1 to 65535, such as 443,8443")]
pub struct NotAPortList;

impl PortRule {
    /// `any`, or numbers with commas between them.
    pub fn parse(text: &str) -> Result<PortRule, NotAPortList> {
        if text.trim().eq_ignore_ascii_case("any") {
            return Ok(PortRule::Any);
        }
        let port = |item: &str| item.trim().parse().ok().filter(|port| *port != 0).ok_or(NotAPortList);
        text.split(',').map(port).collect::<Result<_, _>>().map(PortRule::Only)
    }
}

/// Why a call is not made: the operator's view. Partners see one sentence for all of them (`callback_url`).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("{address} is not called: {why}")]
    Address { address: IpAddr, why: &'static str },
    #[error("port {0} is not among the allowed ports")]
    Port(u16),
    #[error("plain http is not allowed")]
    PlainHttp,
    #[error("the host is a name for this machine")]
    LoopbackName,
    #[error("a host name of a single label is not a public name")]
    SingleLabelName,
}

/// A `/96` whose last four bytes are an IPv4 address (RFC 6052; other lengths exist, no deployment we know needs them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64Prefix(Ipv6Net);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a NAT64 prefix is an IPv6 network of length 96, such as 64:ff9b::/96")]
pub struct NotANat64Prefix;

impl Nat64Prefix {
    pub fn parse(text: &str) -> Result<Nat64Prefix, NotANat64Prefix> {
        match text.trim().parse::<Ipv6Net>() {
            Ok(net) if net.prefix_len() == 96 => Ok(Nat64Prefix(net.trunc())),
            _ => Err(NotANat64Prefix),
        }
    }

    fn embedded(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let [.., a, b, c, d] = address.octets();
        self.0.contains(&address).then(|| Ipv4Addr::new(a, b, c, d))
    }
}

impl EgressPolicy {
    /// Public addresses, https, ports 443 and 8443: what holds when the operator says nothing.
    pub fn production() -> EgressPolicy {
        EgressPolicy {
            allow: Vec::new(),
            ports: PortRule::Only(vec![443, 8443]),
            http_allowed: false,
            loopback_allowed: false,
            nat64_prefix: None,
        }
    }

    /// As production, and loopback, plain http and any port for receivers on the developer's own machine.
    pub fn development() -> EgressPolicy {
        EgressPolicy {
            ports: PortRule::Any,
            http_allowed: true,
            loopback_allowed: true,
            ..EgressPolicy::production()
        }
    }

    /// Whether a connection to this address may be opened.
    pub fn vet_address(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.allow.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        if self.loopback_allowed && address.is_loopback() {
            return Ok(());
        }
        let denied = match address {
            IpAddr::V4(v4) => denied_v4(v4),
            IpAddr::V6(v6) => match self.nat64_prefix.and_then(|prefix| prefix.embedded(v6)) {
                Some(inner) => return self.vet_address(IpAddr::V4(inner)),
                None => denied_v6(v6),
            },
        };
        match denied {
            Some(why) => Err(Refusal::Address { address, why }),
            None => Ok(()),
        }
    }

    pub fn vet_port(&self, port: u16) -> Result<(), Refusal> {
        match &self.ports {
            _ if port == 0 => Err(Refusal::Port(port)),
            PortRule::Only(ports) if !ports.contains(&port) => Err(Refusal::Port(port)),
            PortRule::Only(_) | PortRule::Any => Ok(()),
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

const fn v6(a: u16, b: u16, prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix_len)
}

/// Everything that is not the public IPv4 Internet, and the one public address behind which a cloud keeps its host agent.
const DENIED_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "0.0.0.0/8 means this host"),
    (v4(10, 0, 0, 0, 8), "10.0.0.0/8 is private"),
    (v4(100, 64, 0, 0, 10), "100.64.0.0/10 is shared carrier space"),
    (v4(127, 0, 0, 0, 8), "127.0.0.0/8 is loopback"),
    (v4(169, 254, 0, 0, 16), "169.254.0.0/16 is link-local and holds cloud metadata"),
    (v4(172, 16, 0, 0, 12), "172.16.0.0/12 is private"),
    (v4(192, 0, 0, 0, 24), "192.0.0.0/24 is for protocol assignments"),
    (v4(192, 0, 2, 0, 24), "192.0.2.0/24 is documentation"),
    (v4(192, 88, 99, 0, 24), "192.88.99.0/24 is a retired 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "192.168.0.0/16 is private"),
    (v4(198, 18, 0, 0, 15), "198.18.0.0/15 is for benchmarks"),
    (v4(198, 51, 100, 0, 24), "198.51.100.0/24 is documentation"),
    (v4(203, 0, 113, 0, 24), "203.0.113.0/24 is documentation"),
    (v4(224, 0, 0, 0, 4), "224.0.0.0/4 is multicast"),
    (v4(240, 0, 0, 0, 4), "240.0.0.0/4 is reserved or broadcast"),
    (v4(168, 63, 129, 16, 32), "168.63.129.16 is a cloud's host agent"),
];

/// The only unicast space handed out so far. Mapped, compatible, NAT64, unique-local, link-local, site-local
/// and multicast addresses lie outside it, so they need no entries of their own.
const GLOBAL_UNICAST_V6: Ipv6Net = v6(0x2000, 0, 3);

const DENIED_V6: [(Ipv6Net, &str); 4] = [
    (v6(0x2001, 0, 23), "2001::/23 is for protocol assignments, Teredo among them"),
    (v6(0x2001, 0x0db8, 32), "2001:db8::/32 is documentation"),
    (v6(0x2002, 0, 16), "2002::/16 is 6to4 and carries an IPv4 address"),
    (v6(0x3fff, 0, 20), "3fff::/20 is documentation"),
];

fn denied_v4(address: Ipv4Addr) -> Option<&'static str> {
    DENIED_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why)
}

fn denied_v6(address: Ipv6Addr) -> Option<&'static str> {
    if !GLOBAL_UNICAST_V6.contains(&address) {
        return Some("it is outside 2000::/3, the global unicast space");
    }
    DENIED_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests;
