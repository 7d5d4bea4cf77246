//! The built binary, run as an operator runs it: a process of its own with a folder of its own.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::process;

/// Only a broken test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const DEV_KEY: &str = "development-key-for-tests";
pub const CALLBACK_KEY: &str = "callback-key";

pub struct Herald {
    child: Child,
    pub api: String,
    pub operator: String,
    client: reqwest::Client,
}

impl Herald {
    /// Starts a development server over this data folder and waits until it says where it listens.
    pub async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Herald {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HERALD_DATA_DIR", data_dir)
            .env("HERALD_LISTEN", "127.0.0.1:0")
            .env("HERALD_OPERATOR_LISTEN", "127.0.0.1:0")
            .env("HERALD_DEV_API_KEY", DEV_KEY)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut api, mut operator) = (None, None);
        while let Some(line) = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() {
            let after = |label: &str| line.trim().strip_prefix(label).map(|rest| rest.trim().to_owned());
            api = api.or_else(|| after("API  "));
            operator = operator.or_else(|| after("operator  "));
            if api.is_some() && operator.is_some() {
                break;
            }
        }
        // What it says later must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Herald {
            child,
            api: api.expect("the server says where its API is"),
            operator: operator.unwrap(),
            client,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// Ends the server and its PostgreSQL as a power cut would: no handler runs in either.
    pub fn cut_power(&self, data_dir: &Path) {
        let postmaster = postmaster_pid(data_dir);
        process::kill_9(self.pid());
        process::kill_9(postmaster);
    }

    /// Collects a server that was killed.
    pub async fn reap(mut self) {
        self.child.wait().await.unwrap();
    }

    /// Asks the server to stop, and waits until it has.
    pub async fn terminate(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await.unwrap();
        assert!(asked.success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it stops in time").unwrap()
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.api)).header("x-api-key", DEV_KEY)
    }

    pub async fn subscribe(&self, callback_url: &str) -> Uuid {
        let id = Uuid::new_v4();
        let body = json!({ "callbackUrl": callback_url, "apiKey": CALLBACK_KEY, "eventTypes": ["RedirectSessionCancelled"] });
        let path = format!("/redirect-session-events/subscriptions/{id}");
        let answer = self.request(reqwest::Method::PUT, &path).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        id
    }

    pub async fn open_session(&self) -> Uuid {
        let id = Uuid::new_v4();
        let url = "https://shop.example/";
        let body = json!({ "type": "NewCustomer", "redirectData":
            { "successUrl": url, "failureUrl": url, "abortUrl": url, "qrCodeSuccessUrl": url } });
        let answer = self
            .request(reqwest::Method::PUT, &format!("/redirect-sessions/{id}"))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        id
    }

    /// Cancels a session; the status, if there was an answer at all.
    pub async fn cancel(&self, session: Uuid) -> Option<u16> {
        let answer =
            self.request(reqwest::Method::POST, &format!("/redirect-sessions/{session}/cancel")).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.request(reqwest::Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "GET {path}");
        answer.json().await.unwrap()
    }
}

/// The first line of `postmaster.pid`.
pub fn postmaster_pid(data_dir: &Path) -> u32 {
    let text = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    text.lines().next().unwrap().trim().parse().unwrap()
}
