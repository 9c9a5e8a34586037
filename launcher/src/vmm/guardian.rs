//! What cleans up when this process no longer can: a process that waits for the end of this one.
//!
//! It holds one end of a pipe and nothing else. When the pipe ends, this process has ended, however that came about;
//! the guardian then kills the program that it was told of and removes the directory. It is a session of its own, so
//! that what ends a terminal or a process group does not end it as well.

use super::process::close_others;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;

/// Told instead of a number: the program is dead, and its number may soon be another's.
const NOBODY: i32 = 0;

/// A guardian over a directory, and a program once it is told of one. Dropped, it does its duty and ends.
#[derive(Debug)]
pub struct Guardian {
    pid: libc::pid_t,
    /// Its last copy: when it is closed, the guardian acts.
    line: Option<io::PipeWriter>,
}

impl Guardian {
    /// A guardian over a directory that need not be there yet.
    ///
    /// # Errors
    /// The host's.
    pub fn over(directory: &Path) -> io::Result<Self> {
        let (mut heard, line) = io::pipe()?;
        // SAFETY: the child closes what it does not need, reads, removes files and ends. It allocates, which the host's
        // allocator allows after a fork, and takes no lock that another thread of this process could hold.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(line);
                watch(&mut heard, directory);
                // SAFETY: ends this process at once; the parent's buffers and atexit handlers are not its to run.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self { pid, line: Some(line) }),
        }
    }

    /// What a program writes its number to, see [`tell`].
    #[must_use]
    pub fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }

    /// The program has been killed.
    pub fn forget(&self) {
        if let Some(line) = self.line() {
            tell(line, NOBODY);
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.line.take());
        let mut status = 0;
        // SAFETY: the number is still our child's, as nobody has waited for it; `status` is ours to be written. Its end
        // is near: the pipe has no other writer, as every program closes it when it is executed.
        while unsafe { libc::waitpid(self.pid, &raw mut status, 0) } == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// Tells a guardian the number of a program, which leads its process group. One system call.
pub fn tell(line: BorrowedFd<'_>, pid: i32) {
    // A guardian that is gone can't be helped: the program dies with this process all the same.
    let _ = rustix::io::write(line, &pid.to_ne_bytes());
}

/// The guardian's life.
fn watch(heard: &mut io::PipeReader, directory: &Path) {
    close_others(&[heard.as_raw_fd()]);
    // SAFETY: no pointers; leaves session and process group, affects this process only. Nothing that asks others to stop
    // stops it: it ends by itself. Descriptors 0 to 2 are the parent's readers' to wait for; nothing is printed here.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        (0..=2).for_each(|fd| {
            libc::close(fd);
        });
    }
    let (mut program, mut told) = (NOBODY, [0; size_of::<i32>()]);
    // Each writer's four bytes stay together.
    while heard.read_exact(&mut told).is_ok() {
        program = i32::from_ne_bytes(told);
    }
    if let Some(program) = Pid::from_raw(program) {
        let _ = kill_process_group(program, Signal::KILL);
    }
    // A program that was killed may still be about to make a file.
    for _ in 0..TRIES {
        if !matches!(std::fs::remove_dir_all(directory), Err(error) if error.kind() != io::ErrorKind::NotFound) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// How often, and how long apart, a directory is tried that can't be removed at once.
const TRIES: u32 = 100;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
