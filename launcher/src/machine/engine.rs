//! The engine that the launcher's jobs run on: in this process, or in a child of it.
//!
//! A job for a program of others' ([`super::outside`]) always runs in a child: this process stays to kill the
//! program and to clean up behind it.
//!
//! A job with nothing more to open runs here and locks this very process down. Any other runs in a
//! child, which locks itself down in this process's place and passes frames on as they come. The
//! child has decoded them as hostile bytes; this process decodes them again, from the child. What the host
//! said of a request that failed, only the child knows: behind the last frame comes an errno. A run without an end has
//! words in place of its last frame.

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
    /// Why a run gave no end, in words: an error does not get out of the child that met it.
    words: fn(&MachineError) -> String,
    transport: Transport,
    choice: Choice,
    image: Option<&'static [u8]>,
    errno: Option<i32>, // behind the end of the last run
}

impl Engine {
    /// An engine on the table transport, which words a child's failures by `words`.
    #[must_use]
    pub const fn new(words: fn(&MachineError) -> String) -> Self {
        Self { words, transport: Transport::Table, choice: Choice::Builtin, image: None, errno: None }
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
            Then::Finish | Then::GoOn => run_in_child(&job, self.words, on_frame),
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
    words: fn(&MachineError) -> String,
    on_frame: &mut dyn FnMut(Frame),
) -> Result<(End, Option<i32>), NoEnd> {
    let job = &watched.job;
    let host = |error| NoEnd::Machine(MachineError::Host(error));
    if let Some(signal) = process::stop_signal() {
        return Err(NoEnd::Stopped(signal));
    }
    let bounds = Bounds { len: job.limits.reply_len + BEHIND_FRAMES as u64, time: job.limits.time + MARGIN };
    let mut child = process::spawn(bounds, |pipe| {
        close_others(job, Some(&pipe));
        child_main(watched, pipe, words)
    })
    .map_err(host)?;
    if let Some(outside) = job.outside {
        outside.leave_to_child();
    }
    let said = read_frames(&mut child, on_frame);
    if !matches!(said, Said::Nothing) {
        // It has said all it had to say, or what nobody wants to hear.
        child.kill();
    }
    match (child.wait().map_err(host)?, said) {
        (Ended::Stopped(signal), _) => Err(NoEnd::Stopped(signal)),
        (_, Said::End(end, errno)) => Ok((end, errno)),
        (_, Said::Failed(words)) => Err(NoEnd::Told(words)),
        (_, Said::Unread(error)) => Err(host(error)),
        (_, Said::TooLate) => Err(NoEnd::Machine(MachineError::NoEnd(Stop::TimeOut { rip: 0 }))),
        (Ended::Signalled(signal), Said::Nothing) => Err(NoEnd::Machine(MachineError::ChildKilled { signal })),
        (Ended::Exited(_), Said::Nothing) | (_, Said::Nonsense) => {
            Err(NoEnd::Machine(MachineError::Reply(ReplyFault::OutOfOrder)))
        }
    }
}

/// Bytes behind the last frame: an errno, 0 for none.
const ERRNO_LEN: usize = size_of::<i32>();
/// In place of a frame's length: what follows are the length of words and the words.
const FAILED: [u8; FRAME_HEADER_LEN] = [0xff; FRAME_HEADER_LEN];
/// Longer words are cut off.
const WORDS_LEN_MAX: usize = 16 << 10;
/// Bytes that a report may have more than the frames of a reply.
const BEHIND_FRAMES: usize = FRAME_HEADER_LEN + size_of::<u32>() + WORDS_LEN_MAX;

/// The child: runs the job, passes every frame on, the last one included, and what the host said; or says why there is
/// no last frame.
fn child_main(job: &Watched<'_>, pipe: File, words: fn(&MachineError) -> String) -> i32 {
    let mut pipe = Arc::new(pipe);
    let frames = Arc::clone(&pipe);
    match run(&job.job, move |frame| drop(send(&frames, &frame))) {
        Ok(end) => {
            let errno = job.errno(&end).unwrap_or(0);
            let sent = send(&pipe, &Frame::End(end)).and_then(|()| pipe.write_all(&errno.to_le_bytes()));
            i32::from(sent.is_err())
        }
        Err(error) => {
            let words = words(&error).into_bytes();
            let words = &words[..words.len().min(WORDS_LEN_MAX)];
            let len = (words.len() as u32).to_le_bytes();
            i32::from(pipe.write_all(&[&FAILED, &len[..], words].concat()).is_err())
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
    /// Why there is none.
    Failed(String),
    /// No last frame.
    Nothing,
    /// Something that is no frame, or more than a reply may be.
    Nonsense,
    /// Not the last frame in time.
    TooLate,
    /// Nothing that this process could read.
    Unread(std::io::Error),
}

/// Hands frames over as they arrive. When the user asks for progress, what was last told of it comes again.
fn read_frames(child: &mut Child, on_frame: &mut dyn FnMut(Frame)) -> Said {
    let mut progress = Frame::Progress { done: 0, total: 1 };
    loop {
        let mut wake = || {
            if process::progress_asked() {
                on_frame(progress.clone());
            }
        };
        match read_frame(child, &mut wake) {
            Ok(Frame::End(end)) => {
                let mut errno = [0; ERRNO_LEN];
                return match hear(child, &mut errno, &mut || {}) {
                    Ok(()) => Said::End(end, Some(i32::from_le_bytes(errno)).filter(|&errno| errno != 0)),
                    Err(said) => said,
                };
            }
            Ok(frame) => {
                if matches!(frame, Frame::Progress { .. }) {
                    progress = frame.clone();
                }
                on_frame(frame);
            }
            Err(said) => return said,
        }
    }
}

/// The next frame, or what the report came to instead.
fn read_frame(child: &mut Child, wake: &mut dyn FnMut()) -> Result<Frame, Said> {
    let mut message = vec![0; FRAME_HEADER_LEN];
    hear(child, &mut message, wake)?;
    if message == FAILED {
        return Err(Said::Failed(read_words(child)?));
    }
    let len = message.first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
    if len > instar_abi::control::FRAME_LEN_MAX {
        return Err(Said::Nonsense);
    }
    message.resize(FRAME_HEADER_LEN + len as usize, 0);
    hear(child, &mut message[FRAME_HEADER_LEN..], &mut || {})?;
    let mut decoded = None;
    decode_batch(&message, |frame| decoded = Some(frame)).map_err(|_| Said::Nonsense)?;
    decoded.ok_or(Said::Nonsense)
}

fn read_words(child: &mut Child) -> Result<String, Said> {
    let mut len = [0; size_of::<u32>()];
    hear(child, &mut len, &mut || {})?;
    let len = u32::from_le_bytes(len) as usize;
    if len > WORDS_LEN_MAX {
        return Err(Said::Nonsense);
    }
    let mut words = vec![0; len];
    hear(child, &mut words, &mut || {})?;
    Ok(String::from_utf8_lossy(&words).into_owned())
}

/// Reads exactly the next bytes of the report.
fn hear(child: &mut Child, bytes: &mut [u8], wake: &mut dyn FnMut()) -> Result<(), Said> {
    match child.read_report(bytes, wake).map_err(Said::Unread)? {
        Heard::Bytes => Ok(()),
        Heard::End => Err(Said::Nothing),
        Heard::TooLong => Err(Said::Nonsense),
        Heard::TooLate => Err(Said::TooLate),
    }
}
