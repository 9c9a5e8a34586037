//! The engine that the launcher's jobs run on: in this process, or in a child of it.
//!
//! A job with nothing more to open runs here and locks this very process down. Any other runs in a
//! child, which locks itself down in this process's place and passes frames on as they come. The
//! child has decoded them as hostile bytes; this process decodes them again, from the child.

use super::{Images, Job, MachineError, Transport, run};
use crate::job::{self, Machine, NoEnd, Then};
use crate::vmm::process::{self, Child, Ended};
use instar_abi::reply::{End, FRAME_HEADER_LEN, Frame, decode_batch, encode_frame};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};

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
}

/// The descriptors of the job's disks; everything else above standard error is closed before a run.
fn close_others(job: &Job<'_>, more: Option<&File>) {
    let disks = job.disks.iter().filter_map(|disk| disk.fd()).map(|fd| fd.as_raw_fd());
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
    process::catch_stop_signals().map_err(host)?;
    let mut child = process::spawn(|pipe| {
        close_others(job, Some(&pipe));
        child_main(job, pipe, report)
    })
    .map_err(host)?;
    let end = read_frames(&mut child, on_frame);
    if !matches!(end, Ok(Some(_))) {
        child.kill();
    }
    match (child.wait().map_err(host)?, end) {
        (Ended::Stopped(signal), _) => Err(NoEnd::Stopped(signal)),
        (_, Ok(Some(end))) => Ok(end),
        (Ended::Exited(_), _) => Err(NoEnd::Reported),
        (Ended::Signalled(signal), _) => Err(NoEnd::Machine(MachineError::ChildKilled { signal })),
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

/// Hands frames over as they arrive and returns the last one; `None` when there is none.
fn read_frames(child: &mut Child, on_frame: &mut dyn FnMut(Frame)) -> std::io::Result<Option<End>> {
    loop {
        let mut message = vec![0; FRAME_HEADER_LEN];
        if !child.read_report(&mut message)? {
            return Ok(None);
        }
        let len = message.first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
        if len > instar_abi::control::FRAME_LEN_MAX {
            return Ok(None);
        }
        message.resize(FRAME_HEADER_LEN + len as usize, 0);
        if !child.read_report(&mut message[FRAME_HEADER_LEN..])? {
            return Ok(None);
        }
        let mut decoded = None;
        if decode_batch(&message, |frame| decoded = Some(frame)).is_err() {
            return Ok(None);
        }
        match decoded {
            Some(Frame::End(end)) => return Ok(Some(end)),
            Some(frame) => on_frame(frame),
            None => return Ok(None),
        }
    }
}
