//! One line that says how far it is, on a terminal and nowhere else.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
pub struct Progress {
    terminal: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { terminal: stderr().is_terminal() }
    }

    /// Replaces the line.
    pub fn say(&self, line: &str) {
        if self.terminal {
            // A terminal that went away has nobody in front of it.
            let _gone = write!(stderr(), "\r\x1b[2K{line}");
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.say("");
    }

    /// Keeps the line up to date until the work is done.
    pub async fn during<T>(&self, work: impl Future<Output = T>, line: impl Fn() -> String) -> T {
        tokio::pin!(work);
        let mut every = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = every.tick() => self.say(&line()),
            }
        }
    }
}
