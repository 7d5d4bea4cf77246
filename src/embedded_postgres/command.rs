//! With what settings the server is started.

use std::ffi::OsString;

use tokio::process::Command;

use super::StartError;
use super::binaries::Binaries;
use super::folder::{Folder, PORT};

/// How we tell a server that we started from one that somebody started by hand on the same folder.
pub const OUR_MARK: &str = "cluster_name=herald-embedded";

/// How whole pages are compressed that go into the log: what was not changed since the last checkpoint goes there whole.
pub const COMPRESSION: &str = "wal_compression";
/// Costs a tenth of what PostgreSQL's own does, but is not built into every PostgreSQL: one without it refuses to start.
pub const QUICK_COMPRESSION: &str = "lz4";
pub const ANY_COMPRESSION: &str = "on";

/// For glibc: what one large statement needed stays with its session, up to these many bytes, instead of being given back and faulted in again page by
/// page for the next one. Other C libraries do not look at it.
const MEMORY_IS_KEPT: [(&str, &str); 2] =
    [("MALLOC_TRIM_THRESHOLD_", "67108864"), ("MALLOC_MMAP_THRESHOLD_", "33554432")];

/// Settings on the command line beat those in the cluster's files, so what durability rests on cannot be switched off there.
pub fn server(binaries: &Binaries, folder: &Folder, compression: &str) -> Result<Command, StartError> {
    let mut sockets = OsString::from("unix_socket_directories=");
    // In quotes a path may hold spaces; one with a quote in it is never chosen.
    sockets.push("\"");
    sockets.push(folder.socket_dir());
    sockets.push("\"");
    let port = format!("port={}", PORT);
    let compression = format!("{COMPRESSION}={compression}");
    let settings = [
        OUR_MARK,
        "listen_addresses=",
        &port,
        "unix_socket_permissions=0700",
        "max_connections=100",
        "fsync=on",
        "full_page_writes=on",
        "synchronous_commit=on",
        "shared_buffers=128MB",
        &compression,
        "autovacuum=on",
        // Short, alike statements: compiling them costs more than it can save.
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
        "logging_collector=off",
        "log_destination=stderr",
    ];
    let mut command = folder.command(&binaries.postgres())?;
    command.arg("-D").arg(folder.cluster()).arg("-c").arg(sockets);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.envs(MEMORY_IS_KEPT);
    Ok(command)
}
