//! The whole server in a network of its own: everything that a partner can have called is tried with every address that must not be called,
//! with proxies in the environment, and with a DNS server that means harm.

use std::time::{Duration, Instant};

use herald::config::{Config, RawConfig};
use herald::domain::key_ring::KeyRing;
use herald::domain::notification::EVENT_TYPES;
use herald::domain::partner_key::Scopes;
use herald::embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::attacker::{Attacker, Place};
use super::house::{Canaries, in_a_network_of_its_own, is_inside};
use super::{FORBIDDEN, PUBLIC, names};

const PATIENCE: Duration = Duration::from_secs(60);

/// Spellings of addresses that a URL parser sees through, and some that it does not.
const DISGUISES: [&str; 22] = [
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
    "[::127.0.0.1]",
    "[::]",
    "[fe80::1%25eth0]",
    "localhost",
    "localhost.",
    "x.localhost",
    "metadata",
    "127。0。0。1",
];

/// Whole URLs; `PORT` is the canaries'.
const URLS: [&str; 17] = [
    "https://ok@127.0.0.1:PORT/",
    "http://good.attack.example:PORT@127.0.0.1:PORT/",
    "http:\\\\127.0.0.1:PORT\\x",
    "http://good.attack.example:PORT\\@127.0.0.1:PORT/",
    "ht\ntp://127.0.0.1:PORT/",
    "http://127.0.0.1\t:PORT/",
    " http://127.0.0.1:PORT/",
    "http:127.0.0.1:PORT/",
    "http:/127.0.0.1:PORT/",
    "http:///127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@good.attack.example/",
    "gopher://127.0.0.1:PORT/",
    "file:///etc/passwd",
    "http://good.attack.example:0/",
    "http://good.attack.example:22/",
    "http://8.8.8.8/",
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
/// Public, and not to be reached from in here: what fails first where a backup URL is to be tried.
const NOWHERE: (&str, &[&[&str]]) = ("nowhere.attack.example", &[&["9.9.9.9"]]);

#[test]
fn rule_01_to_04_the_whole_server_calls_no_forbidden_address() {
    in_a_network_of_its_own("server::inside_whole_server");
}

/// A server in production's mode, with plain http on the canaries' port, and one partner who means harm.
struct World {
    canaries: Canaries,
    attacker: Attacker,
    postgres: EmbeddedPostgres,
    pool: PgPool,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<Result<(), herald::app::Fallen>>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn begin() -> World {
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            assert!(std::env::var(variable).is_ok(), "{variable} names a canary");
        }
        let canaries = Canaries::on(&[&FORBIDDEN[..], &PUBLIC].concat()).await;
        let all: Vec<_> = BAD_NAMES.into_iter().chain([REBINDING, GOOD, NOWHERE]).collect();
        names::serve(&all);
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: embeddable(folder.path()), bin_dir: None };
        let postgres = EmbeddedPostgres::start(settings).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(postgres.connect_options());
        let (keys, ring) = KeyRing::generate();
        let config = Config::check(&RawConfig {
            mode: Some("production".to_owned()),
            secret_keys: Some(ring.expose_str().unwrap().to_owned()),
            public_url: Some("https://herald.example.com".to_owned()),
            egress_http: Some("true".to_owned()),
            egress_ports: Some(canaries.port.to_string()),
            // The fourth attempt is at the backup URL, if there is one.
            retry_delays_s: Some("0,0,0,600".to_owned()),
            ..RawConfig::default()
        });
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let (api, operator) = (listener().await, listener().await);
        let base = [&api, &operator].map(|one| format!("http://{}", one.local_addr().unwrap()));
        let app = herald::app::App::start(config, postgres.connect_options(), keys, base[0].parse().unwrap());
        let app = app.await.unwrap();
        let (owner, _) = app.hub().create_partner("Attacker").await.unwrap();
        let key =
            app.hub().create_key(owner, Scopes::parse("partner,producer").unwrap(), None).await.unwrap();
        let (stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(app.serve(api, operator, stopping));
        let attacker = Attacker::new(base, key.text.expose_str().unwrap());
        World { canaries, attacker, postgres, pool, stop, serving, _folder: folder }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{name}:{}/", self.canaries.port)
    }

    /// Waits until a query gives this number.
    async fn until(&self, query: &'static str, wanted: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap();
            if usize::try_from(count).unwrap() >= wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{count} of {wanted}: {query}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.serving.await.unwrap().unwrap();
        self.pool.close().await;
        self.postgres.stop().await;
    }
}

