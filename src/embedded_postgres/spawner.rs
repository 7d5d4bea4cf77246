//! Children that do not outlive us, and the few system calls about processes that Rust's library lacks.
//!
//! On Linux a child can ask for a signal when its parent dies, but "parent" there means the *thread* that forked it: a
//! child started from a runtime's worker would be stopped when that worker retires. So one thread, which never ends,
//! starts them all. It knows nothing of PostgreSQL, except that SIGINT is the polite way to end it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A child in its own process group (a Ctrl-C in the terminal is for us to pass on) that is sent SIGINT when it is
/// dropped, on whichever path that happens.
///
/// Its pid is signalled only while it has not been waited for, so it cannot have passed to another process.
#[derive(Debug)]
pub(super) struct OwnChild(Child);

impl OwnChild {
    pub(super) fn pid(&self) -> Option<u32> {
        self.0.id()
    }

    pub(super) fn signal(&self, signal: libc::c_int) {
        if let Some(pid) = self.0.id() {
            send_signal(pid, signal);
        }
    }

    pub(super) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        self.signal(libc::SIGINT);
    }
}

struct Request {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<OwnChild>>,
}

/// Starts `command` from the thread that never ends; the calling runtime watches over the child.
pub(super) async fn spawn(command: Command) -> io::Result<OwnChild> {
    let (reply, child) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    requests()?.send(Request { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn requests() -> io::Result<Sender<Request>> {
    // Never taken out or dropped, so the thread's loop never sees the end of its requests.
    static REQUESTS: Mutex<Option<Sender<Request>>> = Mutex::new(None);
    let mut slot = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(requests) = &*slot {
        return Ok(requests.clone());
    }
    let (sender, receiver) = channel();
    thread::Builder::new().name("spawner".to_owned()).spawn(move || serve(receiver))?;
    Ok(slot.insert(sender).clone())
}

fn serve(requests: Receiver<Request>) {
    for Request { mut command, runtime, reply } in requests {
        // Spawning panics when the caller's runtime has just ended. That must not take this thread along: every other
        // child would be told that its parent has died.
        let child = catch_unwind(AssertUnwindSafe(|| {
            let _runtime = runtime.enter();
            tie_to_this_thread(&mut command);
            command.process_group(0).spawn().map(OwnChild)
        }));
        // A caller that has stopped waiting drops the child, and with it goes the process.
        let _ = reply.send(child.unwrap_or_else(|_| Err(io::Error::other("the runtime has ended"))));
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "pre_exec; the closure makes three plain system calls and allocates nothing")]
fn tie_to_this_thread(command: &mut Command) {
    let parent = std::process::id();
    // These closures run after the change of user, which would have cleared the setting.
    let tie = move || {
        // SAFETY: both calls take and return plain integers and may be made between fork and exec.
        let (asked, parent_now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT as libc::c_ulong), libc::getppid()) };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        // A parent that died before the request took effect sends no signal any more.
        if u32::try_from(parent_now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        }
        Ok(())
    };
    // SAFETY: the closure above is async-signal-safe.
    unsafe { command.pre_exec(tie) };
}

/// No such signal elsewhere: there the next start looks for an orphan and stops it.
#[cfg(not(target_os = "linux"))]
fn tie_to_this_thread(_command: &mut Command) {}

/// Sends a signal. That the process may be gone already is nobody's mistake, so there is no result.
#[expect(unsafe_code, reason = "kill(2) is not in the standard library")]
pub(super) fn send_signal(pid: u32, signal: libc::c_int) {
    // 0 and negative numbers would mean whole process groups.
    if let Ok(pid @ 1..) = libc::pid_t::try_from(pid) {
        // SAFETY: takes plain integers.
        unsafe { libc::kill(pid, signal) };
    }
}

#[expect(unsafe_code, reason = "geteuid(2) is not in the standard library")]
pub(super) fn we_are_root() -> bool {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// What a live process was started as; `None` when there is no such process.
pub(super) fn command_line(pid: u32) -> Option<String> {
    let line = if Path::new("/proc/self/cmdline").exists() {
        std::fs::read(format!("/proc/{pid}/cmdline")).ok()?
    } else {
        std::process::Command::new("ps")
            .args(["-o", "command=", "-p", &pid.to_string()])
            .output()
            .ok()?
            .stdout
    };
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}
