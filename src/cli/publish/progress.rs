//! How far it is: a line on standard error that rewrites itself, if somebody is there to look at it.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::lines::Line;
use crate::cli::bar::bar;
use crate::cli::listen::printable;

const SHOW_EVERY: Duration = Duration::from_millis(100);

pub struct Progress {
    /// Of the whole input, if known.
    bytes: Option<u64>,
    bytes_done: u64,
    pub published: u64,
    pub refused: u64,
    began: Instant,
    /// `None` where nobody looks.
    shown: Option<Instant>,
}

impl Progress {
    pub fn new(bytes: Option<u64>) -> Self {
        let began = Instant::now();
        let shown = io::stderr().is_terminal().then_some(began);
        Self { bytes, bytes_done: 0, published: 0, refused: 0, began, shown }
    }

    pub fn published(&mut self, lines: &[Line]) {
        self.published += lines.len() as u64;
        self.bytes_done += lines.iter().map(|line| line.read_bytes).sum::<u64>();
        if self.shown.is_some_and(|shown| shown.elapsed() >= SHOW_EVERY) {
            self.show("");
        }
    }

    /// Clears the way for whatever is said about the line.
    pub fn refused(&mut self, line: &Line) {
        self.refused += 1;
        self.bytes_done += line.read_bytes;
        self.clear();
    }

    /// Says something about a line that is not refused.
    pub fn remark(&self, number: u64, remark: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "line {number}: {remark}");
    }

    /// Nothing moves for this long, and why.
    pub fn waiting(&mut self, wait: Duration, why: &str) {
        if self.shown.is_some() {
            self.show(&waits(wait, why));
        }
    }

    /// What it came to. Said where nobody looks as well: it is the last line of a job's log.
    pub fn finish(&mut self) {
        self.clear();
        let _ = writeln!(io::stderr(), "{}", self.text());
    }

    fn show(&mut self, besides: &str) {
        self.shown = Some(Instant::now());
        let bar = self.bytes.map(|bytes| bar(self.bytes_done, bytes)).unwrap_or_default();
        // What is wider than the terminal is cut off: a line that went on below could not be rewritten.
        let _ = write!(io::stderr(), "\r\x1b[K\x1b[?7l{bar}{}{besides}\x1b[?7h", self.text());
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn text(&self) -> String {
        let rate = self.published as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let refused = if self.refused == 0 { String::new() } else { format!(", {} refused", self.refused) };
        format!("{} published{refused}, {rate:.0} a second", self.published)
    }
}

fn waits(wait: Duration, why: &str) -> String {
    format!("; waiting {} s: {}", wait.as_secs(), printable::line(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_says_how_long_and_why() {
        let said = waits(Duration::from_secs(60), "the server answered 503 \"busy\"\x1b[2J");
        assert_eq!(said, "; waiting 60 s: the server answered 503 \"busy\"\\u001b[2J");
    }
}
