//! Where log lines go and what they look like. Who writes them, and what must not be in them, is the callers' matter.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use super::log_writer::{LastLines, LogWriter};
use crate::config::LogFormat;

/// Why there are no log lines.
#[derive(Debug, thiserror::Error)]
pub enum NoLog {
    /// Those of a checked [`crate::config::Config`] are some.
    #[error("what to log is not said in a way that can be read: {0}")]
    Directives(#[from] ParseError),
    #[error("a thread for the log cannot be started: {0}; see what `ulimit -u` allows")]
    Thread(#[from] io::Error),
}

/// Sends log lines to standard error, from here on and for the whole process; standard output is left to what a command
/// has to say. Call it once: a second call changes nothing. What it returns is to be dropped when the process ends.
pub fn install(directives: &str, format: LogFormat) -> Result<LastLines, NoLog> {
    let filter = EnvFilter::try_new(directives)?;
    let (log, last) = LogWriter::start(io::stderr())?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // It would be said on standard error, which is what may be gone, by a macro that panics then.
        .log_internal_errors(false)
        .with_writer(log);
    let first = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(error) = first {
        tracing::debug!(%error, "log lines already have a place to go");
    }
    std::panic::set_hook(Box::new(say));
    Ok(last)
}

/// A panic as a line of the log, where somebody looks; a hook of the standard library's would write past it.
fn say(panic: &PanicHookInfo) {
    let thread = std::thread::current();
    let (thread, place) = (thread.name().unwrap_or("unnamed"), panic.location().map(ToString::to_string));
    let payload = panic.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref().copied());
    let message = message.unwrap_or("without a word");
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = Some(Backtrace::capture()).filter(|trace| trace.status() == BacktraceStatus::Captured);
    let backtrace = backtrace.as_ref().map(tracing::field::display);
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(thread, place, backtrace, "panicked, which is a defect: {message}");
    } else {
        let place = place.as_deref().unwrap_or("somewhere");
        let _nobody_listens = writeln!(std::io::stderr(), "{thread} panicked at {place}: {message}");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was logged, as JSON.
    #[derive(Clone, Default)]
    pub struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        pub fn log(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
            let writer = self.clone();
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish()
        }

        pub fn all(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_of_the_log_that_says_where_and_what() {
        let lines = Lines::default();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(say));
        let panicked = tracing::subscriber::with_default(lines.log(), || {
            std::panic::catch_unwind(|| assert_eq!(1 + 1, 3, "as a test"))
        });
        std::panic::set_hook(before);
        assert!(panicked.is_err());
        let line: serde_json::Value = serde_json::from_str(&lines.all()[0]).unwrap();
        assert_eq!(line["level"], "ERROR");
        let fields = &line["fields"];
        assert!(fields["place"].as_str().unwrap().starts_with(file!()), "{line}");
        assert!(fields["message"].as_str().unwrap().contains("as a test"), "{line}");
    }
}
