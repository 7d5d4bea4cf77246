//! The network of a test's own, and the canaries in it.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Set for the process inside, to the namespace of the one outside.
const OUTSIDE: &str = "HERALD_TEST_NETWORK_OUTSIDE";

/// Variables that other programs take a proxy from. Herald must not: the proxy they name is a canary.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const PROXY: &str = "http://10.0.0.1:8080";

const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// Runs one ignored test of this binary inside a fresh network namespace, and fails with it.
pub fn in_a_network_of_its_own(test: &str) {
    // A user namespace makes an unprivileged user root over the new network; a real root needs none, and some
    // containers forbid one.
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    // The mounts are its own as well, so that it can have a resolver configuration of its own.
    let namespaces = if is_root { "-nm" } else { "-rnm" };
    let output = Command::new("unshare")
        .args([namespaces, "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(OUTSIDE, network())
        .envs(PROXY_VARIABLES.map(|variable| (variable, PROXY)))
        .output()
        .expect("unshare (util-linux) is needed to prove that private addresses are not called");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "inside the namespace:\n{said}");
}

/// Whether this process was started by `in_a_network_of_its_own`. The scenarios dial addresses that nobody may dial
/// from the host, so a run by hand with `--ignored` does nothing, and a marker without a new namespace is an error.
pub fn is_inside() -> bool {
    let Ok(outside) = std::env::var(OUTSIDE) else { return false };
    assert_ne!(outside, network(), "this process is still in the host's network");
    true
}

fn network() -> String {
    std::fs::read_link(OWN_NAMESPACE)
        .expect("Linux names a process's network namespace")
        .display()
        .to_string()
}

/// Listeners that answer 200 and remember that they were called.
pub struct Canaries {
    pub port: u16,
    called: Arc<Mutex<Vec<String>>>,
}

impl Canaries {
    pub async fn on(addresses: &[&'static str]) -> Canaries {
        ip(&["link", "set", "lo", "up"]);
        let canaries = Canaries { port: 8080, called: Arc::default() };
        for address in addresses {
            canaries.settle_on(address).await;
        }
        canaries
    }

    async fn settle_on(&self, address: &'static str) {
        let parsed: IpAddr = address.parse().unwrap();
        match parsed {
            _ if parsed.is_loopback() => {}
            IpAddr::V4(_) => ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]),
            IpAddr::V6(_) => ip(&["-6", "address", "add", &format!("{address}/128"), "dev", "lo", "nodad"]),
        }
        let listener = TcpListener::bind(SocketAddr::new(parsed, self.port)).await.unwrap();
        let called = Arc::clone(&self.called);
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                called.lock().unwrap().push(address.to_owned());
                let mut request = [0; 4096];
                let _ = tcp.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let _ = tcp.write_all(answer).await;
            }
        });
    }

    /// As a URL would spell them.
    pub fn hosts_of(&self, addresses: &[&str]) -> Vec<(String, u16)> {
        let spell = |address: &&str| match address.contains(':') {
            true => format!("[{address}]"),
            false => address.to_string(),
        };
        addresses.iter().map(|address| (spell(address), self.port)).collect()
    }

    pub fn called(&self) -> Vec<String> {
        self.called.lock().unwrap().clone()
    }
}

fn ip(arguments: &[&str]) {
    let output =
        Command::new("ip").args(arguments).output().expect("ip (iproute2) is needed to lay out the network");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
