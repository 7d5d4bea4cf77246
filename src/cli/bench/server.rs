//! The server that is measured: one that runs already, or a process of the same program that is started for it, on a data folder that goes
//! with it. A process is ended by its own id and by nothing broader.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use url::Url;

/// A first start makes a database; a slow disk takes its time.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Where a server is, and what is known of it.
pub struct Server {
    pub api: SocketAddr,
    pub operator: SocketAddr,
    /// With every scope.
    pub key: String,
    own: Option<Own>,
}

/// A server that is ours to stop.
struct Own {
    child: Child,
    folder: PathBuf,
    database: Option<Database>,
}

/// The private PostgreSQL, as the server announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub socket_dir: PathBuf,
    pub role: String,
    pub name: String,
}

impl Server {
    /// One that runs already.
    pub async fn running(api: &str, operator: &str, key: &str) -> Result<Server, String> {
        Ok(Server {
            api: resolve(api).await?,
            operator: resolve(operator).await?,
            key: key.to_owned(),
            own: None,
        })
    }

    /// Starts one over a folder of its own. Returns when it says where it listens.
    pub async fn start() -> Result<Server, String> {
        let folder = std::env::temp_dir().join(format!("herald-bench-{}", std::process::id()));
        let key = format!("bench-{}", uuid::Uuid::new_v4());
        let launched = launch(folder.clone(), key).await;
        if launched.is_err() {
            // Why it did not start matters more than what it left.
            let _left_over = std::fs::remove_dir_all(&folder);
        }
        launched
    }

    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref().and_then(|own| own.child.id())
    }

    pub fn postmaster_pid(&self) -> Option<u32> {
        let file = self.own.as_ref()?.folder.join("postgres/postmaster.pid");
        std::fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()
    }

    pub fn database(&self) -> Option<&Database> {
        self.own.as_ref()?.database.as_ref()
    }

    pub fn is_ours(&self) -> bool {
        self.own.is_some()
    }

    /// Stops our server as an operator would; its data stays.
    pub async fn halt(&mut self) -> Result<(), String> {
        let own = self.own.as_mut().ok_or("only a server that the bench started itself can be stopped")?;
        stop(&mut own.child).await
    }

    /// Starts our server again over the same data, somewhere else.
    pub async fn resume(&mut self) -> Result<(), String> {
        let own =
            self.own.as_ref().ok_or("only a server that the bench started itself can be started again")?;
        *self = launch(own.folder.clone(), self.key.clone()).await?;
        Ok(())
    }

    /// Stops our server and removes its data; leaves anybody else's alone.
    pub async fn dismiss(self) -> Result<(), String> {
        let Some(mut own) = self.own else { return Ok(()) };
        let stopped = stop(&mut own.child).await;
        let removed = std::fs::remove_dir_all(&own.folder);
        stopped?;
        removed.map_err(|error| format!("{} is left over: {error}", own.folder.display()))
    }
}

async fn resolve(url: &str) -> Result<SocketAddr, String> {
    let plain = Url::parse(url).ok().filter(|url| url.scheme() == "http");
    let plain = plain.ok_or_else(|| format!("{url} is not an http:// URL; the bench speaks plain HTTP"))?;
    let host = plain.host_str().unwrap_or_default();
    let port = plain.port_or_known_default().unwrap_or(80);
    let mut found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|e| format!("{url}: {e}"))?;
    found.next().ok_or_else(|| format!("{url}: no address"))
}

async fn launch(folder: PathBuf, key: String) -> Result<Server, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut child = Command::new(program)
        .arg("serve")
        .env_remove("DATABASE_URL")
        .env_remove("HERALD_SECRET_KEYS")
        .env_remove("HERALD_PUBLIC_URL")
        .env("HERALD_MODE", "development")
        .env("HERALD_DATA_DIR", &folder)
        .env("HERALD_LISTEN", "127.0.0.1:0")
        .env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0")
        .env("HERALD_DEV_API_KEY", &key)
        .env("HERALD_LOG", "warn")
        .env("HERALD_STOP_TIMEOUT_MS", "1500")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start a server: {error}"))?;
    let announced = tokio::time::timeout(STARTS_WITHIN, announcement(&mut child)).await;
    let announced =
        announced.map_err(|_| format!("the server did not start within {} s", STARTS_WITHIN.as_secs()))?;
    let Announced { api, operator, database } = announced?;
    let (api, operator) = (resolve(&api).await?, resolve(&operator).await?);
    Ok(Server { api, operator, key, own: Some(Own { child, folder, database }) })
}

#[derive(Default)]
struct Announced {
    api: String,
    operator: String,
    database: Option<Database>,
}

impl Announced {
    fn read(&mut self, line: &str) {
        let after = |label: &str| line.trim().strip_prefix(label).map(str::trim);
        if let Some(url) = after("API  ") {
            self.api = url.to_owned();
        }
        if let Some(url) = after("operator  ") {
            self.operator = url.to_owned();
        }
        if let Some(described) = after("database  ") {
            self.database = Database::from_description(described);
        }
    }
}

impl Database {
    /// Reads `… (psql -h FOLDER -U ROLE NAME)`.
    fn from_description(described: &str) -> Option<Database> {
        let (_, rest) = described.rsplit_once("(psql -h ")?;
        let (socket_dir, rest) = rest.strip_suffix(')')?.rsplit_once(" -U ")?;
        let (role, name) = rest.split_once(' ')?;
        Some(Database {
            socket_dir: Path::new(socket_dir).into(),
            role: role.to_owned(),
            name: name.to_owned(),
        })
    }
}

async fn announcement(child: &mut Child) -> Result<Announced, String> {
    let stdout = child.stdout.take().ok_or("the server's output is not ours to read")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut announced = Announced::default();
    while announced.api.is_empty() || announced.operator.is_empty() {
        let line = lines.next_line().await.map_err(|error| format!("the server's output: {error}"))?;
        announced.read(&line.ok_or("the server ended while starting; its message is above")?);
    }
    // What it says later must not fill the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(announced)
}

async fn stop(child: &mut Child) -> Result<(), String> {
    let Some(pid) = child.id() else { return Ok(()) };
    let asked = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
    asked.map_err(|error| format!("cannot stop the server: {error}"))?;
    match tokio::time::timeout(STOPS_WITHIN, child.wait()).await {
        Ok(ended) => ended.map(drop).map_err(|error| format!("the server's end: {error}")),
        Err(_elapsed) => {
            Err(format!("the server (process {pid}) did not stop within {} s", STOPS_WITHIN.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_says_where_everything_is() {
        let mut announced = Announced::default();
        for line in [
            "Herald 0.1.0 (development: callbacks may be plain http)",
            "  database  PostgreSQL 16 in /d/a b/postgres (psql -h /d/a b/socket -U herald main)",
            "  API       http://127.0.0.1:4001",
            "  operator  http://127.0.0.1:4002",
            "  API key   not-an-address (kept)",
        ] {
            announced.read(line);
        }
        assert_eq!(announced.operator, "http://127.0.0.1:4002");
        let database = announced.database.unwrap();
        assert_eq!(database.socket_dir, Path::new("/d/a b/socket"));
        assert_eq!((database.role.as_str(), database.name.as_str()), ("herald", "main"));
        assert_eq!(Database::from_description("from DATABASE_URL"), None);
    }
}
