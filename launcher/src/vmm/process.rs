//! Processes, signals and descriptors: the parent that opens files, and the child that runs a guest.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// How often a running guest is interrupted to look at its deadline.
const TICK: Duration = Duration::from_millis(100);

/// Closes every descriptor above standard error except these.
pub fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            // SAFETY: closes descriptors that nothing in this process owns: the caller runs this right after
            // opening the job's files, which are all it has opened, and keeps those.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}

/// Interrupts the current thread's KVM calls every tenth of a second, so that deadlines are looked at.
///
/// # Errors
/// The host's.
pub fn start_ticking() -> io::Result<()> {
    extern "C" fn interrupt(_: libc::c_int) {}
    let action = libc::sigaction {
        sa_sigaction: interrupt as *const () as usize,
        // SAFETY: an all-zero mask is a valid empty set.
        sa_mask: unsafe { std::mem::zeroed() },
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: the handler does nothing, so it may interrupt anything; `action` is complete.
    if unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an all-zero sigevent is valid; the fields that matter are set below.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = libc::SIGALRM;
    // SAFETY: no arguments, cannot fail.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = std::ptr::null_mut();
    // SAFETY: `event` is complete, `timer` has room for the timer's id.
    if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let tick = libc::timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
    let period = libc::itimerspec { it_interval: tick, it_value: tick };
    // SAFETY: the timer was just made; `period` is complete and only read.
    if unsafe { libc::timer_settime(timer, 0, &raw const period, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The signal that asked this process to stop, 0 for none. One by nature: signals are the process's.
static STOP_SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Notes SIGINT, SIGTERM and SIGHUP instead of dying of them, so that what was begun can be cleaned up.
///
/// # Errors
/// The host's.
pub fn catch_stop_signals() -> io::Result<()> {
    extern "C" fn note(signal: libc::c_int) {
        STOP_SIGNAL.store(signal, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let action = libc::sigaction {
            sa_sigaction: note as *const () as usize,
            // SAFETY: an all-zero mask is a valid empty set.
            sa_mask: unsafe { std::mem::zeroed() },
            sa_flags: 0,
            sa_restorer: None,
        };
        // SAFETY: the handler stores to an atomic, which is async-signal-safe; `action` is complete.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The signal that asked to stop, if any did.
#[must_use]
pub fn stop_signal() -> Option<i32> {
    Some(STOP_SIGNAL.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// A child that runs a guest.
pub struct Child {
    pid: libc::pid_t,
    report: File,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exited(i32),
    /// By this signal; SIGSYS: it tried something forbidden.
    Signalled(i32),
    /// This process was asked to stop by this signal, and has killed the child.
    Stopped(i32),
}

/// Runs `work` in a child and keeps on here. What `work` writes to its file is the child's report; what
/// it returns is its exit status.
///
/// # Errors
/// The host's.
pub fn spawn(work: impl FnOnce(File) -> i32) -> io::Result<Child> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `pipe2` has just made both, and nothing else owns them.
    let [read, write] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the launcher has no other thread at this point (lanes' threads are only ever started in a
    // child), so the child's copy of memory is consistent and it may allocate and take locks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            die_with_parent();
            let status = work(File::from(write));
            // SAFETY: ends this process at once; the parent's buffers and atexit handlers are not ours to run.
            unsafe { libc::_exit(status) }
        }
        pid => {
            drop(write);
            Ok(Child { pid, report: File::from(read) })
        }
    }
}

/// A child must not outlive its parent: SIGKILL when that is gone.
fn die_with_parent() {
    // SAFETY: no pointers; affects this process only. SIGINT from the terminal reaches parent and child alike: the
    // parent decides.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

impl Child {
    /// Reads exactly the next bytes of the report; `false` when it is at its end before them. When this
    /// process is asked to stop, the child is killed and its report ends.
    ///
    /// # Errors
    /// The host's.
    pub fn read_report(&mut self, mut bytes: &mut [u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            match self.report.read(bytes) {
                Ok(0) => return Ok(false),
                Ok(len) => bytes = &mut bytes[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.kill_when_asked(),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Waits for the child's end.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(self) -> io::Result<Ended> {
        loop {
            self.kill_when_asked();
            let mut status = 0;
            // SAFETY: `pid` is our own child, not yet waited for; `status` is ours to be written.
            if unsafe { libc::waitpid(self.pid, &raw mut status, 0) } == self.pid {
                return Ok(match stop_signal() {
                    Some(signal) => Ended::Stopped(signal),
                    None if libc::WIFSIGNALED(status) => Ended::Signalled(libc::WTERMSIG(status)),
                    None => Ended::Exited(libc::WEXITSTATUS(status)),
                });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Kills the child; what it has reported can still be read.
    pub fn kill(&self) {
        // SAFETY: our own child, not yet waited for, so the number is still its.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    fn kill_when_asked(&self) {
        if stop_signal().is_some() {
            self.kill();
        }
    }
}
