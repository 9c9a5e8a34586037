use crate::layout::{Script, crc32};
use instar::disk::control::Control;
use instar::disk::{Disk as _, Segments};
use instar::machine::Reply;
use instar::render::image_file::{ImageFile, Protocol};
use instar::render::info::{Described, to_json, to_lines};
use instar::render::progress;
use instar::render::report::Collector;
use instar::render::zone::Zone;
use instar_abi::control::{FRAME_LEN_MAX, Header, HeaderError, REPLY_BASE, REPLY_LEN_MAX, REQUEST_LEN_MAX};
use instar_abi::reply::{Frame, FrameError, decode_batch, encode_frame, pad_batch};
use instar_abi::request::{DiskId, Given, LayerId, Measure, MeasuredContent, Op, Request};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use zerocopy::FromBytes as _;

/// What crosses between guest and launcher. Byte 0 says what: writes of a hostile guest as they are, frames with
/// sound checksums around hostile payloads, a request, a control header. Byte 1 is the reply's limit.
pub fn result_stream(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(kind), Some(limit)) = (script.u8(), script.u8()) else { return };
    match kind % 4 {
        0 => raw_writes(&mut script, limit),
        1 => framed_writes(&mut script, limit),
        2 => check_request(script.rest()),
        _ => check_header(script.rest()),
    }
}

/// Each write: a byte of flags and sectors, an offset in sectors if the highest bit is set, and the content.
fn raw_writes(script: &mut Script<'_>, limit: u8) {
    let mut guest = Guest::new(limit);
    while let Some(head) = script.u8() {
        let at = if head & 0x80 == 0 { None } else { script.u32() };
        let len = usize::from(head & 0x3f) * 512 + usize::from(head & 0x40);
        let mut bytes = script.bytes(len).to_vec();
        bytes.resize(len, 0);
        guest.write(at.map(|sectors| u64::from(sectors) * 512), &bytes);
    }
    guest.finish();
}

/// Each frame: the payload's length, its highest bit set where the write ends there, and the payload.
fn framed_writes(script: &mut Script<'_>, limit: u8) {
    let mut guest = Guest::new(limit);
    let mut batch = Vec::new();
    while let Some(len) = script.u16() {
        let payload = script.bytes(usize::from(len & 0x7fff));
        batch.extend_from_slice(&u32::try_from(payload.len()).expect("below 32768").to_le_bytes());
        batch.extend_from_slice(&crc32(payload).to_le_bytes());
        batch.extend_from_slice(payload);
        if len & 0x8000 != 0 {
            pad_batch(&mut batch);
            guest.write(None, &batch);
            batch.clear();
        }
    }
    pad_batch(&mut batch);
    guest.write(None, &batch);
    guest.finish();
}

/// A guest that writes its reply, and the launcher that takes it.
struct Guest {
    control: Control,
    reply: Arc<Mutex<Reply>>,
    frames: Arc<Mutex<Vec<Frame>>>,
    limit: u64,
    written: u64,
    is_over: bool,
}

impl Guest {
    fn new(limit: u8) -> Self {
        let limit = [0, 512, 4096, 65536, 24 << 20, u64::MAX][usize::from(limit) % 6];
        let frames = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&frames);
        let reply = Reply::new(move |frame| taken.lock().expect("one thread").push(frame));
        let reply = Arc::new(Mutex::new(reply));
        let sink = Arc::clone(&reply);
        let sink = move |batch: &[u8]| sink.lock().expect("one thread").take_batch(batch);
        let control = Control::new([7; 16], b"request", limit, Box::new(sink)).expect("a short request");
        Self { control, reply, frames, limit: limit.min(REPLY_LEN_MAX), written: 0, is_over: false }
    }

    /// Writes at an offset, or where the reply goes on.
    fn write(&mut self, at: Option<u64>, bytes: &[u8]) {
        let before = self.frames.lock().expect("one thread").len();
        let offset = at.unwrap_or(REPLY_BASE + self.written);
        let result = self.control.write(offset, &Bytes(bytes));
        let continues = offset == REPLY_BASE + self.written;
        if result.is_ok() {
            assert!(!self.is_over, "a reply that was refused goes on");
            assert!(continues && bytes.len().is_multiple_of(512), "a write out of place is taken");
            self.written += bytes.len() as u64;
            assert!(self.written <= self.limit, "{} bytes of reply, {} allowed", self.written, self.limit);
        }
        self.is_over |= result.is_err();
        assert_eq!(self.control.is_broken(), self.is_over);
        let new = self.frames.lock().expect("one thread").len() - before;
        assert!(new <= bytes.len() / 9, "{new} frames in {} bytes", bytes.len());
        check_frames(bytes);
    }

    /// Judges all frames that were taken, and prints what they say.
    fn finish(self) {
        let mut reply = self.reply.lock().expect("one thread");
        assert!(reply.fault().is_none() || self.is_over);
        let end = reply.take_end();
        assert!(reply.take_end().is_none());
        if let Some(end) = end {
            check_identity(&Frame::End(end));
        }
        let frames = std::mem::take(&mut *self.frames.lock().expect("one thread"));
        let mut last = 0;
        for frame in &frames {
            match frame {
                Frame::Progress { done, total } => {
                    assert!(last <= *done && done <= total, "progress {last}, {done} of {total}");
                    last = *done;
                    assert!(!progress::line(*done, *total).is_empty());
                }
                Frame::End(_) => panic!("the end is no frame like others"),
                _ => {}
            }
        }
        print(frames);
    }
}

