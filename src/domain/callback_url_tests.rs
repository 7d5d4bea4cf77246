//! One table per kind of refusal, in the spellings that have got past other servers.

use proptest::prelude::*;

use super::*;

fn production(raw: &str) -> Result<CallbackUrl, UrlRefused> {
    CallbackUrl::parse(raw, &EgressPolicy::production())
}

fn development(raw: &str) -> Result<CallbackUrl, UrlRefused> {
    CallbackUrl::parse(raw, &EgressPolicy::development())
}

/// The partner's sentence, or "taken".
fn answer(result: Result<CallbackUrl, UrlRefused>) -> String {
    result.map_or_else(|refused| refused.to_string(), |_| "taken".to_owned())
}

/// Hosts that are loopback in disguise, or simply are.
const LOOPBACK: &[&str] = &[
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0X7F.1",
    "0x7f.0.0.0x1",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "１２７.0.0.1",
    "%31%32%37.0.0.1",
    "%31%32%37%2E0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "ⓛocalhost",
    "local\u{ad}host",
    "%6cocalhost",
    "anything.localhost",
    "a.b.localhost.",
];

/// Hosts that nobody may name in either mode.
const NEVER: &[&str] = &[
    "0",
    "0.0.0.0",
    "0x0",
    "10.0.0.1",
    "0xa.1",
    "167772161",
    "169.254.169.254",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "4294967295",
    "[::]",
    "[::7f00:1]",
    "[::127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::8.8.8.8]",
    "[2002:7f00:1::]",
    "[2001::1]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fec0::1]",
    "[ff02::1]",
];

const NOT_ALLOWED: &str = "must name a publicly reachable host: the address is not allowed";

#[test]
fn rule_01_loopback_in_every_spelling() {
    for host in LOOPBACK {
        assert_eq!(answer(production(&format!("https://{host}/hook"))), NOT_ALLOWED, "{host}");
        assert_eq!(answer(production(&format!("https://{host}:8443"))), NOT_ALLOWED, "{host}");
        assert_eq!(answer(development(&format!("http://{host}:9000/hook"))), "taken", "{host}");
    }
}

#[test]
fn rule_01_private_and_reserved_literals_in_both_modes() {
    for host in NEVER {
        assert_eq!(answer(production(&format!("https://{host}/hook"))), NOT_ALLOWED, "{host}");
        assert_eq!(answer(development(&format!("http://{host}/hook"))), NOT_ALLOWED, "{host}");
    }
}

#[test]
fn rule_02_operators_allow_literals_by_network() {
    let mut policy = EgressPolicy::production();
    policy.allow = vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
    for (raw, good) in [
        ("https://10.1.2.3/", true),
        ("https://0xa010203/", true),
        ("https://127.1/", true),
        ("https://192.168.1.1/", false),
        ("https://[::ffff:10.1.2.3]/", false),
        ("https://localhost/", false),
    ] {
        assert_eq!(CallbackUrl::parse(raw, &policy).is_ok(), good, "{raw}");
    }
}

#[test]
fn rule_04_what_is_taken_is_echoed() {
    for (raw, host, port, target) in [
        ("https://partner.example/hook", Host::Name("partner.example"), 443, "/hook"),
        ("https://partner.example", Host::Name("partner.example"), 443, "/"),
        ("HTTPS://Partner.Example:443/A/../b?q=1", Host::Name("partner.example"), 443, "/b?q=1"),
        ("https://partner.example.:8443?x", Host::Name("partner.example."), 8443, "/?x"),
        ("https://bücher.example/ä?ö={}", Host::Name("xn--bcher-kva.example"), 443, "/%C3%A4?%C3%B6={}"),
        ("https://8.8.8.8/@user", Host::Address(IpAddr::from([8, 8, 8, 8])), 443, "/@user"),
        ("https://0x08080808/", Host::Address(IpAddr::from([8, 8, 8, 8])), 443, "/"),
        ("https://my_host.example/", Host::Name("my_host.example"), 443, "/"),
    ] {
        let url = production(raw).unwrap_or_else(|refused| panic!("{raw}: {refused}"));
        assert_eq!(url.as_str(), raw);
        assert_eq!((url.host(), url.port(), url.request_target()), (host, port, target), "{raw}");
    }
}

