//! File descriptors: each connection takes one, and what a shell or a service manager allows by default is less than a server may need. Where they
//! run out, nothing can be called any more, and what cannot be called looks unreachable.

/// Beside connections of clients and to callbacks: the database, logs, sockets, libraries.
const OTHERS: u64 = 200;

/// Takes as many as this process may have, and says so if that is less than `connections_max` and what else there is could need.
#[expect(unsafe_code, reason = "the standard library cannot raise a limit")]
pub fn raise_limit(connections_max: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes into the struct that it is given and keeps nothing of it.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if !known {
        return;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call reads the struct that it is given.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    let there_are = if raised { limit.rlim_max } else { before };
    let needed = connections_max as u64 + OTHERS;
    if there_are < needed {
        tracing::warn!(
            there_are,
            needed,
            "too few file descriptors for as many connections as are allowed: raise the limit (ulimit -n, LimitNOFILE), or lower HERALD_CONNECTIONS_MAX"
        );
    }
}
