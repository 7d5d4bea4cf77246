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
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn verdicts(policy: &EgressPolicy, addresses: &[&str]) -> Vec<(String, bool)> {
        addresses.iter().map(|a| (a.to_string(), policy.vet_address(ip(a)).is_ok())).collect()
    }

    fn all(addresses: &[&str], verdict: bool) -> Vec<(String, bool)> {
        addresses.iter().map(|a| (a.to_string(), verdict)).collect()
    }

    /// First and last address of each denied network, written out rather than computed from the table under test.
    const REFUSED: &[&str] = &[
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.255",
        "192.0.2.0",
        "192.0.2.255",
        "192.88.99.0",
        "192.88.99.255",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.0",
        "198.51.100.255",
        "203.0.113.0",
        "203.0.113.255",
        "224.0.0.0",
        "239.255.255.255",
        "240.0.0.0",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::808:808",
        "64:ff9b:1::808:808",
        "100::1",
        "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001::1",
        "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8::1",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];

    /// The neighbours just outside each denied network.
    const ADMITTED: &[&str] = &[
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "168.63.129.15",
        "168.63.129.17",
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2001:db7:ffff::1",
        "2001:db9::1",
        "2003::1",
        "2606:4700::1111",
        "3ffe:ffff::1",
        "3fff:1000::1",
    ];

    #[test]
    fn rule_02_denied_networks_from_edge_to_edge() {
        let policy = EgressPolicy::production();
        assert_eq!(verdicts(&policy, REFUSED), all(REFUSED, false));
        assert_eq!(verdicts(&policy, ADMITTED), all(ADMITTED, true));
    }

    #[test]
    fn rule_02_development_differs_by_loopback_alone() {
        let (production, development) = (EgressPolicy::production(), EgressPolicy::development());
        for address in REFUSED.iter().chain(ADMITTED) {
            let expected = ip(address).is_loopback() || production.vet_address(ip(address)).is_ok();
            assert_eq!(development.vet_address(ip(address)).is_ok(), expected, "{address}");
        }
    }

    #[test]
    fn rule_02_operators_allow_networks() {
        let mut policy = EgressPolicy::production();
        policy.allow = vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()];
        let reached = ["10.1.0.1", "10.1.255.255", "fd00:1::5", "8.8.8.8"];
        let refused = ["10.0.0.1", "10.2.0.0", "fd00:2::5", "127.0.0.1", "::ffff:10.1.0.1"];
        assert_eq!(verdicts(&policy, &reached), all(&reached, true));
        assert_eq!(verdicts(&policy, &refused), all(&refused, false));
    }

    #[test]
    fn rule_02_nat64_addresses_are_judged_by_the_ipv4_inside() {
        let mut policy = EgressPolicy::production();
        policy.nat64_prefix = Some(Nat64Prefix::parse("64:ff9b::/96").unwrap());
        policy.allow = vec!["10.1.0.0/16".parse().unwrap()];
        let reached = ["64:ff9b::8.8.8.8", "64:ff9b::10.1.2.3"];
        let refused =
            ["64:ff9b::169.254.169.254", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8"];
        assert_eq!(verdicts(&policy, &reached), all(&reached, true));
        assert_eq!(verdicts(&policy, &refused), all(&refused, false));
    }

    #[test]
    fn a_nat64_prefix_is_a_96() {
        for (text, good) in [
            ("64:ff9b::/96", true),
            (" 2001:db8:1::/96 ", true),
            ("64:ff9b::/64", false),
            ("64:ff9b::", false),
            ("10.0.0.0/8", false),
            ("", false),
        ] {
            assert_eq!(Nat64Prefix::parse(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn rule_04_port_lists() {
        assert_eq!(PortRule::parse(" Any"), Ok(PortRule::Any));
        assert_eq!(PortRule::parse("443, 8443"), Ok(PortRule::Only(vec![443, 8443])));
        for text in ["", ",", "443,", "0", "443,0", "65536", "-1", "any,443", "443 8443", "https"] {
            assert_eq!(PortRule::parse(text), Err(NotAPortList), "{text:?}");
        }
    }

    #[test]
    fn rule_04_ports() {
        for (policy, port, good) in [
            (EgressPolicy::production(), 443, true),
            (EgressPolicy::production(), 8443, true),
            (EgressPolicy::production(), 80, false),
            (EgressPolicy::production(), 22, false),
            (EgressPolicy::production(), 0, false),
            (EgressPolicy::development(), 22, true),
            (EgressPolicy::development(), 0, false),
            (EgressPolicy { ports: PortRule::Only(vec![0, 80]), ..EgressPolicy::production() }, 0, false),
            (EgressPolicy { ports: PortRule::Only(vec![0, 80]), ..EgressPolicy::production() }, 80, true),
        ] {
            assert_eq!(policy.vet_port(port).is_ok(), good, "{port} under {policy:?}");
        }
    }
}
