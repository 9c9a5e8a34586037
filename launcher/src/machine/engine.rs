//! The engine that the launcher's jobs run on: in this process, or in a child of it.
//!
//! A job for a program of others' ([`super::outside`]) always runs in a child: this process stays to kill the
//! program and to clean up behind it.
//!
//! A job with nothing more to open runs here and locks this very process down. Any other runs in a
//! child, which locks itself down in this process's place and passes frames on as they come. The
//! child has decoded them as hostile bytes; this process decodes them again, from the child. What the host
//! said of a request that failed, only the child knows: behind the last frame comes an errno.

use super::{Choice, Images, Job, MachineError, ReplyFault, Running, Stop, Transport, run};
use crate::disk::Disk;
use crate::disk::witness::Witness;
use crate::job::{self, Machine, NoEnd, Then};
use crate::vmm::process::{self, Bounds, Child, Ended, Heard};
use instar_abi::error::{Error, ReadError, WriteError};
use instar_abi::reply::{End, FRAME_HEADER_LEN, Frame, decode_batch, encode_frame};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much longer than its guest a child may take: it makes the machine first.
const MARGIN: Duration = Duration::from_secs(30);

/// Runs jobs, on the built-in machine unless another is chosen.
pub struct Engine {
    /// Says on standard error why a run gave no end, in words.
    report: fn(&MachineError),
    transport: Transport,
    choice: Choice,
    image: Option<&'static [u8]>,
    errno: Option<i32>, // behind the end of the last run
}

impl Engine {
    /// An engine on the table transport, which words a child's failures by `report`.
    #[must_use]
    pub const fn new(report: fn(&MachineError)) -> Self {
        Self { report, transport: Transport::Table, choice: Choice::Builtin, image: None, errno: None }
    }

    /// The same, whose guests see their devices otherwise where the machine is the built-in one.
    #[must_use]
    pub fn on(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// The same, which boots this op image whatever the operation.
    #[must_use]
    pub fn booting(self, image: &'static [u8]) -> Self {
        Self { image: Some(image), ..self }
    }

    fn job<'a>(&self, job: &'a job::Job) -> Result<Watched<'a>, NoEnd> {
        let image = match self.image {
            Some(image) => image,
            None => Images::find(job.op).map_err(|_| NoEnd::NoImage { op: job.op })?,
        };
        let witnesses: Vec<_> = job.disks.iter().map(|disk| Arc::new(Witness::new(Arc::clone(disk)))).collect();
        let disks = witnesses.iter().map(|disk| Arc::<Witness>::clone(disk) as Arc<dyn Disk>).collect();
        let (request, limits, transport) = (&job.request, job.limits, self.transport);
        let job = Job { image, request, disks, limits, transport, outside: None };
        Ok(Watched { job, witnesses })
    }
}

/// A job whose disks remember why requests failed.
struct Watched<'a> {
    job: Job<'a>,
    witnesses: Vec<Arc<Witness>>,
}

impl Watched<'_> {
    /// What the host said of the request that the guest failed by, as far as it says which disk that was.
    fn errno(&self, end: &End) -> Option<i32> {
        let disk = match end {
            End::Failed(Error::Read(ReadError::Io { disk, .. }) | Error::Write(WriteError::Io { disk, .. })) => disk,
            _ => return None,
        };
        self.witnesses.get(usize::try_from(disk.0).ok()?)?.errno()
    }
}

impl Machine for Engine {
    fn run(&mut self, job: &job::Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        let Watched { job, witnesses } = self.job(job)?;
        let running = match self.choice.program() {
            Some(program) => {
                // Before there is anything to clean up.
                self.catch_signals()?;
                Some(Running::start(program, &job).map_err(NoEnd::Machine)?)
            }
            None => None,
        };
        let job = Watched { job: Job { outside: running.as_ref(), ..job }, witnesses };
        let (end, errno) = match then {
            Then::Finish if running.is_none() => run_here(&job, on_frame),
            Then::Finish | Then::GoOn => run_in_child(&job, self.report, on_frame),
        }?;
        self.errno = errno;
        Ok(end)
    }

    fn host_errno(&self) -> Option<i32> {
        self.errno
    }

    fn choose(&mut self, choice: Choice) {
        self.choice = choice;
    }

    fn catch_signals(&mut self) -> Result<(), NoEnd> {
        process::catch_signals().map_err(|error| NoEnd::Machine(MachineError::Host(error)))
    }

    fn stop_signal(&self) -> Option<i32> {
        process::stop_signal()
    }
}

/// The descriptors of the job's disks; everything else above standard error is closed before a run.
fn close_others(job: &Job<'_>, more: Option<&File>) {
    let disks = job.disks.iter().flat_map(|disk| disk.fds()).map(|fd| fd.as_raw_fd());
    let outside = job.outside.map(Running::fds).unwrap_or_default();
    process::close_others(&disks.chain(more.map(|file| file.as_raw_fd())).chain(outside).collect::<Vec<_>>());
}

fn run_here(job: &Watched<'_>, on_frame: &mut dyn FnMut(Frame)) -> Result<(End, Option<i32>), NoEnd> {
    close_others(&job.job, None);
    let frames = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&frames);
    let end = run(&job.job, move |frame| sink.lock().unwrap_or_else(PoisonError::into_inner).push(frame));
    frames.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(on_frame);
    let end = end.map_err(NoEnd::Machine)?;
    let errno = job.errno(&end);
    Ok((end, errno))
}