/// Frames of one write: each within its limit, and the same once encoded again.
fn check_frames(batch: &[u8]) {
    let mut frames = Vec::new();
    let result = decode_batch(batch, |frame| frames.push(frame));
    frames.iter().for_each(check_identity);
    match result {
        Ok(()) => {
            let mut again = Vec::new();
            frames.iter().for_each(|frame| encode_frame(frame, &mut again).expect("no longer than it was"));
            pad_batch(&mut again);
            let mut twice = Vec::new();
            decode_batch(&again, |frame| twice.push(frame)).expect("our own encoding");
            assert_eq!(frames, twice);
        }
        Err(FrameError::Len { found }) => {
            assert!(found > FRAME_LEN_MAX || found as usize > batch.len() - 8 - frames.len() * 9)
        }
        Err(FrameError::Checksum | FrameError::Encoding | FrameError::Padding) => {}
    }
}

fn check_identity(frame: &Frame) {
    let mut batch = Vec::new();
    encode_frame(frame, &mut batch).expect("what was decoded can be encoded");
    let mut again = None;
    decode_batch(&batch, |frame| again = Some(frame)).expect("our own encoding");
    assert_eq!(again.as_ref(), Some(frame));
}

/// What info prints of these frames is text that acts on no terminal, and JSON.
fn print(frames: Vec<Frame>) {
    let mut collector = Collector::new(b"file".to_vec());
    for frame in frames {
        if collector.take(frame).is_err() {
            return;
        }
    }
    let Ok(report) = collector.finish() else { return };
    let file = ImageFile {
        name: b"a.img".to_vec(),
        windows: Vec::new(),
        path: b"a.img".to_vec(),
        protocol: Protocol::File,
        len: 1 << 20,
        actual_size: 4096,
        parts: Vec::new(),
    };
    let described = Described { report, file };
    let lines = to_lines(std::slice::from_ref(&described), &Zone::named("UTC"));
    let acts = |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
    assert!(!lines.contains(acts), "acts on a terminal: {lines:?}");
    let json = to_json(&described);
    assert!(json.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "{json:?}");
    serde_json::from_str::<serde_json::Value>(&json).expect("valid JSON");
}

fn check_request(bytes: &[u8]) {
    let Ok(request) = Request::decode(bytes) else { return };
    let disk = |id: DiskId| assert!((id.0 as usize) < request.disks.len(), "{id:?} of {}", request.disks.len());
    let layer = |id: LayerId| assert!((id.0 as usize) < request.layers.len(), "{id:?} of {}", request.layers.len());
    match &request.op {
        Op::Info { image, .. } => layer(*image),
        Op::Check(check) => layer(check.image),
        Op::Convert(convert) => {
            convert.sources.iter().copied().for_each(layer);
            disk(convert.target);
        }
        Op::Map(map) => layer(map.image),
        Op::Measure(Measure { content: MeasuredContent::Image { image, .. }, .. }) => layer(*image),
        Op::Measure(_) => {}
        Op::Compare(compare) => [compare.left, compare.right].into_iter().for_each(layer),
    }
    request.layers.iter().for_each(|layer| disk(layer.disk));
    for answer in &request.answers {
        layer(answer.layer);
        match answer.given {
            Given::Layer(id) => layer(id),
            Given::Disk(id) => disk(id),
            Given::Refused => {}
        }
    }
    let again = request.encode().expect("memory");
    assert_eq!(Request::decode(&again).as_ref(), Ok(&request));
}

/// The header with this build's id in it, so that what follows the id is reached.
fn check_header(bytes: &[u8]) {
    let Ok((mut header, _)) = Header::read_from_prefix(bytes) else { return };
    let nonce = [7; 16];
    assert!(header.build_id == instar_abi::BUILD_ID || header.request_len(nonce).is_err());
    header.build_id = instar_abi::BUILD_ID;
    match header.request_len(nonce) {
        Ok(len) => {
            assert!(len <= REQUEST_LEN_MAX && header.nonce == nonce && header.magic == instar_abi::control::MAGIC)
        }
        Err(HeaderError::RequestLen { found }) => assert!(found > REQUEST_LEN_MAX),
        Err(_) => {}
    }
}

/// The data of a write.
struct Bytes<'a>(&'a [u8]);

impl Segments for Bytes<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_file(&mut self, _: BorrowedFd<'_>, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_file(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn put(&mut self, _: u64, _: &[u8]) {}

    fn take(&self, _: u64, _: &mut [u8]) {}

    fn zero_from(&mut self, _: u64) {}

    fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}
