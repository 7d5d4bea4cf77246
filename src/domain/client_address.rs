//! Whose request it is when proxies stand in between: what `X-Forwarded-For` is worth.
//!
//! Anybody can send the header. Every proxy appends the address that it was called from, so the list is believed from its end on, and only
//! as far as the addresses that say it are the operator's own proxies.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The nearest address that is not a trusted proxy's. `peer` is who opened the connection; `forwarded_for` are the header's lines in their
/// order. Without trust in the peer it is the peer, whatever the header says.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[IpNet],
) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let mut client = peer.to_canonical();
    for entry in forwarded_for.rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(&client) {
            break;
        }
        // Of what stands before something unreadable nobody knows who said it.
        let Some(before) = address(entry.trim()) else { break };
        client = before;
    }
    client
}

/// An address, with or without a port, as proxies write them.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    text.parse().ok().or_else(bare).or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, forwarded_for: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), forwarded_for.iter().copied(), &trusted).to_string()
    }

    #[test]
    fn rule_14_a_forwarded_address_counts_as_far_as_trusted_proxies_say_it() {
        for (peer, header, client) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            // Who is no proxy of ours may claim what they like.
            ("192.0.2.1", &["198.51.100.1"], "192.0.2.1"),
            ("192.0.2.1", &["10.0.0.1", "10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // The client made up the first one; the proxy added the second.
            ("10.0.0.1", &["8.8.8.8, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["8.8.8.8", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["8.8.8.8,198.51.100.1 , 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:8443"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ] {
            assert_eq!(of(peer, header), client, "{peer} {header:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rule_14_who_is_not_trusted_is_never_believed_and_nothing_panics(header in "\\PC{0,60}", last: u32) {
            let peer = std::net::Ipv4Addr::from(last);
            let expected = peer.octets()[0] != 10;
            let client = of(&peer.to_string(), &[&header]);
            assert!(!expected || client == peer.to_string(), "{client}");
        }
    }
}