#[test]
fn rule_04_schemes() {
    for (raw, in_production, in_development) in [
        ("http://partner.example/", "must be an absolute URL that starts with https://", "taken"),
        (
            "gopher://partner.example/",
            "must be an absolute URL that starts with https://",
            "must be an absolute URL that starts with https:// or http://",
        ),
    ] {
        assert_eq!(answer(production(raw)), in_production);
        assert_eq!(answer(development(raw)), in_development);
    }
    for raw in [
        "",
        "/",
        "//partner.example/",
        "partner.example",
        "https:partner.example",
        "https:/partner.example",
        "file:///etc/passwd",
        "ftp://partner.example/",
        "javascript:alert(1)",
        "data:text/plain,hi",
        "unix:///var/run/x.sock",
        "httpss://partner.example/",
        "ws://partner.example/",
        "blob:https://partner.example/",
        "x-https://partner.example/",
    ] {
        assert_eq!(production(raw).unwrap_err().reason, UrlFault::NotHttps, "{raw}");
        assert_eq!(development(raw).unwrap_err().reason, UrlFault::NotHttp, "{raw}");
    }
}

#[test]
fn rule_04_characters_a_parser_would_swallow() {
    for raw in [
        "ht\ntp://partner.example/",
        "https://partner.example/\r\nX-Header: 1",
        "https://part\tner.example/",
        " https://partner.example/",
        "https://partner.example/ ",
        "https://partner.example/a b",
        "https://partner.example/\u{0}",
        "https://partner.example/\u{7f}",
        "https://partner.example/\u{85}",
        "https://partner.example/\u{a0}",
        "https://partner.example/\u{2028}",
        "https://\u{3000}partner.example/",
        r"http:\\127.0.0.1\x",
        r"https:\\partner.example\x",
        r"https://partner.example\@127.0.0.1/",
        r"https://partner.example/a\b",
    ] {
        for refused in [production(raw).unwrap_err(), development(raw).unwrap_err()] {
            assert_eq!(refused.reason, UrlFault::ForbiddenCharacter, "{raw:?}");
        }
    }
}

#[test]
fn rule_04_user_information_and_fragments() {
    for (raw, reason) in [
        ("https://ok@127.0.0.1", UrlFault::UserInformation),
        ("https://user:pass@partner.example/", UrlFault::UserInformation),
        ("https://@partner.example/", UrlFault::UserInformation),
        ("https://:@partner.example/", UrlFault::UserInformation),
        ("https://partner.example@evil.example?x", UrlFault::UserInformation),
        ("https://a@b@partner.example/", UrlFault::UserInformation),
        ("https://partner.example%40evil.example/", UrlFault::Malformed),
        ("https://partner.example/#", UrlFault::Fragment),
        ("https://partner.example/a#b", UrlFault::Fragment),
        ("https://partner.example#@127.0.0.1", UrlFault::Fragment),
    ] {
        assert_eq!(production(raw).unwrap_err().reason, reason, "{raw}");
        assert_eq!(development(raw).unwrap_err().reason, reason, "{raw}");
    }
}

#[test]
fn rule_04_hosts_that_are_none() {
    let long_label = format!("https://{}.example/", "a".repeat(64));
    let long_name = format!("https://{}example/", "a.".repeat(130));
    for raw in [
        "https://",
        "https:///",
        "https:///partner.example/",
        "https://?x",
        "https://:443/",
        "https://./",
        "https://partner..example/",
        "https://partner.example../",
        "https://.partner.example/",
        "https://1.2.3.4.5/",
        "https://256.256.256.256/",
        "https://0x100000000/",
        "https://08.8.8.8/",
        "https://partner.0x7f/",
        "https://[::1/",
        "https://[]/",
        "https://[1.2.3.4]/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1%lo]/",
        "https://[v1.x]/",
        "https://%00.example/",
        "https://par%0atner.example/",
        "https://part%2fner.example/",
        "https://part<ner.example/",
        "https://xn--/",
        long_label.as_str(),
        long_name.as_str(),
    ] {
        assert_eq!(production(raw).unwrap_err().reason, UrlFault::Malformed, "{raw}");
        assert_eq!(development(raw).unwrap_err().reason, UrlFault::Malformed, "{raw}");
    }
}

#[test]
fn rule_04_single_labels_are_for_development() {
    for host in ["receiver", "receiver.", "db", "metadata", "com."] {
        assert_eq!(answer(production(&format!("https://{host}/"))), NOT_ALLOWED, "{host}");
        assert_eq!(answer(development(&format!("http://{host}/"))), "taken", "{host}");
    }
}

#[test]
fn rule_04_ports() {
    for (raw, in_production, in_development) in [
        ("https://partner.example:443/", "taken", "taken"),
        ("https://partner.example:8443/", "taken", "taken"),
        ("https://partner.example:/", "taken", "taken"),
        (
            "https://partner.example:0/",
            "must use an allowed port (443, 8443)",
            "must use an allowed port (1 to 65535)",
        ),
        (
            "https://partner.example:00/",
            "must use an allowed port (443, 8443)",
            "must use an allowed port (1 to 65535)",
        ),
        ("https://partner.example:22/", "must use an allowed port (443, 8443)", "taken"),
        ("https://partner.example:80/", "must use an allowed port (443, 8443)", "taken"),
        (
            "https://partner.example:65536/",
            "must be a valid URL with a host",
            "must be a valid URL with a host",
        ),
        ("https://partner.example:-1/", "must be a valid URL with a host", "must be a valid URL with a host"),
    ] {
        assert_eq!(answer(production(raw)), in_production, "{raw}");
        assert_eq!(answer(development(raw)), in_development, "{raw}");
    }
}

