//! Targets that are pipes: standard output, a FIFO.
#![forbid(unsafe_code)]

use super::open::OpenError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

/// Names of this process's own standard output.
const STDOUT: [&str; 4] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"];

/// Whether a path means this process's standard output.
#[must_use]
pub fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path.as_os_str() == *name)
}

/// Opens a path that leads to a pipe or a socket for writing; `None`: it leads to something else, or nowhere.
///
/// A FIFO that nobody reads from is waited for, until `stop` says otherwise.
///
/// # Errors
/// [`OpenError`].
pub fn open(path: &Path, stop: &dyn Fn() -> bool) -> Result<Option<File>, OpenError> {
    let is_pipe = |mode| matches!(FileType::from_raw_mode(mode), FileType::Fifo | FileType::Socket);
    if is_stdout(path) {
        // As it is: opened anew, a pipe would also be open for reading, and a socket can't be.
        let stdout = std::io::stdout();
        let file = rustix::io::fcntl_dupfd_cloexec(stdout.as_fd(), 3)?;
        return Ok(is_pipe(fs::fstat(&file)?.st_mode).then(|| File::from(file)));
    }
    if !fs::stat(path).is_ok_and(|stat| is_pipe(stat.st_mode)) {
        return Ok(None);
    }
    loop {
        match fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()) {
            Err(Errno::INTR) if !stop() => {}
            Ok(file) if is_pipe(fs::fstat(&file)?.st_mode) => return Ok(Some(File::from(file))),
            // Somebody has put a file in its place.
            Ok(_) => return Err(OpenError::Kind),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether nobody reads from a pipe any more.
#[must_use]
pub fn is_deserted(file: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(file, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pipes_are_opened_as_pipes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        std::fs::write(&file, b"x").expect("written");
        fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
        for path in [&file, &dir.path().join("missing"), dir.path()] {
            assert!(open(path, &|| false).expect("looked at").is_none(), "{path:?}");
        }
        let reader = fs::open(&fifo, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("opens");
        let writer = open(&fifo, &|| false).expect("opens").expect("a pipe");
        assert!(!is_deserted(writer.as_fd()));
        drop(reader);
        assert!(is_deserted(writer.as_fd()));
    }

    #[test]
    fn standard_output_has_several_names() {
        assert!(is_stdout(Path::new("/dev/stdout")) && is_stdout(Path::new("/dev/fd/1")));
        assert!(!is_stdout(Path::new("stdout")) && !is_stdout(Path::new("/dev/fd/11")));
    }
}
