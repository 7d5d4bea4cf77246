//! Reading one setting's text: numbers in bounds, addresses, lists, switches.
//!
//! A [`Reader`] gathers the problems while the settings are read one after the other. A setting that is wrong reads as
//! its default, so that the rest can still be judged; nobody gets to see such a configuration. An empty setting counts
//! as unset, because `docker compose` passes on unset variables as empty ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::problem::Problem;

#[derive(Default)]
pub struct Reader {
    pub problems: Vec<Problem>,
}

impl Reader {
    pub fn problem(&mut self, setting: &'static str, wrong: impl Into<String>, instead: impl Into<String>) {
        self.problems.push(Problem { setting, wrong: wrong.into(), instead: instead.into() });
    }

    /// Reads one setting with `parse`; `instead` says what would have been right. The value is repeated in the problem,
    /// so this is not for secrets.
    pub fn value<T>(
        &mut self,
        setting: &'static str,
        raw: Option<&str>,
        instead: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = present(raw)?;
        let value = parse(text);
        if value.is_none() {
            self.problem(setting, format!("is {text:?}, which cannot be read"), instead);
        }
        value
    }

    /// A whole number from `min` to `max`, both included.
    pub fn number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        setting: &'static str,
        raw: Option<&str>,
        (min, default, max): (T, T, T),
    ) -> T {
        let instead = format!("a whole number from {min} to {max}; without it, {default}");
        let within = |number: &T| *number >= min && *number <= max;
        self.value(setting, raw, &instead, |text| text.parse().ok().filter(within)).unwrap_or(default)
    }

    /// A whole number from `min` to `max`, both included, that need not be there.
    pub fn optional_number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        setting: &'static str,
        raw: Option<&str>,
        (min, max): (T, T),
    ) -> Option<T> {
        let instead = format!("a whole number from {min} to {max}, or leave it out");
        let within = |number: &T| *number >= min && *number <= max;
        self.value(setting, raw, &instead, |text| text.parse().ok().filter(within))
    }

    /// Any number of networks.
    pub fn networks(&mut self, setting: &'static str, raw: Option<&str>) -> Vec<IpNet> {
        let instead =
            "networks separated by commas, without bits beyond the prefix, such as 10.1.0.0/16,fd00:1::/64";
        self.value(setting, raw, instead, |text| list(text, network)).unwrap_or_default()
    }

    /// An address to listen on. `localhost` is read as 127.0.0.1, so that it means the same on every machine.
    pub fn listen(&mut self, setting: &'static str, raw: Option<&str>, default_port: u16) -> SocketAddr {
        let instead =
            format!("an IP address and a port, such as 127.0.0.1:{default_port} or [::1]:{default_port}");
        self.value(setting, raw, &instead, |text| match text.strip_prefix("localhost:") {
            Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
            None => text.parse().ok(),
        })
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, default_port)))
    }
}

/// The text of a setting that is there and not blank.
pub fn present(raw: Option<&str>) -> Option<&str> {
    raw.map(str::trim).filter(|text| !text.is_empty())
}

/// `a,b,c`, each read by `item`; blanks around the items are forgiven, empty items are not.
pub fn list<T>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(|part| item(part.trim())).collect()
}

pub fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A network in CIDR form, or one address. Bits beyond the prefix are a mistake more often than not, so they are refused.
fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().ok().filter(|net| net.addr() == net.network()),
    }
}
