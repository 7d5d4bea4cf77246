//! The URL guard and the address rule, against a model that knows nothing but characters and ranges of numbers: what is taken has no user
//! information, no fragment and no control character, and is no spelling of an address that may not be called.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use herald::domain::callback_url::{CallbackUrl, Host};
use herald::domain::egress::{EgressPolicy, Nat64Prefix, PortRule};
use libfuzzer_sys::fuzz_target;

static POLICIES: LazyLock<[EgressPolicy; 3]> = LazyLock::new(|| {
    let operator = EgressPolicy {
        allow: vec!["10.1.0.0/16".parse().expect("a network")],
        ports: PortRule::Only(vec![443, 8080]),
        http_allowed: true,
        loopback_allowed: false,
        nat64_prefix: Nat64Prefix::parse("64:ff9b::/96").ok(),
    };
    [EgressPolicy::production(), EgressPolicy::development(), operator]
});

fuzz_target!(|bytes: &[u8]| {
    for address in addresses(bytes) {
        for policy in &*POLICIES {
            let taken = policy.vet_address(address).is_ok();
            assert_eq!(taken, may_be_called(address, policy), "{address} under {policy:?}");
        }
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    for raw in
        [format!("https://{text}"), format!("https://{text}/hook"), format!("https://a.example/{text}"), text]
    {
        for policy in &*POLICIES {
            if let Ok(url) = CallbackUrl::parse(&raw, policy) {
                judge(&raw, &url, policy);
            }
        }
        // There is one way in: a stored URL that today's policy admits is one that today's policy would have taken.
        let stored = CallbackUrl::parse(&raw, &POLICIES[1]);
        let admitted = stored.is_ok_and(|url| url.vet(&POLICIES[0]).is_ok());
        assert_eq!(CallbackUrl::parse(&raw, &POLICIES[0]).is_ok(), admitted, "{raw:?}");
    }
});

fn judge(raw: &str, url: &CallbackUrl, policy: &EgressPolicy) {
    assert_eq!(url.as_str(), raw);
    assert!(raw.chars().count() <= 2_048);
    assert!(!raw.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\' || c == '#'), "{raw:?}");
    let (scheme, rest) = raw.split_once("://").expect("an absolute URL");
    assert_eq!(scheme.to_ascii_lowercase(), if url.is_https() { "https" } else { "http" });
    assert!(url.is_https() || policy.http_allowed, "{raw:?}");
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    assert!(!authority.contains('@'), "{raw:?}");

    // The same host as whoever reads the text without a URL parser sees.
    let is_plain = authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    let host = authority.split(':').next().unwrap_or_default();
    match url.host() {
        Host::Address(address) => {
            assert!(may_be_called(address, policy), "{raw:?} is {address}");
            if is_plain {
                assert_eq!(number(host).map(IpAddr::V4), Some(address), "{raw:?}");
            }
        }
        Host::Name(name) => {
            assert_eq!(number(name), None, "{raw:?} is called at {name:?}");
            assert!(name.len() <= 254 && !name.is_empty(), "{name:?}");
            let forbidden = |byte: u8| {
                !byte.is_ascii_graphic() || byte.is_ascii_uppercase() || b"%@/:\\[]?#<>^|".contains(&byte)
            };
            assert!(!name.bytes().any(forbidden), "{name:?}");
            if is_plain && !host.to_ascii_lowercase().contains("xn--") {
                assert_eq!(name, host.to_ascii_lowercase());
            }
            let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
            assert!(labels.iter().all(|label| (1..=63).contains(&label.len())), "{name:?}");
            assert!(
                policy.loopback_allowed || (labels.len() > 1 && labels.last() != Some(&"localhost")),
                "{name:?}"
            );
        }
    }
    if is_plain {
        let named = authority.split_once(':').map_or("", |(_, port)| port);
        let port =
            if named.is_empty() { if url.is_https() { Ok(443) } else { Ok(80) } } else { named.parse() };
        assert_eq!(Ok(url.port()), port, "{raw:?}");
    }
    let allowed = match &policy.ports {
        PortRule::Any => url.port() != 0,
        PortRule::Only(ports) => ports.contains(&url.port()),
    };
    assert!(allowed, "{raw:?}");

    // What goes on the wire is one word each, and leads back to the same place.
    let (target, authority) = (url.request_target(), url.authority());
    assert!(
        target.starts_with('/')
            && !target.contains('#')
            && target.bytes().all(|byte| byte.is_ascii_graphic()),
        "{target:?}"
    );
    assert!(
        !authority.contains(['@', '/', '?', '#', '\\'])
            && authority.bytes().all(|byte| byte.is_ascii_graphic()),
        "{authority:?}"
    );
    let sent = format!("{}{target}", url.origin());
    assert_eq!(url.origin(), format!("{}://{authority}", if url.is_https() { "https" } else { "http" }));
    // Percent-encoding may have made it too long to be taken once more.
    if sent.len() <= 2_048 {
        let again = CallbackUrl::parse(&sent, policy)
            .unwrap_or_else(|refused| panic!("{refused}: {sent:?} from {raw:?}"));
        assert_eq!(
            (again.host(), again.port(), again.request_target()),
            (url.host(), url.port(), target),
            "{raw:?}"
        );
    }
}

/// An IPv4 address in any spelling that the C library takes: one to four parts, each decimal, octal or hexadecimal, the last as long as need be.
fn number(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = host.strip_suffix('.').unwrap_or(host).split('.').collect();
    let (last, firsts) = parts.split_last().filter(|(_, firsts)| firsts.len() < 4)?;
    let mut whole = 0;
    for (place, part) in firsts.iter().enumerate() {
        whole += part_value(part).filter(|value| *value < 256)? << (24 - 8 * place);
    }
    let last = part_value(last).filter(|value| *value < 1 << (32 - 8 * firsts.len()))?;
    u32::try_from(whole + last).ok().map(Ipv4Addr::from)
}

fn part_value(part: &str) -> Option<u64> {
    let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some("") => ("0", 16),
        Some(digits) => (digits, 16),
        None if part.len() > 1 && part.starts_with('0') => (part, 8),
        None => (part, 10),
    };
    (!digits.starts_with('+')).then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// Addresses made of the input: as they stand, and an IPv4 one in the places where an IPv6 one can hide it.
fn addresses(bytes: &[u8]) -> Vec<IpAddr> {
    let mut octets = [0; 16];
    let filled = bytes.len().min(16);
    octets[..filled].copy_from_slice(&bytes[..filled]);
    let [a, b, c, d, rest @ ..] = octets;
    let v4 = Ipv4Addr::new(a, b, c, d);
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let noise = u16::from_be_bytes([rest[0], rest[1]]);
    let mut all = vec![IpAddr::V4(v4), IpAddr::V6(Ipv6Addr::from(octets)), IpAddr::V6(v4.to_ipv6_mapped())];
    for hidden in [
        [0, 0, 0, 0, 0, 0, high, low],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low],
        [0x64, 0xff9b, 1, 0, 0, 0, high, low],
        [0x64, 0xff9b, 0, 0, 0, noise, high, low],
        [0x2002, high, low, noise, 0, 0, 0, 1],
        [0x2001, noise, 0, 0, 0, 0, high, low],
        [0x3fff, noise, 0, 0, 0, 0, 0, 1],
    ] {
        all.push(IpAddr::from(hidden));
    }
    all
}

/// First and last address of what is not the public Internet.
const DENIED: [[[u8; 4]; 2]; 16] = [
    [[0, 0, 0, 0], [0, 255, 255, 255]],
    [[10, 0, 0, 0], [10, 255, 255, 255]],
    [[100, 64, 0, 0], [100, 127, 255, 255]],
    [[127, 0, 0, 0], [127, 255, 255, 255]],
    [[168, 63, 129, 16], [168, 63, 129, 16]],
    [[169, 254, 0, 0], [169, 254, 255, 255]],
    [[172, 16, 0, 0], [172, 31, 255, 255]],
    [[192, 0, 0, 0], [192, 0, 0, 255]],
    [[192, 0, 2, 0], [192, 0, 2, 255]],
    [[192, 88, 99, 0], [192, 88, 99, 255]],
    [[192, 168, 0, 0], [192, 168, 255, 255]],
    [[198, 18, 0, 0], [198, 19, 255, 255]],
    [[198, 51, 100, 0], [198, 51, 100, 255]],
    [[203, 0, 113, 0], [203, 0, 113, 255]],
    [[224, 0, 0, 0], [239, 255, 255, 255]],
    [[240, 0, 0, 0], [255, 255, 255, 255]],
];

/// The rule, counted out: for the three policies above and no others.
fn may_be_called(address: IpAddr, policy: &EgressPolicy) -> bool {
    let is_operator = policy.nat64_prefix.is_some();
    match address {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            let denied = DENIED.iter().any(|[first, last]| (*first..=*last).contains(&octets));
            (is_operator && octets[..2] == [10, 1])
                || (policy.loopback_allowed && octets[0] == 127)
                || !denied
        }
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] if is_operator => {
                let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
                may_be_called(IpAddr::from([a, b, c, d]), policy)
            }
            [0, 0, 0, 0, 0, 0, 0, 1] => policy.loopback_allowed,
            [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
            [first, ..] => (0x2000..=0x3fff).contains(&first),
        },
    }
}
