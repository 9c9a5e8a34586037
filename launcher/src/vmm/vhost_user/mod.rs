//! Disks for a machine that another program makes: the back end of vhost-user-blk, on the same disks and the same
//! serving of requests as the built-in machine.
//!
//! ```text
//! the program ── a socket a device ──▸ Device: features, memory, rings    (vhost's messages)
//! the guest ──── a kick, then none ──▸ Ring: whole rings until all are empty, straight between guest memory and the disk
//! ```
//! One thread waits for all that is said, and serves the control device. Each disk has a thread of its own: reads of one go on beside
//! writes of another, and nobody waits for a file's lock. The program is trusted with the guest's memory and with nothing else: what it says is
//! checked as the guest's own words are. A device is connected to once.

mod device;
mod ring;
mod threads;

use super::block::GuestFault;
use super::memory::Memory;
use super::shared::Stop;
use crate::disk::Disk;
pub use device::Device;
pub use ring::Ring;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use threads::{Kicks, Threads};
use vhost::vhost_user::{BackendReqHandler, Error};

/// How long a program may take to end once its guest has said that all is done.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Most threads that serve disks.
const THREADS_MAX: usize = 8;
/// Bytes kept of what the program says.
const SAID_LEN_MAX: usize = 2048;

/// Why devices could not be served.
#[derive(Debug)]
pub enum Fault {
    /// The guest broke the contract.
    Guest(GuestFault),
    /// The program did.
    Protocol {
        /// The device.
        device: usize,
        /// How.
        error: Error,
    },
    /// A kick descriptor can't be read.
    Kick(io::Error),
    /// The host's.
    Host(io::Error),
}

/// The program that makes the machine.
#[derive(Debug)]
pub struct Program {
    /// Readable once it has ended.
    pub end: OwnedFd,
    /// What it prints; not blocking.
    pub output: File,
}

/// How a run came to its end.
pub struct Outcome {
    /// Why it stopped: [`Stop::PowerOff`] when the program has ended.
    pub stop: Stop,
    /// The guest's memory, if the control device was ever set up.
    pub memory: Option<Memory>,
    /// The last bytes that the program printed; the guest's serial line may be among them.
    pub said: Vec<u8>,
}

/// One device, before and after it is connected to.
struct Served {
    /// Until somebody has.
    listener: Option<UnixListener>,
    connection: Option<BackendReqHandler<Mutex<Device>>>,
    device: Arc<Mutex<Device>>,
}

/// All devices of a run.
pub struct Backend {
    devices: Vec<Served>,
    /// The control device's queues.
    control: Kicks,
    disks: Threads,
    program: Program,
    hears: bool, // the program's output has not ended
    said: Vec<u8>,
}

/// What a descriptor is.
#[derive(Clone, Copy)]
enum Source {
    End,
    Output,
    Fault,
    Listener(usize),
    Connection(usize),
    Kick(usize),
}

impl Backend {
    /// Devices at these sockets, in order; each offers `queues` queues.
    ///
    /// # Errors
    /// No descriptor for the threads.
    pub fn new(devices: Vec<(UnixListener, Arc<dyn Disk>)>, queues: usize, program: Program) -> io::Result<Self> {
        let served = |(index, (listener, disk)): (u32, (UnixListener, Arc<dyn Disk>))| Served {
            listener: Some(listener),
            connection: None,
            device: Arc::new(Mutex::new(Device::new(index, disk, queues))),
        };
        let devices: Vec<Served> = (0..).zip(devices).map(served).collect();
        let queues = |part: &mut dyn Iterator<Item = &Served>| {
            Kicks::new(part.flat_map(|served| lock(&served.device).rings().to_vec()).collect())
        };
        let control = queues(&mut devices.iter().take(1));
        let count = THREADS_MAX.min(devices.len().saturating_sub(1));
        let of_thread = |thread| queues(&mut devices.iter().skip(1 + thread).step_by(count));
        let disks = Threads::new((0..count).map(of_thread).collect())?;
        Ok(Self { devices, control, disks, program, hears: true, said: Vec::new() })
    }

    /// Starts the threads: to be called before a filter would forbid it.
    ///
    /// # Errors
    /// The host's.
    pub fn start_threads(&mut self) -> io::Result<()> {
        self.disks.start()
    }

    /// Serves until the program has ended, or `time_limit` is over. `is_over` tells that the guest has nothing more to
    /// say, or may say no more.
    ///
    /// # Errors
    /// [`Fault`]; the program is to be killed.
    pub fn serve(mut self, time_limit: Duration, is_over: &dyn Fn() -> bool) -> Result<Outcome, (Fault, Vec<u8>)> {
        match self.serve_to_end(Instant::now() + time_limit, is_over) {
            Ok(stop) => {
                self.hear();
                let memory = self.devices.first().and_then(|control| lock(&control.device).memory().cloned());
                Ok(Outcome { stop, memory, said: self.said })
            }
            Err(fault) => {
                self.hear();
                Err((fault, self.said))
            }
        }
    }

