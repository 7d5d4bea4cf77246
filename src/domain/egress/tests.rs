//! Every network from edge to edge, written out rather than computed from the table under test, and a model that shares nothing with it.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn verdicts(policy: &EgressPolicy, addresses: &[&str]) -> Vec<(String, bool)> {
    addresses.iter().map(|a| (a.to_string(), policy.vet_address(ip(a)).is_ok())).collect()
}

fn all(addresses: &[&str], verdict: bool) -> Vec<(String, bool)> {
    addresses.iter().map(|a| (a.to_string(), verdict)).collect()
}

/// The address before a denied network, its first, its last, and the one after. An empty text is a neighbour that does not exist or is denied
/// by another line.
const EDGES: [(&str, &str, &str, &str); 22] = [
    ("", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
    ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
    ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
    ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
    ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
    ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
    ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
    ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
    ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
    ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
    ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
    ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
    ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
    ("223.255.255.255", "224.0.0.0", "239.255.255.255", ""),
    ("", "240.0.0.0", "255.255.255.255", ""),
    ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
    ("", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
    (
        "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001::",
        "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:200::",
    ),
    (
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db9::",
    ),
    (
        "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002::",
        "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2003::",
    ),
    (
        "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "3fff::",
        "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        "3fff:1000::",
    ),
    ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
];

/// Well-known places in the denied networks.
const REFUSED: &[&str] = &[
    "127.0.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "192.0.0.192",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::808:808",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "fec0::1",
    "ff02::1",
];

const ADMITTED: &[&str] =
    &["1.1.1.1", "8.8.8.8", "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450::1", "3ffe::1"];

/// Every address named above, and whether it may be called.
fn named() -> impl Iterator<Item = (&'static str, bool)> {
    let edges = EDGES.iter().flat_map(|(before, first, last, after)| {
        [(*before, true), (*first, false), (*last, false), (*after, true)]
    });
    let places = REFUSED.iter().map(|one| (*one, false)).chain(ADMITTED.iter().map(|one| (*one, true)));
    edges.filter(|(address, _)| !address.is_empty()).chain(places)
}

#[test]
fn rule_02_denied_networks_from_edge_to_edge() {
    let policy = EgressPolicy::production();
    for (address, admitted) in named() {
        assert_eq!(policy.vet_address(ip(address)).is_ok(), admitted, "{address}");
    }
}

#[test]
fn rule_02_development_differs_by_loopback_alone() {
    let (production, development) = (EgressPolicy::production(), EgressPolicy::development());
    for (address, admitted) in named() {
        let expected = address == "::1" || address.starts_with("127.") || admitted;
        assert_eq!(development.vet_address(ip(address)).is_ok(), expected, "{address}");
    }
    assert!(development.vet_address(ip("127.0.0.0")).is_ok() && production.vet_address(ip("::1")).is_err());
}

#[test]
fn rule_02_operators_allow_networks() {
    let mut policy = EgressPolicy::production();
    policy.allow = vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()];
    let reached = ["10.1.0.0", "10.1.255.255", "fd00:1::5", "8.8.8.8"];
    let refused = ["10.0.255.255", "10.2.0.0", "fd00:2::5", "127.0.0.1", "::ffff:10.1.0.1", "::10.1.0.1"];
    assert_eq!(verdicts(&policy, &reached), all(&reached, true));
    assert_eq!(verdicts(&policy, &refused), all(&refused, false));
}

#[test]
fn rule_02_nat64_addresses_are_judged_by_the_ipv4_inside() {
    let mut policy = EgressPolicy::production();
    policy.nat64_prefix = Some(Nat64Prefix::parse("64:ff9b::/96").unwrap());
    policy.allow = vec!["10.1.0.0/16".parse().unwrap()];
    let reached = ["64:ff9b::8.8.8.8", "64:ff9b::10.1.2.3"];
    let refused = [
        "64:ff9b::169.254.169.254",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::1:8.8.8.8",
        "64:ff9b:1::8.8.8.8",
    ];
    assert_eq!(verdicts(&policy, &reached), all(&reached, true));
    assert_eq!(verdicts(&policy, &refused), all(&refused, false));
    // A prefix of the network's own lies among public addresses, and what is in it is judged all the same.
    policy.nat64_prefix = Some(Nat64Prefix::parse("2a00:1:2::/96").unwrap());
    let (reached, refused) = (["2a00:1:2::8.8.8.8", "2a00:1:2::1:10.0.0.1"], ["2a00:1:2::10.0.0.1"]);
    assert_eq!(verdicts(&policy, &reached), all(&reached, true));
    assert_eq!(verdicts(&policy, &refused), all(&refused, false));
}

#[test]
fn a_nat64_prefix_is_a_96() {
    for (text, good) in [
        ("64:ff9b::/96", true),
        (" 2001:db8:1::/96 ", true),
        ("64:ff9b::/64", false),
        ("64:ff9b::/95", false),
        ("64:ff9b::/97", false),
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

/// The rule once more, as plain as it can be said, over the numbers themselves.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [0 | 10 | 127 | 224..=255, ..] => false,
            [100, second, ..] => !(64..=127).contains(&second),
            [168, 63, 129, 16] | [169, 254, ..] => false,
            [172, second, ..] => !(16..=31).contains(&second),
            [192, 0, 0 | 2, _] | [192, 88, 99, _] | [192, 168, ..] => false,
            [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => false,
            _ => true,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
            [0x3fff, second, ..] => second >= 0x1000,
            [first, ..] => (0x2000..=0x3fff).contains(&first) && first != 0x2002,
        },
    }
}

/// Bit by bit.
fn is_in(address: IpAddr, net: &IpNet) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (left, right) = (bits(address), bits(net.addr()));
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    left.len() == right.len()
        && (0..usize::from(net.prefix_len())).all(|at| bit(&left, at) == bit(&right, at))
}

