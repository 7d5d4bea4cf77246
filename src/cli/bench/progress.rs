//! One line that says how far it is, on a terminal and nowhere else.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use crate::cli::bar::bar;

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
            // What is wider than the terminal is cut off: a line that went on below could not be replaced.
            // A terminal that went away has nobody in front of it.
            let _gone = write!(stderr(), "\r\x1b[2K\x1b[?7l{line}\x1b[?7h");
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

    /// Waits, and shows how much of the time is over.
    pub async fn wait(&self, time: Duration, title: &str, what: &str) {
        let begun = Instant::now();
        self.during(tokio::time::sleep(time), || of_time(begun, time, title, what)).await;
    }
}

/// How much of something countable is there.
pub fn of_events(arrived: u64, all: u64, title: &str) -> String {
    format!("{}{title}: {arrived} of {all} arrived", bar(arrived, all))
}

/// How much is over of a time that is known beforehand.
pub fn of_time(begun: Instant, time: Duration, title: &str, what: &str) -> String {
    let ms = |time: Duration| time.as_millis() as u64;
    format!("{}{title}: {what}", bar(ms(begun.elapsed()), ms(time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_bar_of_the_events_or_of_the_time() {
        let half = format!("[{}{}]  50%  ", "#".repeat(15), ".".repeat(15));
        assert_eq!(of_events(30, 60, "hanging, 1 of 3"), format!("{half}hanging, 1 of 3: 30 of 60 arrived"));
        let hours = Duration::from_secs(7_200);
        let Some(begun) = Instant::now().checked_sub(hours / 2) else { return };
        assert_eq!(of_time(begun, hours, "x", "the bare loop"), format!("{half}x: the bare loop"));
    }
}
