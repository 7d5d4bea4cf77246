//! Log lines on their way out. Whoever has something to say leaves it here and goes on; a thread of its own writes. So a log that nobody reads (a
//! pipe that is full, a logging driver that blocks) holds up nothing, where each line would otherwise keep a worker thread of the server until
//! it can be written. What there is no room for is left out, counted, and told once there is room again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Of lines that wait to be written.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is kept for the next, after more was written at once.
const BYTES_USUAL: usize = 64 * 1024;
/// How long the last words may take when the process ends.
const LAST_WITHIN: Duration = Duration::from_millis(500);

static LINES_LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines this process has left out.
pub fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Where to leave lines. Cheap to clone.
#[derive(Clone, Default)]
pub struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    line: Mutex<Line>,
    changed: Condvar,
}

/// What stands in line.
#[derive(Default)]
struct Line {
    waiting: Vec<u8>,
    /// Whether what was taken out of it is being written.
    writing: bool,
    /// Lines that found no room since that was told.
    lost: u64,
}

/// The end of the log: dropped, it waits until all lines are written, as long as somebody reads them.
#[must_use = "the last lines are lost without it"]
pub struct LastLines(LogWriter);

impl Drop for LastLines {
    fn drop(&mut self) {
        let unwritten = |line: &mut Line| line.writing || !line.waiting.is_empty();
        drop(self.0.0.changed.wait_timeout_while(self.0.line(), LAST_WITHIN, unwritten));
    }
}

/// Says on standard error why the process ends, but does not wait for ever for somebody to read it.
pub fn last_words(words: &str) {
    let (said, is_said) = mpsc::channel();
    let say = {
        let words = words.to_owned();
        move || {
            let _nobody_reads = writeln!(io::stderr(), "{words}");
            let _gone = said.send(());
        }
    };
    match std::thread::Builder::new().name("last words".to_owned()).spawn(say) {
        Ok(_says_it) => drop(is_said.recv_timeout(LAST_WITHIN)),
        // That there are no threads to be had may be why it ends.
        Err(_no_thread) => drop(writeln!(io::stderr(), "{words}")),
    }
}

impl LogWriter {
    /// Begins to write to `out`. Errors: there is no thread to be had.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<(LogWriter, LastLines)> {
        let log = LogWriter::default();
        let writer = log.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all_to(out))?;
        Ok((log.clone(), LastLines(log)))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_to(&self, mut out: impl Write) -> ! {
        let mut taken = Vec::new();
        loop {
            let is_idle = |line: &mut Line| line.waiting.is_empty();
            let waited = self.0.changed.wait_while(self.line(), is_idle);
            let mut line = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut line.waiting, &mut taken);
            line.writing = true;
            let lost = std::mem::take(&mut line.lost);
            drop(line);

            // There is room for it at this moment, and what is missing is missing behind what was taken.
            if lost > 0 {
                tracing::warn!(
                    lines = lost,
                    "lines are missing here: the log was not read as fast as it was written"
                );
            }
            if out.write_all(&taken).and_then(|()| out.flush()).is_err() {
                // Where nobody reads any more there is nobody to tell.
                let lines = taken.iter().filter(|byte| **byte == b'\n').count();
                LINES_LOST.fetch_add(lines as u64, Ordering::Relaxed);
            }
            taken.clear();
            taken.shrink_to(BYTES_USUAL);
            self.line().writing = false;
            self.0.changed.notify_all();
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Takes one line at a time, whole or not at all.
impl Write for &LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut line = self.line();
        if line.waiting.len() + text.len() > BYTES_MAX {
            line.lost += 1;
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        } else {
            line.waiting.extend_from_slice(text);
            drop(line);
            self.0.changed.notify_all();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender};

    use super::*;

    /// A reader that takes what is written when it is told to.
    struct Slow {
        may_read: Receiver<()>,
        read: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.may_read.recv().map_err(io::Error::other)?;
            self.read.send(text.to_vec()).map_err(io::Error::other)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_is_not_read_holds_up_nobody_and_is_whole_as_far_as_there_was_room() {
        let ((go_on, may_read), (read, was_read)) = (mpsc::channel(), mpsc::channel());
        let (log, last) = LogWriter::start(Slow { may_read, read }).unwrap();
        let line = [b'a'; 1024];
        // It takes one of them, and waits for its reader.
        (&log).write_all(&line).unwrap();
        while !log.line().writing {
            std::thread::yield_now();
        }
        let lost_before = lines_lost();
        for _ in 0..BYTES_MAX / line.len() + 7 {
            (&log).write_all(&line).unwrap();
        }
        assert_eq!((log.line().lost, lines_lost() - lost_before), (7, 7));
        drop(last);
        assert_eq!(log.line().waiting.len(), BYTES_MAX, "who ends does not wait for ever");

        let last = LastLines(log.clone());
        (0..2).for_each(|_| go_on.send(()).unwrap());
        drop(last);
        assert_eq!(was_read.try_iter().map(|text| text.len()).collect::<Vec<_>>(), [line.len(), BYTES_MAX]);
        let line = log.line();
        assert!((line.lost, line.waiting.len()) == (0, 0) && !line.writing);
    }

    #[test]
    fn what_was_said_last_is_written_before_the_end() {
        let ((go_on, may_read), (read, was_read)) = (mpsc::channel(), mpsc::channel());
        let (log, last) = LogWriter::start(Slow { may_read, read }).unwrap();
        (0..3).for_each(|_| go_on.send(()).unwrap());
        (&log).write_all(b"good").unwrap();
        (&log).write_all(b"bye").unwrap();
        drop(last);
        assert_eq!(was_read.try_iter().flatten().collect::<Vec<_>>(), b"goodbye");
    }
}
