//! The whole server in a network of its own: everything that a partner can have called is tried with every address that must not be called,
//! with proxies in the environment, and with a DNS server that means harm.

use std::time::{Duration, Instant};

use herald::config::{Config, RawConfig};
use herald::domain::key_ring::KeyRing;
use herald::domain::partner_key::Scopes;
use herald::embedded_postgres::{EmbeddedPostgres, Settings};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

use super::house::{Canaries, in_a_network_of_its_own, is_inside};
use super::{FORBIDDEN, PUBLIC, names};

const PATIENCE: Duration = Duration::from_secs(60);
const CALLBACKS: &str = "/rest/api/v1.3/notifications/callbacks";

/// Spellings of addresses that a URL parser sees through, and some that it does not.
const DISGUISES: [&str; 16] = [
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "0",
    "127.0.0.1.",
    "①②⑦.⓪.⓪.①",
    "%31%32%37.0.0.1",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[fe80::1%25eth0]",
    "localhost",
];

/// Names whose addresses must not be called, each with what it says of itself.
const BAD_NAMES: [(&str, &[&[&str]]); 9] = [
    ("private.attack.example", &[&["10.0.0.1"]]),
    ("metadata.attack.example", &[&["169.254.169.254"]]),
    ("loopback.attack.example", &[&["127.0.0.1"]]),
    ("loopback6.attack.example", &[&["::1"]]),
    ("mapped.attack.example", &[&["::ffff:127.0.0.1"]]),
    ("nat64.attack.example", &[&["64:ff9b::a9fe:a9fe"]]),
    ("mixed.attack.example", &[&["8.8.8.8", "10.0.0.1"]]),
    ("mixed6.attack.example", &[&["2606:4700::1111", "fd00:ec2::254"]]),
    ("dual.attack.example", &[&["8.8.8.8", "fd00:ec2::254"]]),
];

/// Public when it is asked for first, the metadata service ever after.
const REBINDING: (&str, &[&[&str]]) = ("rebind.attack.example", &[&["8.8.8.8"], &["169.254.169.254"]]);
const GOOD: (&str, &[&[&str]]) = ("good.attack.example", &[&["8.8.8.8"]]);

#[test]
fn rule_01_to_04_the_whole_server_calls_no_forbidden_address() {
    in_a_network_of_its_own("server::inside_whole_server");
}

struct Partner {
    base: String,
    key: String,
    client: reqwest::Client,
}

