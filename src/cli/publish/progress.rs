//! How far it is: a line on standard error that rewrites itself, if somebody is there to look at it.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::lines::Line;
use crate::cli::bar::bar;

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
            self.show();
        }
    }

    /// Clears the way for whatever is said about the line.
    pub fn refused(&mut self, line: &Line) {
        self.refused += 1;
        self.bytes_done += line.read_bytes;
        self.clear();
    }

    /// What it came to. Said where nobody looks as well: it is the last line of a job's log.
    pub fn finish(&mut self) {
        self.clear();
        let _ = writeln!(io::stderr(), "{}", self.text());
    }

    fn show(&mut self) {
        self.shown = Some(Instant::now());
        let bar = self.bytes.map(|bytes| bar(self.bytes_done, bytes)).unwrap_or_default();
        let _ = write!(io::stderr(), "\r\x1b[K{bar}{}", self.text());
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
