//! `herald publish`: publishes the events of a file or of standard input, one on each line, in batches. It stands on a producer's side of
//! the wire and knows nothing of the server but its published API.
//!
//! A refused line is named and left out; the others are published. Lines without an id are given one, so that a batch whose answer was
//! lost can be sent again without happening twice. One so long that it has no room for an id is sent without.

mod client;
mod lines;
mod progress;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tokio::sync::mpsc;
use url::Url;

use super::listen::printable;
use crate::domain::secret::Secret;
use client::{Client, Reply};
use lines::Line;
use progress::Progress;

/// Of one batch.
const BATCH_LINES_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(clap::Args)]
#[command(
    after_help = "A line may have 262144 bytes. One without an id is given one, so that it can be sent again when an answer is lost. \
A line of more than 262100 bytes has no room for that: give it an id yourself, or it may happen twice."
)]
pub struct PublishArgs {
    /// Events, one JSON object on each line; standard input when absent or -
    file: Option<PathBuf>,

    /// The server's operator side
    #[arg(long, value_name = "URL", env = "HERALD_OPERATOR_URL", default_value = "http://127.0.0.1:8081")]
    operator_url: Url,

    /// A key with the scope producer
    #[arg(long, value_name = "KEY", env = "HERALD_API_KEY", hide_env_values = true, value_parser = secret)]
    api_key: Secret,

    /// Print what came of each line, as a line of JSON
    #[arg(long)]
    results: bool,
}

/// Any text may turn out to be a key.
fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::from(text.to_owned()))
}

