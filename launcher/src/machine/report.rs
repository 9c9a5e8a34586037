//! What a child says of a run: every frame as it comes, the last one included, and behind it what only the child knows.
//!
//! The child has decoded the frames as hostile bytes; they are decoded again here, from the child. A run without an end
//! has words in place of its last frame.
#![forbid(unsafe_code)]

use crate::vmm::process::{self, Child, Heard};
use instar_abi::reply::{End, FRAME_HEADER_LEN, Frame, decode_batch, encode_frame};
use std::fs::File;
use std::io::{self, Write as _};

/// Bytes behind the last frame: an errno, 0 for none, and whether the child waits for orders, 1 or 0.
const LAST_LEN: usize = size_of::<i32>() + 1;
/// In place of a frame's length: what follows are the length of words and the words.
const FAILED: [u8; FRAME_HEADER_LEN] = [0xff; FRAME_HEADER_LEN];
/// Longer words are cut off.
const WORDS_LEN_MAX: usize = 16 << 10;
/// Bytes that a report may have more than the frames of a reply.
pub(super) const BEHIND_FRAMES: usize = FRAME_HEADER_LEN + size_of::<u32>() + WORDS_LEN_MAX;

/// Bytes of frames that are worth a call.
const ENOUGH: usize = 64 << 10;

/// The child's end. Frames are kept until they are worth a call, or the run is over: each call wakes the parent.
pub(super) struct Writer {
    pipe: File,
    kept: Vec<u8>,
}

impl Writer {
    pub const fn new(pipe: File) -> Self {
        Self { pipe, kept: Vec::new() }
    }

    /// Passes a frame on. Progress is seen at once.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let start = self.kept.len();
        if encode_frame(frame, &mut self.kept).is_err() {
            self.kept.truncate(start);
            return Err(io::ErrorKind::InvalidData.into());
        }
        let is_enough = self.kept.len() >= ENOUGH || matches!(frame, Frame::Progress { .. });
        if is_enough { self.flush() } else { Ok(()) }
    }

    /// Reports how a run ended: by its last frame, the host's errno and whether the child waits for orders, or by the words
    /// for why there is no last frame.
    pub fn outcome(&mut self, outcome: Result<Last, String>) -> io::Result<()> {
        match outcome {
            Ok(Last { end, errno, waits }) => {
                self.frame(&Frame::End(end))?;
                self.kept.extend(errno.unwrap_or(0).to_le_bytes());
                self.kept.push(waits.into());
            }
            Err(words) => {
                let words = &words.as_bytes()[..words.len().min(WORDS_LEN_MAX)];
                self.kept.extend(FAILED);
                self.kept.extend((words.len() as u32).to_le_bytes());
                self.kept.extend(words);
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = self.pipe.write_all(&self.kept);
        self.kept.clear();
        sent
    }
}

/// The end of a run that had one.
pub(super) struct Last {
    pub end: End,
    /// What the host said of the request that it failed by.
    pub errno: Option<i32>,
    /// Whether the child waits for orders.
    pub waits: bool,
}

/// What a child's report came to.
pub(super) enum Said {
    /// The last frame, and what is behind it.
    End(Last),
    /// Why there is none.
    Failed(String),
    /// No last frame.
    Nothing,
    /// Something that is no frame, or more than a reply may be.
    Nonsense,
    /// Not the last frame in time.
    TooLate,
    /// Nothing that this process could read.
    Unread(io::Error),
}

/// Hands frames over as they arrive. When the user asks for progress, what was last told of it comes again.
pub(super) fn read_frames(child: &mut Child, on_frame: &mut dyn FnMut(Frame)) -> Said {
    let mut progress = Frame::Progress { done: 0, total: 1 };
    loop {
        let mut wake = || {
            if process::progress_asked() {
                on_frame(progress.clone());
            }
        };
        match read_frame(child, &mut wake) {
            Ok(Frame::End(end)) => {
                let mut last = [0; LAST_LEN];
                return match hear(child, &mut last, &mut || {}) {
                    Ok(()) => {
                        let [a, b, c, d, waits] = last;
                        let errno = Some(i32::from_le_bytes([a, b, c, d])).filter(|&errno| errno != 0);
                        Said::End(Last { end, errno, waits: waits == 1 })
                    }
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
