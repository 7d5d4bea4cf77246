//! Folders for one test run, named after its process, so that the next run can clear away what a killed one left.

use std::path::{Path, PathBuf};

use super::process;

const PREFIX: &str = "herald-test-";

/// A path in the temporary folder at which nothing exists yet, removed with everything in it at the end.
///
/// The folder is left to the test to make: what matters to PostgreSQL is who makes it, and how.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(label: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("{PREFIX}{}-{label}", std::process::id()));
        // An earlier process may have had our number.
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of test processes that are gone. Best effort: some may be another user's.
pub fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !process::runs(pid)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