    fn serve_to_end(&mut self, mut deadline: Instant, is_over: &dyn Fn() -> bool) -> Result<Stop, Fault> {
        let mut was_over = false;
        loop {
            let now = Instant::now();
            if !was_over && is_over() {
                (was_over, deadline) = (true, deadline.min(now + FAREWELL));
            }
            if now >= deadline {
                return Ok(Stop::TimeOut { rip: 0 });
            }
            let ready = self.wait().map_err(Fault::Host)?;
            let (mut ended, mut has_news) = (false, false);
            for source in ready {
                match source {
                    Source::End => ended = true,
                    Source::Output => self.hear(),
                    Source::Listener(index) => self.accept(index).map_err(Fault::Host)?,
                    Source::Connection(index) => {
                        self.handle(index)?;
                        has_news = true;
                    }
                    Source::Kick(index) => self.control.take(index)?,
                    Source::Fault => self.disks.fault()?,
                }
            }
            // Kicks are taken by the numbers that they had when they were waited for.
            if has_news {
                self.control.look();
                self.disks.look();
            }
            self.control.serve()?;
            if ended {
                return Ok(Stop::PowerOff);
            }
        }
    }

    /// What has become ready, within a tick.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources: Vec<(Source, BorrowedFd<'_>)> =
            vec![(Source::End, self.program.end.as_fd()), (Source::Fault, self.disks.bell())];
        if self.hears {
            sources.push((Source::Output, self.program.output.as_fd()));
        }
        for (index, served) in self.devices.iter().enumerate() {
            sources.extend(served.listener.as_ref().map(|listener| (Source::Listener(index), listener.as_fd())));
            sources.extend(served.connection.as_ref().map(|connection| (Source::Connection(index), fd_of(connection))));
        }
        sources.extend(self.control.fds().map(|(index, kick)| (Source::Kick(index), kick)));
        let ready = ready(sources.iter().map(|(_, fd)| *fd), self.control.patience())?;
        Ok(ready.into_iter().filter_map(|index| sources.get(index)).map(|(source, _)| *source).collect())
    }

    /// The first to connect is the machine; nobody else ever gets in.
    fn accept(&mut self, index: usize) -> io::Result<()> {
        let Some(served) = self.devices.get_mut(index) else { return Ok(()) };
        if let Some(listener) = served.listener.take() {
            let (stream, _) = listener.accept()?;
            served.connection = Some(BackendReqHandler::from_stream(stream, Arc::clone(&served.device)));
        }
        Ok(())
    }

    fn handle(&mut self, index: usize) -> Result<(), Fault> {
        let Some(served) = self.devices.get_mut(index) else { return Ok(()) };
        let Some(connection) = &mut served.connection else { return Ok(()) };
        match connection.handle_request() {
            Ok(()) => {}
            Err(Error::SocketRetry(_)) => {}
            // Its process is about to end, or does without the device; what the guest makes of that is seen elsewhere.
            Err(Error::Disconnected | Error::SocketBroken(_)) => served.connection = None,
            Err(error) => match lock(&served.device).fault() {
                Some(fault) => return Err(Fault::Guest(fault)),
                None => return Err(Fault::Protocol { device: index, error }),
            },
        }
        // The guest's own fault may have been answered politely.
        match lock(&served.device).fault() {
            Some(fault) => Err(Fault::Guest(fault)),
            None => Ok(()),
        }
    }

    /// Takes what the program has printed, and keeps the end of it.
    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        while self.hears {
            match self.program.output.read(&mut bytes) {
                Ok(0) => self.hears = false,
                Ok(len) => {
                    self.said.extend_from_slice(&bytes[..len]);
                    let surplus = self.said.len().saturating_sub(SAID_LEN_MAX);
                    self.said.drain(..surplus);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.hears = false,
            }
        }
    }
}

/// Which of these can be read, by their places; none where none can before `patience` is over.
fn ready<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, patience: Duration) -> io::Result<Vec<usize>> {
    let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let patience = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut fds, Some(&patience)) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    }
    Ok((0..).zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(index, _)| index).collect())
}

/// A panic while something is locked ends the process: nothing poisoned is ever used.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fd_of(connection: &BackendReqHandler<Mutex<Device>>) -> BorrowedFd<'_> {
    // SAFETY: the descriptor of a socket that the handler owns and keeps open while it is borrowed.
    unsafe { BorrowedFd::borrow_raw(connection.as_raw_fd()) }
}

#[cfg(test)]
mod tests;