#[test]
fn rule_04_http_when_the_operator_says_so() {
    let policy = EgressPolicy {
        http_allowed: true,
        ports: PortRule::Only(vec![80, 443]),
        ..EgressPolicy::production()
    };
    for (raw, good) in [
        ("http://partner.example/", true),
        ("https://partner.example/", true),
        ("http://127.0.0.1/", false),
        ("http://localhost/", false),
        ("http://partner.example:8080/", false),
    ] {
        assert_eq!(CallbackUrl::parse(raw, &policy).is_ok(), good, "{raw}");
    }
}

#[test]
fn rule_04_length_in_characters() {
    let exactly = |chars: usize, filler: &str| {
        let start = "https://partner.example/";
        format!("{start}{}", filler.repeat(chars - start.len()))
    };
    for filler in ["a", "ä"] {
        assert_eq!(answer(production(&exactly(2_048, filler))), "taken");
        assert_eq!(production(&exactly(2_049, filler)).unwrap_err().reason, UrlFault::TooLong);
    }
}

#[test]
fn rule_06_every_blocked_host_gets_the_same_sentence() {
    let sentences: std::collections::BTreeSet<String> = LOOPBACK
        .iter()
        .chain(NEVER)
        .chain(&["receiver"])
        .map(|host| answer(production(&format!("https://{host}/"))))
        .collect();
    assert_eq!(sentences.len(), 1);
    let refused = production("https://169.254.169.254/").unwrap_err();
    assert!(refused.refusal().unwrap().to_string().contains("link-local"), "the operator sees which");
    assert!(!refused.to_string().contains("link-local"));
}

#[test]
fn rule_10_a_token_in_the_path_is_not_in_debug_output() {
    let url = production("https://partner.example/hook/canary-token?key=canary-key").unwrap();
    assert_eq!(format!("{url:?}"), "CallbackUrl(https://partner.example/…)");
}

#[test]
fn a_stored_url_is_judged_by_todays_policy() {
    let url = development("http://127.0.0.1:9000/").unwrap();
    assert!(url.vet(&EgressPolicy::development()).is_ok());
    assert_eq!(url.vet(&EgressPolicy::production()), Err(Refusal::PlainHttp));
}

#[test]
fn urls_share_an_origin_if_scheme_host_and_port_are_the_same_and_only_then() {
    let origin = |raw: &str| development(raw).unwrap().origin().to_owned();
    assert_eq!(origin("https://a.example/x?y"), "https://a.example");
    assert_eq!(origin("https://A.example:443/z"), "https://a.example", "in one spelling");
    for other in ["https://b.example/x", "https://a.example:8443/x", "http://a.example/x"] {
        assert_ne!(origin(other), origin("https://a.example/x"), "{other}");
    }
}

proptest! {
    #[test]
    fn rule_01_any_spelling_of_an_ipv4_address_is_judged_as_that_address(octets: [u8; 4], spelling in 0..6) {
        let [a, b, c, d] = octets;
        let number = u32::from_be_bytes(octets);
        let host = match spelling {
            0 => format!("{number}"),
            1 => format!("{number:#x}"),
            2 => format!("0{number:o}"),
            3 => format!("{a:#x}.{b}.0{c:o}.{d}."),
            4 => format!("{a}.{}", number & 0xff_ffff),
            _ => format!("{a}.{b}.{}", number & 0xffff),
        };
        let policy = EgressPolicy::production();
        let expected = policy.vet_address(IpAddr::from(octets)).is_ok();
        prop_assert_eq!(CallbackUrl::parse(&format!("https://{host}/"), &policy).is_ok(), expected, "{}", host);
    }

    #[test]
    fn rule_04_whatever_is_taken_can_be_put_on_a_request_line(tail in "[!-~äß€😀]{0,60}") {
        if let Ok(url) = production(&format!("https://partner.example/{tail}")) {
            prop_assert!(url.request_target().bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(url.request_target().starts_with('/'));
            prop_assert_eq!(url.authority(), "partner.example");
        }
    }

    #[test]
    fn rule_04_nothing_panics(raw in "\\PC{0,80}") {
        let _ = production(&raw);
        let _ = development(&raw);
    }
}
