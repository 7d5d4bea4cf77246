//! What an operator says about the network that the server stands in: a CA and a proxy of its own on the way out, proxies to believe on the
//! way in. That the settings reach what obeys them; how they are obeyed is tested beside it.

use std::fs::File;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use herald::config::{Config, RawConfig};
use reqwest::Method;
use serde_json::json;

use crate::outbound::proxy::tunnel;
use crate::outbound::receiver::Receiver;
use crate::outbound::tls::Authority;
use crate::support::app::{App, settings};
use crate::support::cluster;
use crate::support::herald::Herald;
use crate::support::receiver;
use crate::support::scratch::Scratch;

fn pem(authority: &Authority) -> String {
    let encoded = STANDARD.encode(&authority.root);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn trusting(file: &Path) -> RawConfig {
    RawConfig { egress_ca_file: Some(file.to_str().unwrap().to_owned()), ..settings() }
}

#[tokio::test]
async fn rule_03_the_certificates_of_a_file_are_trusted_and_of_no_other_authority() {
    let (database, folder) = (cluster::database().await, Scratch::new("ca"));
    std::fs::create_dir_all(folder.path()).unwrap();
    let (own, other) = (Authority::new(), Authority::new());
    let receiver = Receiver::tls(own.signs_for_loopback(), |mut peer| async move {
        while peer.request().await {
            peer.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let file = folder.path().join("ca.pem");
    for (bundle, outcome) in [(pem(&other), "unreachable"), (pem(&other) + &pem(&own), "delivered")] {
        std::fs::write(&file, bundle).unwrap();
        let app = App::start(&database, trusting(&file)).await;
        let subscription = app.subscribe(&receiver.url().replace("http:", "https:")).await;
        let (status, tested) = app.test(subscription).await;
        assert_eq!((status, &tested["attempt"]["outcome"]), (200, &json!(outcome)), "{tested}");
        app.unsubscribe(subscription).await;
        app.stop().await;
    }
    assert_eq!(receiver.requests().len(), 1);
}

#[test]
fn rule_03_a_file_without_certificates_ends_the_start_and_is_named_with_all_else_that_is_wrong() {
    let folder = Scratch::new("no-ca");
    std::fs::create_dir_all(folder.path()).unwrap();
    let file = folder.path().join("ca.pem");
    let whole = pem(&Authority::new());
    let (broken, odd) = (whole.replace("MI", "**"), whole.replace("MI", "AA"));
    for (content, wrong) in [
        (None, "cannot be read"),
        (Some(String::new()), "no certificate"),
        (Some("not a certificate".to_owned()), "no certificate"),
        (Some(broken), "not PEM"),
        (Some(whole + &odd), "certificate 2 cannot be trusted"),
    ] {
        if let Some(content) = &content {
            std::fs::write(&file, content).unwrap();
        }
        let settings = RawConfig { body_bytes_max: Some("many".to_owned()), ..trusting(&file) };
        let problems = Config::check(&settings).map(|_| ()).unwrap_err().to_string();
        let said = ["HERALD_EGRESS_CA_FILE", wrong, "X.509 in PEM", "HERALD_BODY_BYTES_MAX"];
        assert!(said.iter().all(|said| problems.contains(said)), "{content:?}: {problems}");
    }
}

#[tokio::test]
async fn rule_03_with_an_egress_proxy_everything_goes_through_it() {
    let (database, receiver) = (cluster::database().await, receiver::Receiver::start().await);
    let port = url::Url::parse(&receiver.url).unwrap().port().unwrap();
    let proxy = Receiver::start(move |peer| tunnel(peer, port)).await;
    let setting = Some(format!("http://127.0.0.1:{}", proxy.port));
    let app = App::start(&database, RawConfig { egress_proxy: setting, ..settings() }).await;
    // No such name is known here: only the proxy can say where it leads.
    let url = |host: &str| format!("http://{host}.receiver.invalid:8080/");
    let subscription = app.subscribe(&url("deliveries")).await;
    app.cancel_one().await;
    receiver.wait_for(1).await;
    assert_eq!(app.test(subscription).await.1["attempt"]["outcome"], "delivered");
    let authentication = json!({ "type": "B", "data": { "userName": "u", "password": "p" } });
    let callback =
        json!({ "name": "c", "url": url("callbacks"), "batchSize": 1, "authentication": authentication });
    let callbacks = "/rest/api/v1.3/notifications/callbacks";
    assert_eq!(app.ask(Method::POST, callbacks, Some(callback)).await.0, 200);
    assert_eq!(app.ask(Method::GET, &format!("{callbacks}/c/actions/verify"), None).await.0, 200);
    assert_eq!(receiver.wait_for(3).await.len(), 3);
    let asked: Vec<String> =
        proxy.requests().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    let expected =
        ["deliveries", "callbacks"].map(|host| format!("CONNECT {host}.receiver.invalid:8080 HTTP/1.1"));
    assert!(expected.iter().all(|line| asked.contains(line)), "{asked:?}");
    assert!(asked.iter().all(|line| expected.contains(line)), "{asked:?}");
}

#[tokio::test]
async fn rule_14_the_client_is_who_a_trusted_proxy_says_on_both_sides() {
    for (trusted, client) in [("127.0.0.0/8", "192.0.2.7"), ("10.0.0.0/8", "127.0.0.1")] {
        let folder = Scratch::new("proxies");
        std::fs::create_dir_all(folder.path()).unwrap();
        let log = folder.path().join("log");
        let settings = [("HERALD_TRUSTED_PROXIES", trusted)];
        let herald =
            Herald::start_logging(folder.path(), &settings, File::create(&log).unwrap().into()).await;
        let operator = format!("{}/livez", herald.operator);
        for url in [format!("{}/herald/v1/deliveries", herald.base), operator] {
            let request = reqwest::Client::builder().no_proxy().build().unwrap().get(url);
            request.header("x-forwarded-for", "198.51.100.1, 192.0.2.7").send().await.unwrap();
        }
        assert!(herald.terminate().await.success());
        let log = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("herald::access")).collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines.iter().all(|line| line.contains(&format!("client={client}"))), "{lines:?}");
    }
}
