//! Processes, signals and descriptors: the parent that opens files, and the child that runs a guest.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// How often a running guest is interrupted to look at its deadline, and how long a signal to its parent may
/// go unnoticed.
const TICK: Duration = Duration::from_millis(100);

/// How long a child that has reported all it has to say may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Most bytes of a report that are read before they are asked for: as many as a pipe holds.
const READ_AHEAD: usize = 64 << 10;

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

/// Whether SIGUSR1 has asked how far the work has come. One by nature, too.
static PROGRESS_ASKED: AtomicBool = AtomicBool::new(false);

/// Notes SIGINT, SIGTERM and SIGHUP instead of dying of them, so that what was begun can be cleaned up, and
/// SIGUSR1, which asks for progress.
///
/// # Errors
/// The host's.
pub fn catch_signals() -> io::Result<()> {
    extern "C" fn note(signal: libc::c_int) {
        match signal {
            libc::SIGUSR1 => PROGRESS_ASKED.store(true, Ordering::Relaxed),
            _ => STOP_SIGNAL.store(signal, Ordering::Relaxed),
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1] {
        let action = libc::sigaction {
            sa_sigaction: note as *const () as usize,
            // SAFETY: an all-zero mask is a valid empty set.
            sa_mask: unsafe { std::mem::zeroed() },
            sa_flags: 0,
            sa_restorer: None,
        };
        // SAFETY: the handler stores to atomics, which is async-signal-safe; `action` is complete.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether SIGUSR1 has come and nobody has answered it.
#[must_use]
pub fn progress_asked() -> bool {
    PROGRESS_ASKED.load(Ordering::Relaxed)
}

/// The same, and by this it is answered.
#[must_use]
pub fn take_progress_asked() -> bool {
    PROGRESS_ASKED.swap(false, Ordering::Relaxed)
}

/// The signal that asked to stop, if any did.
#[must_use]
pub fn stop_signal() -> Option<i32> {
    Some(STOP_SIGNAL.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// A child that runs a guest.
///
/// Dropped, it is killed and waited for: what it holds open must not outlive what it was started for.
pub struct Child {
    pid: libc::pid_t,
    report: File,
    bounds: Bounds,
    deadline: Instant,
    ahead: Vec<u8>, // of the report, read and not yet asked for
    taken: usize,   // of that
    ended: bool,    // waited for: the number may be another's by now
}

/// What a child's report may be. Whoever exceeds it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes.
    pub len: u64,
    /// From the child's start, or the order to report anew, to the report's end.
    pub time: Duration,
}

/// How a report went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// With all the bytes asked for.
    Bytes,
    /// It ended before them.
    End,
    /// It is longer than it may be; the child is dead.
    TooLong,
    /// It takes longer than it may; the child is dead.
    TooLate,
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
pub fn spawn(bounds: Bounds, work: impl FnOnce(File) -> i32) -> io::Result<Child> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `pipe2` has just made both, and nothing else owns them.
    let [read, write] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let parent = std::process::id();
    // SAFETY: the launcher has no other thread at this point (lanes' threads are only ever started in a
    // child), so the child's copy of memory is consistent and it may allocate and take locks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            die_with_parent(parent);
            let status = work(File::from(write));
            // SAFETY: ends this process at once; the parent's buffers and atexit handlers are not ours to run.
            unsafe { libc::_exit(status) }
        }
        pid => {
            drop(write);
            let (report, deadline) = (File::from(read), Instant::now() + bounds.time);
            Ok(Child { pid, report, bounds, deadline, ahead: Vec::new(), taken: 0, ended: false })
        }
    }
}

/// A child must not outlive its parent, whose number is `parent`: SIGKILL when that is gone.
fn die_with_parent(parent: u32) {
    // SAFETY: no pointers; affects this process only. SIGINT from the terminal reaches parent and child alike: the
    // parent decides.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1] {
            libc::signal(signal, libc::SIG_IGN);
        }
        if libc::getppid().cast_unsigned() != parent {
            // It was gone before this process was bound to it.
            libc::_exit(1);
        }
    }
}

