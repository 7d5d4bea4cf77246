//! The built binary, run as an operator runs it: a process of its own with a folder of its own.

use std::ops::Deref;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use super::partner::{PATIENCE, Partner};
use super::process;

pub const DEV_KEY: &str = "development-key-for-tests";

/// Dereferences to its development partner.
pub struct Herald {
    child: Child,
    pub operator: String,
    partner: Partner,
}

impl Herald {
    /// Starts a development server over this data folder and waits until it says where it listens.
    pub async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Herald {
        Herald::start_logging(data_dir, settings, Stdio::inherit()).await
    }

    /// As [`Herald::start`], with a place for its log.
    pub async fn start_logging(data_dir: &Path, settings: &[(&str, &str)], log: Stdio) -> Herald {
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
            .stderr(log)
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
        let api = api.expect("the server says where its API is");
        // Where partners reach it is somewhere else in production.
        let listens = api.split_once("(at ").map_or(api.as_str(), |(_, at)| at.trim_end_matches(')'));
        let partner = Partner::new(listens, DEV_KEY);
        Herald { child, operator: operator.unwrap(), partner }
    }

    /// Closes the other end of its log, as a terminal that goes does.
    pub fn stop_reading_its_log(&mut self) {
        drop(self.its_log());
    }

    /// The other end of its log, which was piped.
    pub fn its_log(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("its log was piped")
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// The operator, who has the development key too.
    pub fn operator(&self) -> Partner {
        Partner::new(&self.operator, DEV_KEY)
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
    pub async fn terminate(self) -> ExitStatus {
        self.signal("-TERM").await
    }

    /// Sends a signal that is to stop the server, and waits until it has.
    pub async fn signal(mut self, signal: &str) -> ExitStatus {
        let asked = Command::new("kill").args([signal, &self.pid().to_string()]).status().await.unwrap();
        assert!(asked.success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it stops in time").unwrap()
    }
}

impl Deref for Herald {
    type Target = Partner;

    fn deref(&self) -> &Partner {
        &self.partner
    }
}

/// The first line of `postmaster.pid`.
pub fn postmaster_pid(data_dir: &Path) -> u32 {
    let text = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    text.lines().next().unwrap().trim().parse().unwrap()
}