/// What can be seen in a URL is refused at once, wherever a URL may be said.
async fn refuse_literals(world: &World) {
    let (attacker, port) = (&world.attacker, world.canaries.port);
    let places = Place::all(attacker, &world.url(NOWHERE.0)).await;
    let hosts = world.canaries.hosts_of(&FORBIDDEN).into_iter().map(|(host, _)| host);
    let spelt = hosts.chain(DISGUISES.map(str::to_owned));
    let plain = spelt.flat_map(|host| ["http", "https"].map(|scheme| format!("{scheme}://{host}:{port}/")));
    let urls: Vec<String> = plain.chain(URLS.map(|url| url.replace("PORT", &port.to_string()))).collect();
    for url in &urls {
        for place in &places {
            let (status, answer) = attacker.say(place, url).await;
            assert_eq!(status, 400, "{place:?}: {url:?}: {answer}");
        }
    }
    // It was the URL that was refused: with a good one each of them is taken.
    for (at, place) in places.iter().enumerate() {
        let (status, answer) = attacker.say(place, &format!("{}{at}", world.url(NOWHERE.0))).await;
        assert!([200, 201].contains(&status), "{place:?}: {status} {answer}");
    }
    assert_eq!(world.canaries.called(), Vec::<String>::new());
}

/// Names are taken, since only the connection shows where they lead; and then nothing is called: not to try a callback out, not by a test
/// event, not by a delivery on any surface, not at a backup URL.
async fn call_nobody_behind_names(world: &World) {
    let attacker = &world.attacker;
    let mut types = EVENT_TYPES.into_iter();
    for (at, (name, _)) in BAD_NAMES.into_iter().enumerate() {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{name}:{}/", world.canaries.port);
            let id = attacker.subscribe(&url).await;
            attacker.test("redirect", &id).await;
        }
        let url = world.url(name);
        let webhook = attacker.make_webhook(&url, &format!("account-{at}"), "order_paid").await;
        attacker.test("webhooks", &webhook).await;
        attacker.make_callback(name, &url, None).await;
        attacker.make_notification(name, types.next().unwrap()).await;
        attacker.test("notifications", name).await;
        for verify in [format!("/{name}/actions/verify"), format!("/{name}?action=verify")] {
            assert_eq!(attacker.verify(&verify).await, 400, "{name}");
        }
        let behind = format!("behind-{at}");
        attacker.make_callback(&behind, &world.url(NOWHERE.0), Some(&url)).await;
        attacker.make_notification(&behind, types.next().unwrap()).await;
    }
    assert_eq!(world.canaries.called(), Vec::<String>::new());

    attacker.cancel_one().await;
    for kind in EVENT_TYPES.into_iter().take(2 * BAD_NAMES.len()).chain(["order_paid"]) {
        attacker.publish(kind).await;
    }
    world
        .until(
            "select count(distinct subscription_id) from attempts where outcome = 'blocked' and event_type <> 'HeraldTest'",
            5 * BAD_NAMES.len(),
        )
        .await;
    world.until("select count(distinct subscription_id) from attempts where detail like 'sent to the backup URL%'", BAD_NAMES.len()).await;
    let told: Vec<(String, bool)> = sqlx::query_as(
        "select distinct outcome, detail like 'sent to the backup URL%' from attempts order by 1, 2",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let expected = [("blocked", false), ("blocked", true), ("unreachable", false)];
    assert_eq!(told, expected.map(|(outcome, is_backup)| (outcome.to_owned(), is_backup)));
    assert_eq!(world.canaries.called(), Vec::<String>::new(), "not a single connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside a namespace, started by rule_01_to_04_the_whole_server_calls_no_forbidden_address"]
async fn inside_whole_server() {
    if !is_inside() {
        return;
    }
    let world = World::begin().await;
    refuse_literals(&world).await;
    call_nobody_behind_names(&world).await;

    // The canaries do sing: with a good name everything arrives, and with one that changes only what was sent before it did.
    let attacker = &world.attacker;
    let (good, rebinding) = (world.url(GOOD.0), world.url(REBINDING.0));
    attacker.subscribe(&rebinding).await;
    attacker.make_webhook(&good, "good", "invoice_paid").await;
    attacker.make_callback("good", &good, None).await;
    attacker.make_notification("good", EVENT_TYPES[25]).await;
    assert_eq!(attacker.verify("/good/actions/verify").await, 200);
    for round in 1..=2 {
        attacker.cancel_one().await;
        attacker.publish("invoice_paid").await;
        attacker.publish(EVENT_TYPES[25]).await;
        world.until("select count(*) from attempts where outcome = 'delivered'", 2 * round + 1).await;
    }
    let changed = "select count(*) from attempts a join subscriptions s on s.id = a.subscription_id join callbacks c on c.id = s.callback_id
                   where c.url like '%rebind%' and a.outcome = 'blocked'";
    world.until(changed, 1).await;
    let delivered: i64 = sqlx::query_scalar("select count(*) from attempts where outcome = 'delivered'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(delivered, 5, "two webhooks, two notifications, and one before the name changed");
    assert_eq!(
        world.canaries.called(),
        ["8.8.8.8"; 6],
        "those and the verification; no proxy, no forbidden address"
    );
    world.end().await;
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
