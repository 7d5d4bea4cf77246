//! What the server and its PostgreSQL use, read from outside: `/proc` and the write-ahead log's position. Whatever cannot be read, on another
//! system or of another machine's server, is missing from the report and nothing else.

use std::fs;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use super::server::{Database, Server};

/// The kernel counts in hundredths of a second on every Linux that there is.
const TICK_US: u64 = 10_000;

/// A moment's counters; only differences of two mean something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    server_us: Option<u64>,
    postgres_us: Option<u64>,
    wal_bytes: Option<i64>,
}

/// The difference of two, of one event.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    pub server_us: Option<f64>,
    pub postgres_us: Option<f64>,
    pub wal_bytes: Option<f64>,
}

impl Usage {
    pub async fn of(server: &Server) -> Usage {
        Usage {
            server_us: server.pid().and_then(own_us),
            postgres_us: server.postmaster_pid().and_then(family_us),
            wal_bytes: match server.database() {
                Some(database) => wal_bytes(database).await,
                None => None,
            },
        }
    }

    /// What was spent since, for each of so many events.
    pub fn spent_until(&self, later: &Usage, events: u64) -> Spent {
        let each = |before: Option<u64>, after: Option<u64>| {
            Some(after?.checked_sub(before?)? as f64 / events.max(1) as f64)
        };
        let wal = |usage: &Usage| usage.wal_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        Spent {
            server_us: each(self.server_us, later.server_us),
            postgres_us: each(self.postgres_us, later.postgres_us),
            wal_bytes: each(wal(self), wal(later)),
        }
    }
}

/// The server's resident memory now.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// One process's time on a CPU, in user and kernel.
fn own_us(pid: u32) -> Option<u64> {
    let stat = Stat::of(pid)?;
    Some((stat.own_ticks) * TICK_US)
}

/// The same of a postmaster with its children, those that ended included: it has collected them.
fn family_us(postmaster: u32) -> Option<u64> {
    let parent = Stat::of(postmaster)?;
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = pids.filter_map(Stat::of).filter(|stat| stat.parent == postmaster);
    let ticks = parent.own_ticks + parent.collected_ticks + children.map(|stat| stat.own_ticks).sum::<u64>();
    Some(ticks * TICK_US)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    collected_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The process's name may hold anything, blanks and brackets included, so reading begins after its last bracket.
    fn parse(line: &str) -> Option<Stat> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            parent: u32::try_from(number(1)?).ok()?,
            own_ticks: number(11)? + number(12)?,
            collected_ticks: number(13)? + number(14)?,
        })
    }
}

/// How much was ever written to the log. A connection for each look: it must not occupy one while the server is measured.
async fn wal_bytes(database: &Database) -> Option<i64> {
    let options = PgConnectOptions::new()
        .socket(&database.socket_dir)
        .username(&database.role)
        .database(&database.name)
        .application_name("herald bench");
    let mut connection = options.connect().await.ok()?;
    sqlx::query_scalar("select (pg_current_wal_lsn() - '0/0')::bigint").fetch_one(&mut connection).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_any_name_is_read() {
        let line = "42 (a) b ( c) S 7 1 1 0 -1 0 0 0 0 0 100 20 30 4 20 0 1 0 5 0 0";
        assert_eq!(Stat::parse(line), Some(Stat { parent: 7, own_ticks: 120, collected_ticks: 34 }));
        assert_eq!(Stat::parse("42 (short) S 7"), None);
    }

    #[test]
    fn what_is_unknown_stays_unknown() {
        let before = Usage { server_us: Some(1_000), postgres_us: None, wal_bytes: Some(100) };
        let after = Usage { server_us: Some(3_000), postgres_us: Some(5), wal_bytes: Some(600) };
        let spent = before.spent_until(&after, 10);
        assert_eq!(spent, Spent { server_us: Some(200.0), postgres_us: None, wal_bytes: Some(50.0) });
        assert_eq!(after.spent_until(&before, 10).server_us, None, "a restart sets the counter back");
    }
}