/// What the policy says, with the prefix as the twelve bytes in front of an IPv4 address.
fn may_be_called(policy: &EgressPolicy, prefix: Option<[u8; 12]>, address: IpAddr) -> bool {
    let vouched_for = |address: IpAddr| {
        let is_loopback = match address {
            IpAddr::V4(v4) => v4.octets()[0] == 127,
            IpAddr::V6(v6) => u128::from(v6) == 1,
        };
        policy.allow.iter().any(|net| is_in(address, net)) || (policy.loopback_allowed && is_loopback)
    };
    let judged = match (address, prefix) {
        (IpAddr::V6(v6), Some(prefix)) if v6.octets().starts_with(&prefix) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::from([a, b, c, d])
        }
        _ => address,
    };
    vouched_for(address) || vouched_for(judged) || is_public(judged)
}

const PREFIXES: [&str; 3] = ["64:ff9b::", "2a00:1:2::", "fd00:64::"];
const ALLOWED: [&str; 7] = [
    "10.0.0.0/8",
    "10.255.0.0/17",
    "127.0.0.0/30",
    "169.254.169.254/32",
    "fc00::/7",
    "64:ff9b::/120",
    "::/0",
];

prop_compose! {
    /// Anything, or something close to an edge, or either of them behind a prefix.
    fn address()(
        named in select(named().map(|(address, _)| ip(address)).collect::<Vec<_>>()),
        away in -2i8..=2,
        front in select(PREFIXES.to_vec()),
        any: u128,
        kind in 0..6,
    ) -> IpAddr {
        let near = match named {
            IpAddr::V4(v4) => IpAddr::from(u32::from(v4).wrapping_add_signed(away.into()).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from(u128::from(v6).wrapping_add_signed(away.into()).to_be_bytes()),
        };
        let low = any as u32;
        let behind = |v4: u32| match ip(front) {
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) | u128::from(v4)).to_be_bytes()),
            v4 => v4,
        };
        match (kind, near) {
            (0, _) => IpAddr::from(any.to_be_bytes()),
            (1, _) => IpAddr::from(low.to_be_bytes()),
            (2, _) => behind(low),
            (3, IpAddr::V4(v4)) => behind(v4.into()),
            _ => near,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn rule_02_the_policy_does_what_a_plain_model_of_it_does(
        address in address(),
        allow in prop::collection::vec(select(ALLOWED.to_vec()), 0..3),
        prefix in prop::option::of(select(PREFIXES.to_vec())),
        loopback_allowed: bool,
    ) {
        let policy = EgressPolicy {
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            nat64_prefix: prefix.map(|prefix| Nat64Prefix::parse(&format!("{prefix}/96")).unwrap()),
            loopback_allowed,
            ..EgressPolicy::production()
        };
        let front = prefix.map(|prefix| match ip(prefix) {
            IpAddr::V6(v6) => *v6.octets().first_chunk().unwrap(),
            IpAddr::V4(_) => unreachable!("prefixes are IPv6"),
        });
        let verdict = policy.vet_address(address);
        prop_assert_eq!(verdict.is_ok(), may_be_called(&policy, front, address), "{}: {:?}", address, verdict);
    }
}