impl Partner {
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.base));
        let answer = request.header("x-api-key", &self.key).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    async fn subscribe(&self, url: &str) -> (Uuid, u16) {
        let id = Uuid::new_v4();
        let body = json!({ "callbackUrl": url, "apiKey": "key", "eventTypes": ["RedirectSessionCancelled"] });
        (id, self.ask("PUT", &format!("/redirect-session-events/subscriptions/{id}"), body).await.0)
    }

    /// Of the notifications surface.
    async fn make_callback(&self, name: &str, url: &str, backup: Option<&str>) -> (u16, Value) {
        let authentication = json!({ "type": "B", "data": { "userName": "u", "password": "p" } });
        let mut wish = json!({ "name": name, "url": url, "batchSize": 1, "authentication": authentication });
        if let Some(backup) = backup {
            wish["backupUrl"] = json!(backup);
        }
        self.ask("POST", CALLBACKS, wish).await
    }

    async fn cancel_one(&self) {
        let id = Uuid::new_v4();
        let url = "https://shop.example/";
        let urls = json!({ "successUrl": url, "failureUrl": url, "abortUrl": url, "qrCodeSuccessUrl": url });
        let body = json!({ "type": "NewCustomer", "redirectData": urls });
        assert_eq!(self.ask("PUT", &format!("/redirect-sessions/{id}"), body).await.0, 200);
        assert_eq!(self.ask("POST", &format!("/redirect-sessions/{id}/cancel"), json!({})).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a namespace, started by rule_01_to_04_the_whole_server_calls_no_forbidden_address"]
async fn inside_whole_server() {
    if !is_inside() {
        return;
    }
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        assert!(std::env::var(variable).is_ok(), "{variable} names a canary");
    }
    let canaries = Canaries::on(&[&FORBIDDEN[..], &PUBLIC].concat()).await;
    let all: Vec<_> = BAD_NAMES.into_iter().chain([REBINDING, GOOD]).collect();
    names::serve(&all);

    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { data_dir: embeddable(folder.path()), bin_dir: None };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(postgres.connect_options());
    let (keys, ring) = KeyRing::generate();
    let port = canaries.port;
    let config = Config::check(&RawConfig {
        mode: Some("production".to_owned()),
        secret_keys: Some(ring.expose_str().unwrap().to_owned()),
        egress_http: Some("true".to_owned()),
        egress_ports: Some(port.to_string()),
        retry_delays_s: Some("600".to_owned()),
        ..RawConfig::default()
    });
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let (api, operator) = (listener().await, listener().await);
    let base = format!("http://{}", api.local_addr().unwrap());
    let app = herald::app::App::start(config, postgres.connect_options(), keys, base.parse().unwrap());
    let app = app.await.unwrap();
    let (owner, _) = app.hub().create_partner("Attacker").await.unwrap();
    let key = app.hub().create_key(owner, Scopes::parse("partner").unwrap(), None).await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(app.serve(api, operator, stopping));
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let partner = Partner { base, key: key.text.expose_str().unwrap().to_owned(), client };

    // What can be seen in the URL is refused at once, wherever a URL may be said.
    let (known, made) = partner.subscribe(&format!("http://{}:{port}/known", GOOD.0)).await;
    assert_eq!(made, 201);
    let literals = canaries.hosts_of(&FORBIDDEN).into_iter().map(|(host, _)| host);
    for host in literals.chain(DISGUISES.map(str::to_owned)) {
        let url = format!("http://{host}:{port}/");
        assert_eq!(partner.subscribe(&url).await.1, 400, "{url}");
        let place = format!("/redirect-session-events/subscriptions/{known}");
        let (status, _) = partner.ask("PATCH", &place, json!({ "callbackUrl": url })).await;
        assert_eq!(status, 400, "{url}");
        let webhook =
            json!({ "name": "x", "events": ["order_paid"], "url": url, "secret": "c2VjcmV0LXRleHQ=" });
        let (status, answer) = partner.ask("POST", "/sync/webhooks/subscriptions/create", webhook).await;
        assert_eq!(status, 400, "{url}: {answer}");
        let good = format!("http://{}:{port}/", GOOD.0);
        for (url, backup) in [(&url, &good), (&good, &url)] {
            let (status, answer) = partner.make_callback("refused", url, Some(backup)).await;
            assert_eq!(status, 400, "{url} and {backup}: {answer}");
        }
    }
    assert_eq!(canaries.called(), Vec::<String>::new());

    // Names are taken, since only the connection shows where they lead; and then nothing is called.
    for (name, _) in BAD_NAMES {
        let (id, made) = partner.subscribe(&format!("http://{name}:{port}/")).await;
        assert_eq!(made, 201, "{name}");
        let (status, tested) =
            partner.ask("POST", &format!("/herald/v1/subscriptions/redirect/{id}/test"), json!({})).await;
        assert_eq!((status, &tested["attempt"]["outcome"]), (200, &json!("unreachable")), "{name}: {tested}");
        let (status, answer) = partner.make_callback(name, &format!("http://{name}:{port}/"), None).await;
        assert_eq!(status, 200, "{name}: {answer}");
        let verify = format!("{CALLBACKS}/{name}/actions/verify");
        assert_eq!(partner.ask("GET", &verify, Value::Null).await.0, 400, "{name}");
    }
    assert_eq!(partner.subscribe(&format!("http://{}:{port}/", REBINDING.0)).await.1, 201);
    assert_eq!(canaries.called(), Vec::<String>::new());
    let deliveries = BAD_NAMES.len() + 2;
    for round in 1..=2 {
        partner.cancel_one().await;
        attempted(&pool, BAD_NAMES.len() + round * deliveries).await;
    }
    let outcomes: Vec<(String, i64)> = sqlx::query_as(
        "select outcome, count(*) from attempts where event_type = 'RedirectSessionCancelled' group by outcome order by outcome",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    // Blocked: every bad name twice, and the name that changed the second time. Delivered: the good one twice, the changing one once.
    let expected = [("blocked".to_owned(), 2 * BAD_NAMES.len() as i64 + 1), ("delivered".to_owned(), 3)];
    assert_eq!(outcomes, expected);
    assert_eq!(canaries.called(), ["8.8.8.8"; 3], "no proxy, no forbidden address, and the good ones");

    stop.send(true).unwrap();
    serving.await.unwrap();
    pool.close().await;
    postgres.stop().await;
}

async fn attempted(pool: &sqlx::PgPool, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let made: i64 = sqlx::query_scalar("select count(*) from attempts").fetch_one(pool).await.unwrap();
        if usize::try_from(made).unwrap() >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{made} of {count} attempts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// PostgreSQL does not run as root: its own user has to get to its folder.
fn embeddable(folder: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder.join("data")
}
