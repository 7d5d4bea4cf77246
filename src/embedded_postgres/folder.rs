//! The data folder: who may use it, who owns what in it, and what its files say.
//!
//! ```text
//! <data folder>/                0711 when root owns it (its server must pass through), else 0700
//!   postgres.lock               held by the Herald that uses the folder; the kernel lets go of it when that one ends
//!   postgres/                   the cluster, 0700, owned by the user that PostgreSQL runs as
//!   postgres-unfinished/        a cluster in the making
//!   socket/                     0700, same owner; a short folder in /tmp instead if this path is too long for a socket
//!   postgresql.log              what PostgreSQL and initdb say; the previous one beside it once it is large
//! ```

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::StartError;
use super::spawner;

/// Part of the socket's name only; nothing listens on it.
pub(super) const PORT: u16 = 5432;
/// `sockaddr_un.sun_path` less its closing NUL: 108 on Linux, 104 on the BSDs and macOS.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
const LOG_BYTES_MAX: u64 = 16 << 20;
const LOG_TAIL_BYTES_MAX: u64 = 4 << 10;

/// Where data goes when nobody says otherwise: a place that the user PostgreSQL runs as can reach, which for root rules
/// out root's own home.
pub fn default_data_dir() -> PathBuf {
    if spawner::we_are_root() {
        return PathBuf::from("/var/lib/herald");
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("herald")
}

/// A data folder that is ours for as long as this value lives.
#[derive(Debug)]
pub(super) struct Folder {
    data_dir: PathBuf,
    socket_dir: PathBuf,
    /// Set when we are root: PostgreSQL refuses to run as root.
    runs_as: Option<User>,
    _lock: File,
}

#[derive(Debug, Clone)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// The first and the eighth line of `postmaster.pid`.
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) ready: bool,
}

impl Folder {
    /// Makes the folder when it is missing and locks it.
    pub(super) async fn claim(data_dir: &Path) -> Result<Folder, StartError> {
        let mode = if spawner::we_are_root() { 0o711 } else { 0o700 };
        make_folders(data_dir, mode).map_err(io_error("make", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(io_error("enter", data_dir))?;
        let lock = lock(&data_dir).await?;
        let runs_as = if spawner::we_are_root() { Some(unprivileged_user(&data_dir)?) } else { None };
        let socket_dir = socket_dir_for(&data_dir).map_err(io_error("look at", &data_dir))?;
        Ok(Folder { data_dir, socket_dir, runs_as, _lock: lock })
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.data_dir.join("postgresql.log")
    }

    /// The version that made the cluster; `None` when there is no cluster yet.
    pub(super) fn major(&self) -> Result<Option<u32>, StartError> {
        let cluster = self.cluster();
        match std::fs::read_to_string(cluster.join("PG_VERSION")) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| StartError::NotACluster(cluster)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let occupied = std::fs::read_dir(&cluster).is_ok_and(|mut entries| entries.next().is_some());
                if occupied { Err(StartError::NotACluster(cluster)) } else { Ok(None) }
            }
            Err(error) => Err(io_error("read", &cluster)(error)),
        }
    }

    /// Refuses early, and by name, what would otherwise be a puzzling "permission denied" from a child.
    pub(super) fn check_reachable(&self, bin_dir: &Path) -> Result<(), StartError> {
        let Some(user) = &self.runs_as else { return Ok(()) };
        let bin_dir = bin_dir.canonicalize().map_err(io_error("enter", bin_dir))?;
        for folder in self.data_dir.ancestors().chain(bin_dir.ancestors()) {
            let metadata = folder.metadata().map_err(io_error("look at", folder))?;
            if !may_enter(user, &metadata) {
                return Err(StartError::ClosedFolder { user: user.name.clone(), closed: folder.to_owned() });
            }
        }
        Ok(())
    }