fn run_in_child(
    watched: &Watched<'_>,
    report: fn(&MachineError),
    on_frame: &mut dyn FnMut(Frame),
) -> Result<(End, Option<i32>), NoEnd> {
    let job = &watched.job;
    let host = |error| NoEnd::Machine(MachineError::Host(error));
    if let Some(signal) = process::stop_signal() {
        return Err(NoEnd::Stopped(signal));
    }
    let bounds = Bounds { len: job.limits.reply_len + ERRNO_LEN as u64, time: job.limits.time + MARGIN };
    let mut child = process::spawn(bounds, |pipe| {
        close_others(job, Some(&pipe));
        child_main(watched, pipe, report)
    })
    .map_err(host)?;
    if let Some(outside) = job.outside {
        outside.leave_to_child();
    }
    let said = read_frames(&mut child, on_frame);
    if !matches!(said, Ok(Said::Nothing)) {
        // It has said all it had to say, or what nobody wants to hear.
        child.kill();
    }
    match (child.wait().map_err(host)?, said.map_err(host)?) {
        (Ended::Stopped(signal), _) => Err(NoEnd::Stopped(signal)),
        (_, Said::End(end, errno)) => Ok((end, errno)),
        (_, Said::Nonsense) => Err(NoEnd::Machine(MachineError::Reply(ReplyFault::OutOfOrder))),
        (_, Said::TooLate) => Err(NoEnd::Machine(MachineError::NoEnd(Stop::TimeOut { rip: 0 }))),
        (Ended::Exited(_), Said::Nothing) => Err(NoEnd::Reported),
        (Ended::Signalled(signal), Said::Nothing) => Err(NoEnd::Machine(MachineError::ChildKilled { signal })),
    }
}

/// Bytes behind the last frame: an errno, 0 for none.
const ERRNO_LEN: usize = size_of::<i32>();

/// The child: runs the job, passes every frame on, the last one included, and what the host said.
fn child_main(job: &Watched<'_>, pipe: File, report: fn(&MachineError)) -> i32 {
    let mut pipe = Arc::new(pipe);
    let frames = Arc::clone(&pipe);
    match run(&job.job, move |frame| drop(send(&frames, &frame))) {
        Ok(end) => {
            let errno = job.errno(&end).unwrap_or(0);
            let sent = send(&pipe, &Frame::End(end)).and_then(|()| pipe.write_all(&errno.to_le_bytes()));
            i32::from(sent.is_err())
        }
        Err(error) => {
            report(&error);
            1
        }
    }
}

fn send(mut pipe: &File, frame: &Frame) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    encode_frame(frame, &mut bytes).map_err(|_| std::io::ErrorKind::InvalidData)?;
    pipe.write_all(&bytes)
}

/// What a child's report came to.
enum Said {
    /// The last frame, and the host's errno behind it.
    End(End, Option<i32>),
    /// No last frame.
    Nothing,
    /// Something that is no frame, or more than a reply may be.
    Nonsense,
    /// Not the last frame in time.
    TooLate,
}

/// Hands frames over as they arrive. When the user asks for progress, what was last told of it comes again.
fn read_frames(child: &mut Child, on_frame: &mut dyn FnMut(Frame)) -> std::io::Result<Said> {
    let mut progress = Frame::Progress { done: 0, total: 1 };
    loop {
        let mut message = vec![0; FRAME_HEADER_LEN];
        let mut wake = || {
            if process::progress_asked() {
                on_frame(progress.clone());
            }
        };
        match child.read_report(&mut message, &mut wake)? {
            Heard::Bytes => {}
            Heard::End => return Ok(Said::Nothing),
            Heard::TooLong => return Ok(Said::Nonsense),
            Heard::TooLate => return Ok(Said::TooLate),
        }
        let len = message.first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
        if len > instar_abi::control::FRAME_LEN_MAX {
            return Ok(Said::Nonsense);
        }
        message.resize(FRAME_HEADER_LEN + len as usize, 0);
        match child.read_report(&mut message[FRAME_HEADER_LEN..], &mut || {})? {
            Heard::Bytes => {}
            Heard::End => return Ok(Said::Nothing),
            Heard::TooLong => return Ok(Said::Nonsense),
            Heard::TooLate => return Ok(Said::TooLate),
        }
        let mut decoded = None;
        if decode_batch(&message, |frame| decoded = Some(frame)).is_err() {
            return Ok(Said::Nonsense);
        }
        match decoded {
            Some(Frame::End(end)) => {
                let mut errno = [0; ERRNO_LEN];
                let heard = child.read_report(&mut errno, &mut || {})?;
                return Ok(match heard {
                    Heard::Bytes => Said::End(end, Some(i32::from_le_bytes(errno)).filter(|&errno| errno != 0)),
                    Heard::End => Said::Nothing,
                    Heard::TooLong => Said::Nonsense,
                    Heard::TooLate => Said::TooLate,
                });
            }
            Some(frame) => {
                if matches!(frame, Frame::Progress { .. }) {
                    progress = frame.clone();
                }
                on_frame(frame);
            }
            None => return Ok(Said::Nonsense),
        }
    }
}
