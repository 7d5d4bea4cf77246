//! The events as they are read: line by line, numbered, each with an id. Knows not where they go.

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
pub struct Line {
    /// In the input, from 1.
    pub number: u64,
    pub text: Vec<u8>,
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
            let line = match next_line(&mut reader, number) {
                Ok(None) => return,
                Ok(Some(text)) if text.iter().all(u8::is_ascii_whitespace) => {
                    skipped_bytes += text.len() as u64;
                    continue;
                }
                Ok(Some(text)) => {
                    let read_bytes = text.len() as u64 + std::mem::take(&mut skipped_bytes);
                    Ok(Line { number, text: with_id(text), read_bytes })
                }
                Err(problem) => Err(problem),
            };
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// A line with its end; `None` at the end of the input.
fn next_line(reader: &mut BufReader<Input>, number: u64) -> Result<Option<Vec<u8>>, String> {
    let mut text = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 2;
    let read = reader.take(limit).read_until(b'\n', &mut text);
    read.map_err(|error| format!("cannot read line {number}: {error}"))?;
    if text.trim_ascii_end().len() > LINE_BYTES_MAX || (text.len() as u64 == limit && !text.ends_with(b"\n"))
    {
        return Err(format!(
            "line {number} is longer than {LINE_BYTES_MAX} bytes; nothing from it on was published"
        ));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// The only member that matters here.
#[derive(Deserialize)]
struct Identified {
    #[serde(default)]
    id: Option<IgnoredAny>,
}

/// The line without its end, and with an id if it has none. What is no object is left for the server to refuse.
fn with_id(text: Vec<u8>) -> Vec<u8> {
    let line = text.trim_ascii();
    let lacks_id = serde_json::from_slice::<Identified>(line).is_ok_and(|event| event.id.is_none());
    let members = line.strip_prefix(b"{").filter(|rest| !rest.trim_ascii_start().starts_with(b"}"));
    match members {
        Some(members) if lacks_id => {
            let mut identified = format!("{{\"id\":\"{}\",", Uuid::now_v7()).into_bytes();
            identified.extend_from_slice(members);
            identified
        }
        _ => line.to_vec(),
    }
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
    }

    #[test]
    fn a_line_without_an_id_is_given_one_and_nothing_else_changes() {
        let text = String::from_utf8(with_id(b"{ \"type\" : \"a\",\"data\":1e400}\n".to_vec())).unwrap();
        let (id, rest) = text.strip_prefix("{\"id\":\"").unwrap().split_once("\",").unwrap();
        assert!(Uuid::parse_str(id).is_ok());
        assert_eq!(rest, " \"type\" : \"a\",\"data\":1e400}");
        for as_it_is in ["{\"id\":\"x\",\"a\":1}", "{}", "{ }", "[]", "nonsense", "{\"a\":", "\"{\""] {
            assert_eq!(with_id(as_it_is.as_bytes().to_vec()), as_it_is.as_bytes(), "{as_it_is}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_not_read_to_its_end() {
        let endless = Box::new(io::repeat(b'x'));
        let first = read(endless, 1).blocking_recv().unwrap();
        assert!(first.is_err_and(|problem| problem.starts_with("line 1 is longer than")));
    }
}
