//! Looking at processes from outside.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// True while the process runs. One that has ended but was not yet collected by its parent counts as gone: it has no
/// command line any more.
pub fn runs(pid: u32) -> bool {
    let command_line = if Path::new("/proc/self/cmdline").exists() {
        std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
    } else {
        let ps = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
        ps.stdout.into_iter().filter(|byte| !b" \n".contains(byte)).take_while(|byte| *byte != b'Z').collect()
    };
    !command_line.is_empty()
}

/// Waits until the process has ended, and says so if it does not.
pub async fn assert_ends(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn kill_9(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success(), "kill -9 {pid}");
}