/// Succeeds if every event was published.
pub async fn run(args: PublishArgs) -> ExitCode {
    match publish(args).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_refused) => ExitCode::FAILURE,
        Err(problem) => {
            // Where even standard error is closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "herald publish: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many lines were refused.
async fn publish(args: PublishArgs) -> Result<u64, String> {
    let (input, bytes) = lines::open(args.file.as_deref())?;
    let mut publishing = Publishing {
        client: Client::new(&args.operator_url, &args.api_key)?,
        results: args.results,
        progress: Progress::new(bytes),
    };
    let mut waiting = lines::read(input, BATCH_LINES_MAX);
    let mut batch = Vec::new();
    let published = loop {
        match next_batch(&mut waiting, &mut batch).await {
            Ok(lines) if lines.is_empty() => break Ok(()),
            Ok(lines) => {
                if let Err(problem) = publishing.publish(lines).await {
                    break Err(problem);
                }
            }
            Err(problem) => break Err(problem),
        }
    };
    publishing.progress.finish();
    published.map(|()| publishing.progress.refused)
}

/// Whatever lines wait, as many as fit into a batch; what does not fit stays in `rest`. Empty at the end of the input.
async fn next_batch(
    waiting: &mut mpsc::Receiver<Result<Line, String>>,
    rest: &mut Vec<Result<Line, String>>,
) -> Result<Vec<Line>, String> {
    if rest.is_empty() {
        waiting.recv_many(rest, BATCH_LINES_MAX).await;
    }
    let mut bytes = 0;
    let fits = |line: &&Result<Line, String>| {
        bytes += line.as_ref().map_or(0, |line| line.text.len() + 1);
        line.is_ok() && bytes <= BATCH_BYTES_MAX
    };
    // A line alone is far smaller than a batch, so that none of them here means that reading went wrong.
    let count = rest.iter().take_while(fits).count();
    if count == 0 && !rest.is_empty() {
        return rest.remove(0).map(|line| vec![line]);
    }
    // What is in hand leaves its room to what is read meanwhile.
    rest.drain(..count).map(|line| Ok(Line { ahead: None, ..line? })).collect()
}

struct Publishing {
    client: Client,
    results: bool,
    progress: Progress,
}

impl Publishing {
    /// Publishes a batch, again without the lines that are refused for as long as there are any.
    async fn publish(&mut self, lines: Vec<Line>) -> Result<(), String> {
        let (unsent, mut lines): (Vec<Line>, Vec<Line>) =
            lines.into_iter().partition(|line| line.refused.is_some());
        for line in &unsent {
            self.refuse(line, line.refused.as_slice())?;
        }
        while !lines.is_empty() {
            match self.client.post(&lines, &mut self.progress).await? {
                Reply::Accepted(results) => {
                    // They are, even if nobody reads any more what came of them.
                    self.progress.published(&lines);
                    for (line, result) in lines.iter().zip(&results) {
                        self.tell(
                            &json!({ "line": line.number, "id": result.id, "matched": result.matched }),
                        )?;
                    }
                    return Ok(());
                }
                Reply::Refused(complaints) => {
                    let before = lines.len();
                    let (wrong, fine) = split(lines, |place| complaints.contains_key(&place));
                    for (place, line) in wrong {
                        let said = complaints.get(&place).map(Vec::as_slice).unwrap_or_default();
                        self.refuse(&line, said)?;
                    }
                    lines = fine;
                    if lines.len() == before {
                        return Err("the server refused a batch and named none of its lines".to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, line: &Line, complaints: &[String]) -> Result<(), String> {
        self.progress.refused(line);
        for complaint in complaints {
            let _ = writeln!(io::stderr(), "line {}: {}", line.number, printable::line(complaint));
        }
        self.tell(&json!({ "line": line.number, "refused": complaints }))
    }

    fn tell(&self, result: &serde_json::Value) -> Result<(), String> {
        if !self.results {
            return Ok(());
        }
        writeln!(io::stdout(), "{result}").map_err(|error| format!("cannot write the results: {error}"))
    }
}

/// The lines whose place in the batch (from 1) is chosen, with it, and the others.
fn split(lines: Vec<Line>, chosen: impl Fn(usize) -> bool) -> (Vec<(usize, Line)>, Vec<Line>) {
    let (mut of_those, mut others) = (Vec::new(), Vec::new());
    for (place, line) in (1..).zip(lines) {
        if chosen(place) {
            of_those.push((place, line));
        } else {
            others.push(line);
        }
    }
    (of_those, others)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn line(number: u64, bytes: usize) -> Result<Line, String> {
        Ok(Line { number, text: vec![b'x'; bytes], read_bytes: bytes as u64, ..Line::default() })
    }

    #[tokio::test]
    async fn a_batch_is_what_waits_as_far_as_it_fits() {
        let (sender, mut waiting) = mpsc::channel(100);
        for number in 1..=20 {
            sender.send(line(number, 250 * 1024)).await.unwrap();
        }
        sender.send(Err("broken".to_owned())).await.unwrap();
        drop(sender);
        let mut rest = Vec::new();
        let mut sizes = Vec::new();
        let problem = loop {
            match next_batch(&mut waiting, &mut rest).await {
                Ok(batch) => sizes.push(batch.len()),
                Err(problem) => break problem,
            }
        };
        assert_eq!((sizes, problem.as_str()), (vec![16, 4], "broken"));
        assert!(next_batch(&mut waiting, &mut rest).await.unwrap().is_empty(), "the end");
    }

    /// Counts what is read of it.
    struct Counted(io::Cursor<Vec<u8>>, Arc<AtomicUsize>);

    impl io::Read for Counted {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let bytes = self.0.read(into)?;
            self.1.fetch_add(bytes, Ordering::Relaxed);
            Ok(bytes)
        }
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_bounded_in_bytes_and_what_is_in_hand_leaves_room() {
        const LINES: usize = 200;
        let line = [b"x".repeat(lines::LINE_BYTES_MAX), b"\n".to_vec()].concat();
        let (input, read_bytes) = (line.repeat(LINES), Arc::new(AtomicUsize::new(0)));
        let input_bytes = input.len();
        let mut waiting =
            lines::read(Box::new(Counted(io::Cursor::new(input), read_bytes.clone())), BATCH_LINES_MAX);
        let first = waiting.recv().await.unwrap().unwrap();
        let room_bytes = first.ahead.as_ref().unwrap().semaphore().clone();
        // Until the reader can go no further.
        let read_bytes = || read_bytes.load(Ordering::Relaxed);
        while room_bytes.available_permits() >= lines::LINE_BYTES_MAX && read_bytes() < input_bytes {
            tokio::task::yield_now().await;
        }
        // A line waits for room, and a piece of the next may be in the buffer.
        let bytes_max = lines::AHEAD_BYTES_MAX + 3 * line.len();
        assert!(read_bytes() <= bytes_max, "{} bytes were read ahead", read_bytes());

        drop(first);
        let (mut rest, mut in_hand) = (Vec::new(), Vec::new());
        loop {
            let batch = timeout(Duration::from_secs(60), next_batch(&mut waiting, &mut rest)).await;
            match batch.expect("there is room").unwrap() {
                batch if batch.is_empty() => break,
                batch => in_hand.extend(batch),
            }
        }
        assert!(in_hand.iter().map(|line| line.number).eq(2..=LINES as u64));
    }

    #[test]
    fn refused_lines_are_told_from_the_others_by_their_place() {
        let lines = (5..10).map(|number| line(number, 1).unwrap()).collect();
        let (wrong, fine) = split(lines, |place| place == 2 || place == 5);
        let wrong: Vec<_> = wrong.iter().map(|(place, line)| (*place, line.number)).collect();
        assert_eq!(wrong, [(2, 6), (5, 9)]);
        assert_eq!(fine.iter().map(|line| line.number).collect::<Vec<_>>(), [5, 7, 8]);
    }
}
