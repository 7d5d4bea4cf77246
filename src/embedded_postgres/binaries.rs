//! Which PostgreSQL is installed here, and which of several fits the data.
//!
//! A data folder can only be opened by the major version that made it, so "the newest" is right for a new folder only.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::StartError;
use super::folder::Folder;
use super::spawner;

/// Older ones cannot detach a partition without blocking the queries on its table.
pub(super) const MAJOR_MIN: u32 = 14;

/// Where packages put the programs: below `parent`, in every folder whose name begins with `prefix`, then in `bin`.
const PLACES: &[(&str, &str)] = &[
    ("/usr/lib/postgresql", ""),                          // Debian, Ubuntu
    ("/usr", "pgsql-"),                                   // PostgreSQL's own RPMs
    ("/usr/lib", "postgresql"),                           // SUSE
    ("/opt/homebrew/opt", "postgresql"),                  // brew on Apple silicon
    ("/usr/local/opt", "postgresql"),                     // brew on Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql"),     // brew on Linux
    ("/Applications/Postgres.app/Contents/Versions", ""), // Postgres.app
];

/// A folder that holds `postgres` and `initdb`, and their major version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The operator's choice if there is one; else the version that the data asks for, the newest for a new folder.
    pub(super) fn find(bin_dir: Option<&Path>, folder: &Folder) -> Result<Binaries, StartError> {
        let data_major = folder.major()?;
        let mut found = match bin_dir {
            Some(dir) => vec![
                Binaries::probe(dir)
                    .map_err(|problem| StartError::UnusableBinDir { bin_dir: dir.to_owned(), problem })?,
            ],
            None => packaged(),
        };
        if bin_dir.is_none() && choose(&found, data_major).is_none() {
            found.extend(in_path());
        }
        match (choose(&found, data_major), data_major) {
            (Some(fits), _) => Ok(fits.clone()),
            (None, Some(major)) if !found.is_empty() => {
                let found: Vec<String> =
                    found.iter().map(|one| format!("{} in {}", one.major, one.dir.display())).collect();
                Err(StartError::WrongMajor { cluster: folder.cluster(), major, found: found.join(", ") })
            }
            (None, _) => Err(StartError::NoBinaries),
        }
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    /// Asks the server program for its version. The client package alone brings neither of the two programs.
    fn probe(dir: &Path) -> Result<Binaries, String> {
        if !dir.join("initdb").is_file() {
            return Err("there is no `initdb` in it".to_owned());
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|error| format!("its `postgres` cannot be run ({error})"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match parse_major(&text) {
            Some(major) if major >= MAJOR_MIN => Ok(Binaries { dir: dir.to_owned(), major }),
            Some(major) => Err(format!("its PostgreSQL {major} is too old")),
            None => Err(format!("its `postgres --version` says {:?}", text.trim())),
        }
    }
}

/// The usable ones in the places of packages, newest first.
fn packaged() -> Vec<Binaries> {
    let mut packaged: Vec<Binaries> = PLACES
        .iter()
        .flat_map(|(parent, prefix)| folders_below(Path::new(parent), prefix))
        .filter_map(|dir| Binaries::probe(&dir.join("bin")).ok())
        .collect();
    packaged.sort_by_key(|one| std::cmp::Reverse(one.major));
    packaged
}

fn in_path() -> Vec<Binaries> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter_map(|dir| Binaries::probe(&dir).ok()).collect()
}

fn folders_below(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

fn choose(found: &[Binaries], data_major: Option<u32>) -> Option<&Binaries> {
    found.iter().find(|one| data_major.is_none_or(|major| one.major == major))
}

/// `postgres (PostgreSQL) 15.4 (Debian 15.4-1)` → 15; betas say `18beta1`.
fn parse_major(version_line: &str) -> Option<u32> {
    let version = version_line.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The command that installs the server programs on this platform, of one major version if one is needed.
pub(super) fn install_command(major: Option<u32>) -> String {
    let sudo = if spawner::we_are_root() { "" } else { "sudo " };
    let version = |separator: &str| major.map(|major| format!("{separator}{major}")).unwrap_or_default();
    let apt = format!("{sudo}apt-get install --no-install-recommends postgresql{}", version("-"));
    let brew = format!("brew install postgresql@{}", major.unwrap_or(17));
    let dnf = format!("{sudo}dnf install postgresql{}-server", version(""));
    if cfg!(target_os = "macos") {
        return brew;
    }
    match ["apt-get", "dnf"].into_iter().find(|program| Path::new("/usr/bin").join(program).exists()) {
        Some("apt-get") => apt,
        Some(_) => dnf,
        None => format!("{apt}  (Debian, Ubuntu)   {dnf}  (Fedora)   {brew}  (macOS)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_server_says() {
        let table = [
            ("postgres (PostgreSQL) 15.4 (Debian 15.4-1.pgdg12+1)\n", Some(15)),
            ("postgres (PostgreSQL) 17.0\n", Some(17)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("postgres (Something else) 15.4\n", None),
            ("postgres (PostgreSQL) devel\n", None),
            ("", None),
        ];
        for (line, major) in table {
            assert_eq!(parse_major(line), major, "{line:?}");
        }
    }

    #[test]
    fn data_is_only_given_to_the_version_that_made_it() {
        let found: Vec<Binaries> =
            [17, 15, 14].map(|major| Binaries { dir: PathBuf::from(format!("/pg/{major}")), major }).into();
        let chosen = |data| choose(&found, data).map(|one| one.major);
        assert_eq!(chosen(None), Some(17));
        assert_eq!(chosen(Some(15)), Some(15));
        assert_eq!(chosen(Some(16)), None);
        assert!(choose(&[], None).is_none());
    }
}
