//! The whole server in this process, on a runtime of its own, so that it can be stopped as an operator would, or killed.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::LazyLock;

use herald::app::Fallen;
use herald::config::{Config, RawConfig};
use herald::domain::key_ring::KeyRing;
use herald::domain::partner_key::PartnerKey;
use herald::telemetry::Health;
use reqwest::Method;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use super::cluster::TestDatabase;
use super::herald::DEV_KEY;
use super::partner::{Partner, text};

/// One for all servers, so that any of them opens what another sealed.
static SECRET_KEYS: LazyLock<String> =
    LazyLock::new(|| KeyRing::generate().1.expose_str().unwrap().to_owned());

/// Dereferences to its development partner.
pub struct App {
    partner: Partner,
    pub operator: String,
    stop: watch::Sender<bool>,
    served: JoinHandle<Result<(), Fallen>>,
    pub health: Health,
    /// Taken when the server ends.
    runtime: Option<Runtime>,
}

/// What stories start with: two retries, 10 and 100 s after a failure.
pub fn settings() -> RawConfig {
    RawConfig {
        mode: Some("development".to_owned()),
        retry_delays_s: Some("10,100".to_owned()),
        ..RawConfig::default()
    }
}

/// A server that may call nobody on this machine.
pub fn production() -> RawConfig {
    RawConfig {
        mode: Some("production".to_owned()),
        secret_keys: Some(SECRET_KEYS.clone()),
        public_url: Some("https://herald.example.com".to_owned()),
        egress_http: Some("true".to_owned()),
        ..settings()
    }
}

impl App {
    pub async fn start(database: &TestDatabase, settings: RawConfig) -> App {
        App::start_on(database.options(), settings).await
    }

    pub async fn start_on(database: PgConnectOptions, settings: RawConfig) -> App {
        App::start_with_ring(database, settings, &SECRET_KEYS).await
    }

    /// With a ring of its own, in development as well.
    pub async fn start_with_ring(database: PgConnectOptions, settings: RawConfig, ring: &str) -> App {
        let keys = KeyRing::parse(ring).unwrap();
        let config = Config::check(&settings).unwrap_or_else(|problems| panic!("{problems}"));
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopping) = watch::channel(false);
        let starting = runtime.spawn(async move {
            let (api, operator) = (listener().await, listener().await);
            let addresses = [address(&api), address(&operator)];
            let public_url = Url::parse(&format!("http://{}", addresses[0])).unwrap();
            let app = herald::app::App::start(config, database, keys, public_url).await.unwrap();
            app.hub().ensure_development_partner(&PartnerKey::parse(DEV_KEY).unwrap()).await.unwrap();
            (addresses, app.health().clone(), tokio::spawn(app.serve(api, operator, stopping)))
        });
        let ([api, operator], health, served) = starting.await.unwrap();
        App {
            partner: Partner::new(format!("http://{api}"), DEV_KEY),
            operator: format!("http://{operator}"),
            stop,
            served,
            health,
            runtime: Some(runtime),
        }
    }

    /// The operator, who has the development key too.
    pub fn operator(&self) -> Partner {
        Partner::new(&self.operator, DEV_KEY)
    }

    /// Makes another partner, who may do what partners may.
    pub async fn another_partner(&self) -> Partner {
        let operator = self.operator();
        let body = json!({ "name": "Another" });
        let (status, made) = operator.ask(Method::POST, "/partners", Some(body)).await;
        assert_eq!(status, 201, "{made}");
        let path = format!("/partners/{}/keys", text(&made["id"]));
        let (status, key) = operator.ask(Method::POST, &path, Some(json!({ "scopes": ["partner"] }))).await;
        assert_eq!(status, 201);
        Partner::new(&self.partner.base, text(&key["key"]))
    }

    /// Asks it to stop; [`App::stopped`] waits for it.
    pub fn begin_stop(&self) {
        self.stop.send(true).unwrap();
    }

    pub async fn stopped(self) {
        self.ended().await.unwrap();
    }

    /// Waits until it ends, also by itself.
    pub async fn ended(mut self) -> Result<(), Fallen> {
        (&mut self.served).await.unwrap()
    }

    /// Stops as SIGTERM does.
    pub async fn stop(self) {
        self.begin_stop();
        self.stopped().await;
    }

    /// Ends as `kill -9` does: nothing is finished, nothing is released.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Deref for App {
    type Target = Partner;

    fn deref(&self) -> &Partner {
        &self.partner
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}
