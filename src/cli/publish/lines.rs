//! The events as they are read: line by line, numbered, each with an id if there is room for one. Knows not where they go.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

/// Of a line as it is read; the server takes no larger event.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

/// Of lines that are read and stand in no batch yet.
pub const AHEAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What some editors put before a file to say that it is UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// An event on its way.
#[derive(Default)]
pub struct Line {
    /// In the input, from 1.
    pub number: u64,
    pub text: Vec<u8>,
    /// It has no id, because with one it would be larger than the server takes; so the server cannot tell that it has it already.
    pub unidentified: bool,
    /// Why it is not even sent, and has no text.
    pub refused: Option<String>,
    /// What it took of the input, its end and blank lines before it included.
    pub read_bytes: u64,
    /// Its part of what may be read ahead, for as long as it stands in no batch.
    pub ahead: Option<OwnedSemaphorePermit>,
}

pub type Input = Box<dyn Read + Send>;

/// The input, with its length if that is known.
pub fn open(file: Option<&Path>) -> Result<(Input, Option<u64>), String> {
    let Some(path) = file.filter(|path| *path != Path::new("-")) else {
        return Ok((Box::new(io::stdin()), None));
    };
    let wrong = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Reads on a thread of its own, because a terminal or a pipe may keep it waiting for ever; ahead as far as `ahead_lines` in the channel,
/// and as there is room for what stands in no batch yet. An error is the last thing that is sent.
pub fn read(input: Input, ahead_lines: usize) -> mpsc::Receiver<Result<Line, String>> {
    let (sender, receiver) = mpsc::channel(ahead_lines);
    let (room_bytes, runtime) = (Arc::new(Semaphore::new(AHEAD_BYTES_MAX)), Handle::current());
    thread::spawn(move || {
        let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, input);
        let (mut number, mut skipped_bytes) = (0, 0);
        loop {
            number += 1;
            let line = match next_line(&mut reader, number == 1) {
                Ok(Next::End) => return,
                // As the server sees it: a line that it skipped would have no answer.
                Ok(Next::Text { text, bytes }) if text.iter().all(u8::is_ascii_whitespace) => {
                    skipped_bytes += bytes;
                    continue;
                }
                Ok(Next::Text { text, bytes }) => {
                    let read_bytes = bytes + std::mem::take(&mut skipped_bytes);
                    let (text, unidentified) = with_id(text);
                    Ok(Line { number, text, unidentified, read_bytes, ..Line::default() })
                }
                Ok(Next::TooLong { bytes }) => {
                    let refused = Some(format!("is larger than {LINE_BYTES_MAX} bytes"));
                    let read_bytes = bytes + std::mem::take(&mut skipped_bytes);
                    Ok(Line { number, refused, read_bytes, ..Line::default() })
                }
                Err(error) => Err(format!("cannot read line {number}: {error}")),
            };
            let is_last = line.is_err();
            if runtime.block_on(send(&sender, line, &room_bytes)).is_none() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Waits for room. `None` when nobody takes lines any more: what was read gave its room back with them, so that this comes to an end.
async fn send(
    sender: &mpsc::Sender<Result<Line, String>>,
    mut line: Result<Line, String>,
    room_bytes: &Arc<Semaphore>,
) -> Option<()> {
    if let Ok(line) = &mut line {
        let bytes = u32::try_from(line.text.len()).ok()?;
        line.ahead = Some(Arc::clone(room_bytes).acquire_many_owned(bytes).await.ok()?);
    }
    sender.send(line).await.ok()
}

enum Next {
    /// With its end, but without an editor's mark, which `bytes` counts as well.
    Text {
        text: Vec<u8>,
        bytes: u64,
    },
    /// Passed over to its end, none of it kept.
    TooLong {
        bytes: u64,
    },
    End,
}

/// However long a line is, no more than the largest event of it is in memory.
fn next_line(reader: &mut BufReader<Input>, is_first: bool) -> io::Result<Next> {
    let mut text = Vec::new();
    // With a line's end there may be two bytes more, and before the first line the mark.
    let limit = LINE_BYTES_MAX + 2 + if is_first { MARK.len() } else { 0 };
    let read_bytes = reader.take(limit as u64).read_until(b'\n', &mut text)?;
    let cut = read_bytes == limit && !text.ends_with(b"\n");
    if is_first && text.starts_with(MARK) {
        text.drain(..MARK.len());
    }
    if read_bytes == 0 {
        Ok(Next::End)
    } else if cut || text.trim_ascii_end().len() > LINE_BYTES_MAX {
        let rest_bytes = if cut { reader.skip_until(b'\n')? } else { 0 };
        Ok(Next::TooLong { bytes: (read_bytes + rest_bytes) as u64 })
    } else {
        Ok(Next::Text { text, bytes: read_bytes as u64 })
    }
}

/// The only member that matters here.
#[derive(Deserialize)]
struct Identified {
    #[serde(default, rename = "id", deserialize_with = "present")]
    has_id: bool,
}

/// Whatever the value is: `null` is the server's to refuse.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_ignored| true)
}

/// The line without its end, and with an id if it has none; whether there was no room for one is told as well. What is no object is left
/// for the server to refuse.
fn with_id(text: Vec<u8>) -> (Vec<u8>, bool) {
    let line = text.trim_ascii();
    let lacks_id = serde_json::from_slice::<Identified>(line).is_ok_and(|event| !event.has_id);
    let members = line.strip_prefix(b"{").filter(|rest| !rest.trim_ascii_start().starts_with(b"}"));
    let Some(members) = members.filter(|_| lacks_id) else { return (line.to_vec(), false) };
    let mut identified = format!("{{\"id\":\"{}\",", Uuid::now_v7()).into_bytes();
    if identified.len() + members.len() > LINE_BYTES_MAX {
        return (line.to_vec(), true);
    }
    identified.extend_from_slice(members);
    (identified, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::event_body;

    async fn all(input: impl Read + Send + 'static) -> Vec<Result<Line, String>> {
        let mut lines = read(Box::new(input), 10);
        let mut all = Vec::new();
        while let Some(line) = lines.recv().await {
            all.push(line);
        }
        all
    }

    /// The number of each line, what is sent of it, and what it took of the input.
    async fn told(input: &'static [u8]) -> Vec<(u64, String, u64)> {
        let told = |line: Line| (line.number, String::from_utf8(line.text).unwrap(), line.read_bytes);
        all(input).await.into_iter().map(|line| told(line.unwrap())).collect()
    }

    #[tokio::test]
    async fn lines_keep_their_number_in_the_input_and_lose_their_end() {
        let read = told(b"{\"id\":1}\r\n\n  \n [1] \n{\"id\":2}").await;
        let expected = [(1, "{\"id\":1}", 10), (4, "[1]", 10), (5, "{\"id\":2}", 8)];
        assert_eq!(read, expected.map(|(number, text, bytes)| (number, text.to_owned(), bytes)));
        assert!(told(b"").await.is_empty());
    }

    #[tokio::test]
    async fn what_an_editor_put_before_the_first_line_is_no_part_of_it() {
        let event = "{\"id\":3}".to_owned();
        assert_eq!(told(b"\xef\xbb\xbf{\"id\":3}\n").await, [(1, event.clone(), 12)]);
        for blank in [&b"\xef\xbb\xbf"[..], b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\r\n", b"\xef\xbb\xbf \t\n\n"] {
            assert!(told(blank).await.is_empty(), "{blank:?}");
        }
        assert_eq!(told(b"\xef\xbb\xbf\r\n{\"id\":3}\n").await, [(2, event, 14)]);
        for (bytes, refused) in [(LINE_BYTES_MAX, false), (LINE_BYTES_MAX + 1, true)] {
            let read = all(io::Cursor::new(format!("\u{feff}{}\r\n", "x".repeat(bytes)))).await;
            let [Ok(line)] = &read[..] else { panic!("{} lines", read.len()) };
            assert_eq!((line.refused.is_some(), line.read_bytes), (refused, bytes as u64 + 5));
        }
        let later = told(b"[1]\n\xef\xbb\xbf\n").await;
        assert_eq!(later[1], (2, "\u{feff}".to_owned(), 4), "only the first line has one");
    }

    /// Or else a line would be sent that gets no answer.
    #[tokio::test]
    async fn what_is_blank_is_so_for_the_server_too() {
        for blank in
            [" ", "\t", "\r", "\u{c}", "\u{b}", "\0", "\u{85}", "\u{a0}", "\u{2028}", "\u{3000}", "\u{feff}"]
        {
            let sent = all(io::Cursor::new(format!("\n{blank}\n"))).await.len();
            let body = format!("{{\"type\":\"a\",\"data\":1}}\n{blank}\n");
            let taken = event_body::batch(body.as_bytes()).is_ok_and(|events| events.len() == 1);
            assert_eq!(sent == 0, taken, "{blank:?}");
        }
    }

    #[test]
    fn a_line_without_an_id_is_given_one_and_nothing_else_changes() {
        let text = String::from_utf8(with_id(b"{ \"type\" : \"a\",\"data\":1e400}\n".to_vec()).0).unwrap();
        let (id, rest) = text.strip_prefix("{\"id\":\"").unwrap().split_once("\",").unwrap();
        assert!(Uuid::parse_str(id).is_ok());
        assert_eq!(rest, " \"type\" : \"a\",\"data\":1e400}");
        for as_it_is in [
            "{\"id\":\"x\",\"a\":1}",
            "{\"a\":1,\"id\":null}",
            "{\"\\u0069d\":null}",
            "{}",
            "{ }",
            "[]",
            "nonsense",
            "{\"a\":",
            "\"{\"",
        ] {
            assert_eq!(
                with_id(as_it_is.as_bytes().to_vec()),
                (as_it_is.as_bytes().to_vec(), false),
                "{as_it_is}"
            );
        }
    }

    #[test]
    fn a_line_without_room_for_an_id_stays_as_it_is() {
        let id_bytes = with_id(b"{\"a\":1}".to_vec()).0.len() - b"{\"a\":1}".len();
        for (bytes, unidentified) in [
            (LINE_BYTES_MAX - id_bytes, false),
            (LINE_BYTES_MAX - id_bytes + 1, true),
            (LINE_BYTES_MAX, true),
        ] {
            let line = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8)).into_bytes();
            let (text, told) = with_id(line.clone());
            assert_eq!((told, text == line), (unidentified, unidentified), "{bytes}");
            assert!(text.len() <= LINE_BYTES_MAX);
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_counted() {
        let long = b"x".repeat(LINE_BYTES_MAX * 3);
        let input = [b"[1]\n".as_slice(), &long, b"\n[3]\n", &long].concat();
        let bytes = input.len() as u64;
        let mut lines = read(Box::new(io::Cursor::new(input)), 10);
        let (mut told, mut read_bytes) = (Vec::new(), 0);
        while let Some(line) = lines.recv().await {
            let line = line.unwrap();
            read_bytes += line.read_bytes;
            told.push((line.number, line.text.len(), line.refused.is_some()));
        }
        assert_eq!(told, [(1, 3, false), (2, 0, true), (3, 3, false), (4, 0, true)]);
        assert_eq!(read_bytes, bytes);
    }

    #[tokio::test]
    async fn a_line_as_long_as_an_event_may_be_is_read_with_either_end() {
        for end in ["", "\n", "\r\n"] {
            for (bytes, refused) in [(LINE_BYTES_MAX, false), (LINE_BYTES_MAX + 1, true)] {
                let input = format!("{}{end}", "x".repeat(bytes));
                let line = read(Box::new(io::Cursor::new(input)), 1).recv().await.unwrap().unwrap();
                assert_eq!(
                    (line.refused.is_some(), line.read_bytes),
                    (refused, (bytes + end.len()) as u64),
                    "{end:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_said_and_ends_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let mut lines = read(Box::new(b"[1]\n".chain(Broken)), 10);
        assert!(lines.recv().await.unwrap().is_ok());
        assert_eq!(lines.recv().await.unwrap().err().unwrap(), "cannot read line 2: gone");
        assert!(lines.recv().await.is_none());
    }
}