    /// An empty folder to make the cluster in. What an interrupted attempt left there is thrown away.
    pub(super) fn prepare_unfinished_cluster(&self) -> Result<PathBuf, StartError> {
        let unfinished = self.data_dir.join("postgres-unfinished");
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &unfinished)(error));
            }
            _ => self.make_private(&unfinished)?,
        }
        Ok(unfinished)
    }

    /// Adds lines to the settings of a cluster.
    pub(super) fn add_setting(&self, cluster: &Path, lines: &str) -> Result<(), StartError> {
        let file = cluster.join("postgresql.conf");
        let add = || -> io::Result<()> {
            let mut settings = OpenOptions::new().append(true).open(&file)?;
            settings.write_all(lines.as_bytes())?;
            settings.sync_all()
        };
        add().map_err(io_error("write", &file))
    }

    /// Gives a complete cluster its name, and sees to it that the name survives a power cut.
    pub(super) fn finish_cluster(&self, unfinished: &Path) -> Result<(), StartError> {
        std::fs::rename(unfinished, self.cluster()).map_err(io_error("rename", unfinished))?;
        File::open(&self.data_dir).and_then(|dir| dir.sync_all()).map_err(io_error("write", &self.data_dir))
    }

    pub(super) fn prepare_socket_dir(&self) -> Result<(), StartError> {
        self.make_private(&self.socket_dir)
    }

    /// A folder that only PostgreSQL's user (and root) can enter.
    fn make_private(&self, path: &Path) -> Result<(), StartError> {
        let made = DirBuilder::new().mode(0o700).create(path);
        if let Err(error) = made {
            // One that is there already may be a trap, in /tmp at least: a link, or somebody else's.
            let ours = self.data_dir.metadata().map_err(io_error("look at", &self.data_dir))?.uid();
            let acceptable = |uid| uid == ours || self.runs_as.as_ref().is_some_and(|user| user.uid == uid);
            match path.symlink_metadata() {
                Ok(there) if there.is_dir() && acceptable(there.uid()) => {}
                Ok(_) => return Err(StartError::ForeignSocketFolder(path.to_owned())),
                Err(_) => return Err(io_error("make", path)(error)),
            }
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io_error("close", path))?;
        match &self.runs_as {
            Some(user) => lchown(path, Some(user.uid), Some(user.gid)).map_err(io_error("give away", path)),
            None => Ok(()),
        }
    }

    /// A command that runs as the right user, writes to the log, and sees none of our environment: that holds secrets,
    /// and settings meant for other PostgreSQL programs.
    pub(super) fn command(&self, program: &Path) -> Result<Command, StartError> {
        let log = self.open_log().map_err(io_error("open", &self.log_file()))?;
        let log_too = log.try_clone().map_err(io_error("open", &self.log_file()))?;
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        if let Some(user) = &self.runs_as {
            // Leaving root this way also leaves root's supplementary groups.
            command.uid(user.uid).gid(user.gid);
        }
        Ok(command)
    }

    fn open_log(&self) -> io::Result<File> {
        let path = self.log_file();
        if path.metadata().is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            std::fs::rename(&path, self.data_dir.join("postgresql.log.old"))?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    pub(super) fn log_bytes(&self) -> u64 {
        self.log_file().metadata().map_or(0, |log| log.len())
    }

    /// What was logged since the log was `start` bytes long, or the end of it. Shown for the most part, so failing to read it is no error.
    pub(super) fn log_since(&self, start: u64) -> String {
        let mut tail = Vec::new();
        let read = || -> io::Result<Vec<u8>> {
            let mut log = File::open(self.log_file())?;
            let end = log.metadata()?.len();
            log.seek(SeekFrom::Start(start.min(end).max(end.saturating_sub(LOG_TAIL_BYTES_MAX))))?;
            log.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut tail)?;
            Ok(tail)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).trim_end().to_owned()
    }

    /// Who says to be running on the cluster. `None` also for a file that is just being written.
    pub(super) fn pid_file(&self) -> Option<PidFile> {
        let text = std::fs::read_to_string(self.cluster().join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some(PidFile { pid, ready: lines.nth(6).is_some_and(|status| status.trim() == "ready") })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.socket_dir.starts_with(&self.data_dir) {
            // Fails as long as a server is still leaving it; the next start uses it again.
            let _ = std::fs::remove_dir(&self.socket_dir);
        }
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StartError {
    move |cause| StartError::Io { doing, path: path.to_owned(), cause }
}

/// Like `create_dir_all`, but a strict umask does not close the new folders to the user that must pass through them.
fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folders(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}

/// For so long a folder's lock may be held by what is just ending: the Herald before this one, or a child between its fork and its exec, which
/// closes it.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(20);

async fn lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("postgres.lock");
    // Children do not inherit it (files are closed on exec), so it ends with this process and nothing else.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    let give_up = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                tokio::time::sleep(LOCK_AGAIN_AFTER).await;
            }
            Err(TryLockError::WouldBlock) => return Err(StartError::InUse(data_dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
    }
}

/// Beside the data if the path is short enough and plain enough for PostgreSQL's list of folders. Else in /tmp, the
/// shortest path everywhere, under a name that is the same at each start.
fn socket_dir_for(data_dir: &Path) -> io::Result<PathBuf> {
    let beside = data_dir.join("socket");
    let bytes = beside.as_os_str().len() + format!("/.s.PGSQL.{PORT}").len();
    let plain = beside.to_str().is_some_and(|path| !path.contains(['"', ',']));
    if plain && bytes <= SOCKET_PATH_BYTES_MAX {
        return Ok(beside);
    }
    let identity = data_dir.metadata()?;
    Ok(PathBuf::from(format!("/tmp/herald-{:x}-{:x}", identity.dev(), identity.ino())))
}

/// The owner of the cluster if there is one, else `postgres`, else `nobody`.
fn unprivileged_user(data_dir: &Path) -> Result<User, StartError> {
    let users = std::fs::read_to_string("/etc/passwd").map_err(io_error("read", Path::new("/etc/passwd")))?;
    if let Ok(cluster) = data_dir.join("postgres").metadata()
        && cluster.uid() != 0
    {
        let (uid, gid) = (cluster.uid(), cluster.gid());
        return Ok(User { name: format!("number {uid}"), uid, gid });
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| users.lines().find_map(|line| parse_user(line, name)))
        .ok_or(StartError::NoUnprivilegedUser)
}

fn parse_user(passwd_line: &str, name: &str) -> Option<User> {
    let mut fields = passwd_line.split(':');
    let found = fields.next()?;
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    (found == name && uid != 0).then(|| User { name: name.to_owned(), uid, gid })
}

fn may_enter(user: &User, folder: &std::fs::Metadata) -> bool {
    let bit = match () {
        () if folder.uid() == user.uid => 0o100,
        () if folder.gid() == user.gid => 0o010,
        () => 0o001,
    };
    folder.mode() & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_lives_beside_its_data_unless_no_socket_could() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let room = SOCKET_PATH_BYTES_MAX - "/socket/.s.PGSQL.5432".len() - root.as_os_str().len() - 1;
        for (name, beside) in [
            ("a".repeat(room), true),
            ("a".repeat(room + 1), false),
            ("a,b".to_owned(), false),
            ("a\"b".to_owned(), false),
        ] {
            let data_dir = root.join(&name);
            std::fs::create_dir(&data_dir).unwrap();
            let socket_dir = socket_dir_for(&data_dir).unwrap();
            assert_eq!(socket_dir.starts_with(&data_dir), beside, "{name}");
            assert!(socket_dir.join(".s.PGSQL.5432").as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{name}");
        }
    }

    #[test]
    fn a_user_is_read_from_its_line_and_never_root() {
        let parse = |line| parse_user(line, "postgres").map(|user| (user.uid, user.gid));
        assert_eq!(parse("postgres:x:101:104:admin,,,:/var/lib/postgresql:/bin/bash"), Some((101, 104)));
        assert_eq!(parse("postgres2:x:101:104::/:/bin/sh"), None);
        assert_eq!(parse("postgres:x:0:0::/:/bin/sh"), None);
        assert_eq!(parse("postgres:x"), None);
    }

    #[tokio::test]
    async fn a_lock_that_is_let_go_meanwhile_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).await.unwrap();
        assert!(matches!(lock(folder.path()).await, Err(StartError::InUse(_))));
        let let_go = async {
            tokio::time::sleep(LOCK_AGAIN_AFTER).await;
            drop(held);
        };
        assert!(tokio::join!(lock(folder.path()), let_go).0.is_ok());
    }
}