impl Child {
    /// Reads exactly the next bytes of the report. `wake` is called at least every tenth of a second
    /// meanwhile. When this process is asked to stop, the child is killed and its report ends.
    ///
    /// # Errors
    /// The host's.
    pub fn read_report(&mut self, mut bytes: &mut [u8], wake: &mut dyn FnMut()) -> io::Result<Heard> {
        match self.bounds.len.checked_sub(bytes.len() as u64) {
            Some(left) => self.bounds.len = left,
            None => {
                self.kill();
                return Ok(Heard::TooLong);
            }
        }
        while !bytes.is_empty() {
            let ahead = self.ahead.get(self.taken..).unwrap_or_default();
            if !ahead.is_empty() {
                let len = ahead.len().min(bytes.len());
                bytes[..len].copy_from_slice(&ahead[..len]);
                self.taken += len;
                bytes = &mut bytes[len..];
                continue;
            }
            self.kill_when_asked();
            wake();
            if Instant::now() >= self.deadline {
                self.kill();
                return Ok(Heard::TooLate);
            }
            if !is_ready(self.report.as_raw_fd(), TICK)? {
                continue;
            }
            self.ahead.resize(READ_AHEAD, 0);
            self.taken = 0;
            let read = self.report.read(&mut self.ahead);
            self.ahead.truncate(read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Ok(Heard::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Heard::Bytes)
    }

    /// Whether the child has written more than was asked for.
    ///
    /// # Errors
    /// The host's.
    pub fn has_more(&self) -> io::Result<bool> {
        // A pipe that is readable may also be one whose other end is gone.
        Ok(self.taken < self.ahead.len() || rustix::io::ioctl_fionread(&self.report)? > 0)
    }

    /// Another report begins, within these bounds.
    pub fn renew(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.deadline = Instant::now() + bounds.time;
    }

    /// Waits for the child's end, which its report has come to. A child that goes on is killed.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(mut self) -> io::Result<Ended> {
        // SAFETY: no pointers; the number is still our child's, as nobody has waited for it.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        match RawFd::try_from(pidfd) {
            Ok(fd) if fd >= 0 => {
                // SAFETY: the call has just made it, and nothing else owns it.
                let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
                let farewell = Instant::now() + FAREWELL;
                while !is_ready(pidfd.as_raw_fd(), TICK)? {
                    self.kill_when_asked();
                    if Instant::now() >= farewell {
                        self.kill();
                    }
                }
            }
            // Without a way to wait for a while, there is no while.
            _ => self.kill(),
        }
        let status = self.reap()?;
        Ok(match stop_signal() {
            Some(signal) => Ended::Stopped(signal),
            None if libc::WIFSIGNALED(status) => Ended::Signalled(libc::WTERMSIG(status)),
            None => Ended::Exited(libc::WEXITSTATUS(status)),
        })
    }

    /// Waits until the child is gone.
    fn reap(&mut self) -> io::Result<libc::c_int> {
        loop {
            let mut status = 0;
            // SAFETY: `pid` is our own child, not yet waited for; `status` is ours to be written.
            if unsafe { libc::waitpid(self.pid, &raw mut status, 0) } == self.pid {
                self.ended = true;
                return Ok(status);
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

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            // Killed, it ends; and there is nobody to tell.
            let _ = self.reap();
        }
    }
}

/// Whether there is something to read, or the end, within a time; a signal ends the wait.
fn is_ready(fd: RawFd, within: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let within = libc::c_int::try_from(within.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one entry, ours to be written.
    match unsafe { libc::poll(&raw mut poll, 1, within) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
        ready => Ok(ready > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn child(len: u64, time: Duration, work: impl FnOnce(File) -> i32) -> Child {
        spawn(Bounds { len, time }, work).expect("a child")
    }

    #[test]
    fn a_report_ends_with_its_child() {
        let mut child = child(100, Duration::from_secs(60), |mut pipe| i32::from(pipe.write_all(b"abc").is_err()));
        let mut bytes = [0; 3];
        assert_eq!(child.read_report(&mut bytes, &mut || {}).expect("read"), Heard::Bytes);
        assert_eq!(bytes, *b"abc");
        assert_eq!(child.read_report(&mut bytes, &mut || {}).expect("read"), Heard::End);
        assert_eq!(child.wait().expect("ends"), Ended::Exited(0));
    }

    #[test]
    fn a_report_without_end_is_cut() {
        let mut child = child(1 << 20, Duration::from_secs(60), |mut pipe| {
            loop {
                if pipe.write_all(&[7; 4096]).is_err() {
                    return 1;
                }
            }
        });
        let mut bytes = [0; 4096];
        let mut count = 0;
        while child.read_report(&mut bytes, &mut || {}).expect("read") == Heard::Bytes {
            count += 1;
        }
        assert_eq!(count, 256);
        assert_eq!(child.wait().expect("ends"), Ended::Signalled(libc::SIGKILL));
    }

    #[test]
    fn what_nobody_asked_for_is_noticed_and_a_child_that_is_gone_has_nothing_to_say() {
        let mut child = child(100, Duration::from_secs(60), |mut pipe| i32::from(pipe.write_all(b"abcd").is_err()));
        let mut bytes = [0; 3];
        assert_eq!(child.read_report(&mut bytes, &mut || {}).expect("read"), Heard::Bytes);
        assert!(child.has_more().expect("a pipe"));
        assert_eq!(child.read_report(&mut bytes[..1], &mut || {}).expect("read"), Heard::Bytes);
        assert_eq!(child.read_report(&mut bytes[..1], &mut || {}).expect("read"), Heard::End);
        assert!(!child.has_more().expect("a pipe"));
    }

    #[test]
    fn a_silent_child_is_not_waited_for_without_end() {
        let mut child = child(100, Duration::from_millis(50), |_| {
            loop {
                std::thread::park();
            }
        });
        assert_eq!(child.read_report(&mut [0; 1], &mut || {}).expect("read"), Heard::TooLate);
        assert_eq!(child.wait().expect("ends"), Ended::Signalled(libc::SIGKILL));
    }
}
