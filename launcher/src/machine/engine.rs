//! The engine that the launcher's jobs run on: in this process, or in a child of it.
//!
//! A job with nothing more to open runs here and locks this very process down. Any other runs in a
//! child, which locks itself down in this process's place and passes frames on as they come. The
//! child has decoded them as hostile bytes; this process decodes them again, from the child.

use super::{Images, Job, MachineError, ReplyFault, Stop, Transport, run};
use crate::job::{self, Machine, NoEnd, Then};
use crate::vmm::process::{self, Bounds, Child, Ended, Heard};
use instar_abi::reply::{End, FRAME_HEADER_LEN, Frame, decode_batch, encode_frame};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much longer than its guest a child may take: it makes the machine first.
const MARGIN: Duration = Duration::from_secs(30);

/// Runs jobs on the built-in machine.
pub struct Engine {
    /// Says on standard error why a run gave no end, in words.
    report: fn(&MachineError),
    transport: Transport,
}

impl Engine {
    /// An engine on the table transport, which words a child's failures by `report`.
    #[must_use]
    pub const fn new(report: fn(&MachineError)) -> Self {
        Self { report, transport: Transport::Table }
    }

    fn job<'a>(&self, job: &'a job::Job) -> Result<Job<'a>, NoEnd> {
        let image = Images::find(job.op).map_err(|_| NoEnd::NoImage { op: job.op })?;
        Ok(Job {
            image,
            request: &job.request,
            disks: job.disks.clone(),
            limits: job.limits,
            transport: self.transport,
        })
    }
}

impl Machine for Engine {
    fn run(&mut self, job: &job::Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        match then {
            Then::Finish => run_here(&self.job(job)?, on_frame),
            Then::GoOn => run_in_child(&self.job(job)?, self.report, on_frame),
        }
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
    process::close_others(&disks.chain(more.map(|file| file.as_raw_fd())).collect::<Vec<_>>());
}

fn run_here(job: &Job<'_>, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
    close_others(job, None);
    let frames = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&frames);
    let end = run(job, move |frame| sink.lock().unwrap_or_else(PoisonError::into_inner).push(frame));
    frames.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(on_frame);
    end.map_err(NoEnd::Machine)
}

fn run_in_child(job: &Job<'_>, report: fn(&MachineError), on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
    let host = |error| NoEnd::Machine(MachineError::Host(error));
    if let Some(signal) = process::stop_signal() {
        return Err(NoEnd::Stopped(signal));
    }
    let bounds = Bounds { len: job.limits.reply_len, time: job.limits.time + MARGIN };
    let mut child = process::spawn(bounds, |pipe| {
        close_others(job, Some(&pipe));
        child_main(job, pipe, report)
    })
    .map_err(host)?;
    let said = read_frames(&mut child, on_frame);
    if !matches!(said, Ok(Said::Nothing)) {
        // It has said all it had to say, or what nobody wants to hear.
        child.kill();
    }
    match (child.wait().map_err(host)?, said.map_err(host)?) {
        (Ended::Stopped(signal), _) => Err(NoEnd::Stopped(signal)),
        (_, Said::End(end)) => Ok(end),
        (_, Said::Nonsense) => Err(NoEnd::Machine(MachineError::Reply(ReplyFault::OutOfOrder))),
        (_, Said::TooLate) => Err(NoEnd::Machine(MachineError::NoEnd(Stop::TimeOut { rip: 0 }))),
        (Ended::Exited(_), Said::Nothing) => Err(NoEnd::Reported),
        (Ended::Signalled(signal), Said::Nothing) => Err(NoEnd::Machine(MachineError::ChildKilled { signal })),
    }
}

/// The child: runs the job, passes every frame on, the last one included.
fn child_main(job: &Job<'_>, pipe: File, report: fn(&MachineError)) -> i32 {
    let pipe = Arc::new(pipe);
    let frames = Arc::clone(&pipe);
    match run(job, move |frame| drop(send(&frames, &frame))) {
        Ok(end) => i32::from(send(&pipe, &Frame::End(end)).is_err()),
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
    /// The last frame.
    End(End),
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
            Some(Frame::End(end)) => return Ok(Said::End(end)),
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
