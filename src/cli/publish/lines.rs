//! The events as they are read: line by line, numbered, each with an id if there is room for one. Knows not where they go.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::thread;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Of a line as it is read; the server takes no larger event.
const LINE_BYTES_MAX: usize = 256 * 1024;

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

/// Reads on a thread of its own, as far ahead as `ahead` lines, because a terminal or a pipe may keep it waiting for ever. An error is the
/// last thing that is sent.
pub fn read(input: Input, ahead: usize) -> mpsc::Receiver<Result<Line, String>> {
    let (sender, receiver) = mpsc::channel(ahead);
    thread::spawn(move || {
        let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, input);
        let (mut number, mut skipped_bytes) = (0, 0);
        loop {
            number += 1;
            let line = match next_line(&mut reader) {
                Ok(Next::End) => return,
                Ok(Next::Text(text)) if text.iter().all(u8::is_ascii_whitespace) => {
                    skipped_bytes += text.len() as u64;
                    continue;
                }
                Ok(Next::Text(text)) => {
                    let read_bytes = text.len() as u64 + std::mem::take(&mut skipped_bytes);
                    let (text, unidentified) = with_id(if number == 1 { without_mark(text) } else { text });
                    Ok(Line { number, text, unidentified, refused: None, read_bytes })
                }
                Ok(Next::TooLong { bytes }) => {
                    let refused = Some(format!("is larger than {LINE_BYTES_MAX} bytes"));
                    let read_bytes = bytes + std::mem::take(&mut skipped_bytes);
                    Ok(Line { number, refused, read_bytes, ..Line::default() })
                }
                Err(error) => Err(format!("cannot read line {number}: {error}")),
            };
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

enum Next {
    /// With its end.
    Text(Vec<u8>),
    /// Passed over to its end, none of it kept.
    TooLong {
        bytes: u64,
    },
    End,
}

/// However long a line is, no more than the largest event of it is in memory.
fn next_line(reader: &mut BufReader<Input>) -> io::Result<Next> {
    let mut text = Vec::new();
    // With a line's end there may be two bytes more.
    let limit = LINE_BYTES_MAX as u64 + 2;
    reader.take(limit).read_until(b'\n', &mut text)?;
    let cut = text.len() as u64 == limit && !text.ends_with(b"\n");
    if text.is_empty() {
        Ok(Next::End)
    } else if cut || text.trim_ascii_end().len() > LINE_BYTES_MAX {
        let rest = if cut { reader.skip_until(b'\n')? } else { 0 };
        Ok(Next::TooLong { bytes: (text.len() + rest) as u64 })
    } else {
        Ok(Next::Text(text))
    }
}

/// What some editors put before a file to say that it is UTF-8.
fn without_mark(text: Vec<u8>) -> Vec<u8> {
    text.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(text)
}

/// The only member that matters here.
#[derive(Deserialize)]
struct Identified {
    #[serde(default)]
    id: Option<IgnoredAny>,
}

/// The line without its end, and with an id if it has none; whether there was no room for one is told as well. What is no object is left
/// for the server to refuse.
fn with_id(text: Vec<u8>) -> (Vec<u8>, bool) {
    let line = text.trim_ascii();
    let lacks_id = serde_json::from_slice::<Identified>(line).is_ok_and(|event| event.id.is_none());
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

    fn all(input: &'static [u8]) -> Vec<Result<(u64, String), String>> {
        let mut lines = read(Box::new(input), 10);
        let mut all = Vec::new();
        while let Some(line) = lines.blocking_recv() {
            all.push(line.map(|line| (line.number, String::from_utf8(line.text).unwrap())));
        }
        all
    }

    #[test]
    fn lines_keep_their_number_in_the_input_and_lose_their_end() {
        let read = all(b"{\"id\":1}\r\n\n  \n [1] \n{\"id\":2}");
        let told: Vec<_> =
            read.iter().map(|line| line.as_ref().map(|(number, text)| (*number, text.as_str()))).collect();
        assert_eq!(told, [Ok((1, "{\"id\":1}")), Ok((4, "[1]")), Ok((5, "{\"id\":2}"))]);
        assert!(all(b"").is_empty());
        let [Ok((1, text))] = &all(b"\xef\xbb\xbf{\"id\":3}\n")[..] else { panic!() };
        assert_eq!(text, "{\"id\":3}", "what an editor put before it");
    }

    #[test]
    fn a_line_without_an_id_is_given_one_and_nothing_else_changes() {
        let text = String::from_utf8(with_id(b"{ \"type\" : \"a\",\"data\":1e400}\n".to_vec()).0).unwrap();
        let (id, rest) = text.strip_prefix("{\"id\":\"").unwrap().split_once("\",").unwrap();
        assert!(Uuid::parse_str(id).is_ok());
        assert_eq!(rest, " \"type\" : \"a\",\"data\":1e400}");
        for as_it_is in ["{\"id\":\"x\",\"a\":1}", "{}", "{ }", "[]", "nonsense", "{\"a\":", "\"{\""] {
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

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_counted() {
        let long = b"x".repeat(LINE_BYTES_MAX * 3);
        let input = [b"[1]\n".as_slice(), &long, b"\n[3]\n", &long].concat();
        let bytes = input.len() as u64;
        let mut lines = read(Box::new(io::Cursor::new(input)), 10);
        let (mut told, mut read_bytes) = (Vec::new(), 0);
        while let Some(line) = lines.blocking_recv() {
            let line = line.unwrap();
            read_bytes += line.read_bytes;
            told.push((line.number, line.text.len(), line.refused.is_some()));
        }
        assert_eq!(told, [(1, 3, false), (2, 0, true), (3, 3, false), (4, 0, true)]);
        assert_eq!(read_bytes, bytes);
    }

    #[test]
    fn a_line_as_long_as_an_event_may_be_is_read_with_either_end() {
        for end in ["", "\n", "\r\n"] {
            for (bytes, refused) in [(LINE_BYTES_MAX, false), (LINE_BYTES_MAX + 1, true)] {
                let input = format!("{}{end}", "x".repeat(bytes));
                let line = read(Box::new(io::Cursor::new(input)), 1).blocking_recv().unwrap().unwrap();
                assert_eq!(
                    (line.refused.is_some(), line.read_bytes),
                    (refused, (bytes + end.len()) as u64),
                    "{end:?}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_and_ends_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let mut lines = read(Box::new(b"[1]\n".chain(Broken)), 10);
        assert!(lines.blocking_recv().unwrap().is_ok());
        assert_eq!(lines.blocking_recv().unwrap().err().unwrap(), "cannot read line 2: gone");
        assert!(lines.blocking_recv().is_none());
    }
}
