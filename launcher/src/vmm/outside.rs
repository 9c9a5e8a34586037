//! A program that makes a machine: its process, from start to end.

use super::guardian::{Guardian, tell};
use super::vhost_user;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// A running program in a process group of its own. It does not outlive its owner: dropped, it is killed with all
/// that it has started, and waited for. Its guardian does the same when the owner is killed.
#[derive(Debug)]
pub struct Outside {
    child: Child,
    guardian: Guardian,
}

impl Outside {
    /// Starts a program under a guardian, with what it prints on one pipe and nothing to read. Of all that this process has
    /// open it gets `kept`, under the same number.
    ///
    /// # Errors
    /// The host's; of kind `NotFound`: there is no such program.
    pub fn start(
        command: &mut Command,
        guardian: Guardian,
        kept: Option<BorrowedFd<'_>>,
    ) -> io::Result<(Self, vhost_user::Program)> {
        let (output, into) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(into.try_clone()?).stderr(into).process_group(0);
        let line = guardian.line().map(|line| line.as_raw_fd());
        let kept = kept.map(|kept| kept.as_raw_fd());
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made; none allocates or takes a lock. `line` and `kept` are
        // open in the fork: `guardian` is kept until after it, and so is what is borrowed.
        unsafe {
            command.pre_exec(move || {
                let borrowed = |fd: Option<i32>| fd.map(|fd| BorrowedFd::borrow_raw(fd));
                alone(parent, borrowed(line), borrowed(kept))
            });
        }
        let started = command.spawn();
        // Its ends of the pipe are the program's alone.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let outside = Self { child: started?, guardian };
        let end = pidfd_open(outside.pid(), PidfdFlags::empty())?;
        let output = File::from(OwnedFd::from(output));
        fcntl_setfl(&output, fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        Ok((outside, vhost_user::Program { end, output }))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended already; its number is still its own, as nobody has waited for it.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        self.guardian.forget();
        let _ = self.child.wait();
    }
}

/// Of all that this process has open, a program gets only `kept`; and it dies with this process, whose number is `parent`,
/// and is known to its guardian before it runs.
fn alone(parent: u32, guardian: Option<BorrowedFd<'_>>, kept: Option<BorrowedFd<'_>>) -> io::Result<()> {
    // SAFETY: no pointers; marks descriptors of the child's, which is about to execute another program.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if let Some(kept) = kept {
        fcntl_setfd(kept, FdFlags::empty())?;
    }
    // SAFETY: no pointers; affects the child only.
    let bound = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if closed != 0 || bound != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::getppid() }.cast_unsigned() != parent {
        // It was gone before the child was bound to it.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    if let Some(guardian) = guardian {
        tell(guardian, std::process::id().cast_signed());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::fcntl_dupfd_cloexec;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::time::{Duration, Instant};

    fn start(command: &mut Command) -> io::Result<(Outside, vhost_user::Program)> {
        let guardian = Guardian::over(std::path::Path::new("/nonexistent/directory")).expect("a guardian");
        Outside::start(command, guardian, None)
    }

    #[test]
    fn a_program_and_what_it_has_started_are_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let (outside, mut program) = start(&mut command).expect("sh is there");
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut said = String::new();
        while !said.ends_with('\n') {
            assert!(Instant::now() < deadline);
            let _ = program.output.read_to_string(&mut said);
        }
        drop(outside);
        // Its end of the pipe is gone with the last process of the group.
        while !matches!(program.output.read(&mut [0; 8]), Ok(0)) {
            assert!(Instant::now() < deadline, "{said}");
        }
    }

    #[test]
    fn a_program_gets_no_descriptor_but_one() {
        let open = File::open("/dev/null").expect("there");
        let kept = fcntl_dupfd_cloexec(&open, 700).expect("a descriptor");
        let open = fcntl_dupfd_cloexec(&open, 800).expect("a descriptor");
        fcntl_setfd(&open, FdFlags::empty()).expect("set");
        for kept in [None, Some(kept.as_fd())] {
            let guardian = Guardian::over(std::path::Path::new("/nonexistent/directory")).expect("a guardian");
            let mut command = Command::new("sh");
            command.args(["-c", "cd /proc/self/fd; echo *"]);
            let (outside, mut program) = Outside::start(&mut command, guardian, kept).expect("sh is there");
            let mut said = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(60);
            while program.output.read_to_end(&mut said).is_err() {
                assert!(Instant::now() < deadline);
            }
            drop(outside);
            let said = String::from_utf8_lossy(&said);
            // The shell may have some of its own, of small numbers.
            let inherited = said.split_whitespace().filter(|number| number.len() > 2).collect::<Vec<_>>();
            let expected = kept.map(|kept| kept.as_raw_fd().to_string());
            assert_eq!(inherited, expected.iter().map(String::as_str).collect::<Vec<_>>(), "{said}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = start(&mut Command::new("/nonexistent/vmm")).expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
