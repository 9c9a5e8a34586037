//! What a person needs who boots an op image under a machine of their own: a control disk, and what a guest has
//! written on it.
#![forbid(unsafe_code)]

use crate::job::limits;
use crate::render::escape::shown;
use instar_abi::control::{FRAME_LEN_MAX, Header, REPLY_BASE, REQUEST_OFFSET, SECTOR_LEN};
use instar_abi::reply::{FRAME_HEADER_LEN, decode_batch};
use instar_abi::request::{Disk, DiskId, Layer, LayerId, Op, RawGate, Request};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use zerocopy::IntoBytes as _;

/// Bytes of reply that such a disk has room for.
const REPLY_LEN: u64 = 1 << 20;

/// Writes a control disk that asks what `image` is, and returns the words that it is accepted by.
///
/// # Errors
/// The host's.
pub(super) fn control(image: &Path, control: &Path) -> io::Result<String> {
    let mut nonce = [0; 16];
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
    let request = Request::new(
        Op::Info { image: LayerId(0), details: false },
        vec![Disk::read_only(std::fs::metadata(image)?.len())],
        vec![Layer::new(DiskId(0), None, RawGate::Partitioned)],
        limits::INFO_BUDGET,
    );
    let request = request.encode().map_err(|_| io::ErrorKind::OutOfMemory)?;
    let file = File::create(control)?;
    file.write_all_at(Header::new(nonce, request.len() as u64, REPLY_LEN).as_bytes(), 0)?;
    file.write_all_at(&request, REQUEST_OFFSET)?;
    file.set_len(REPLY_BASE + REPLY_LEN)?;
    Ok(format!("nonce={:032x}", u128::from_be_bytes(nonce)))
}

/// The frames on a control disk, one a line; the strings in them are the guest's.
///
/// # Errors
/// The host's; of kind `InvalidData`: what is there are no frames.
pub(super) fn reply(control: &Path) -> io::Result<String> {
    let bytes = {
        let file = File::open(control)?;
        let mut bytes = vec![0; usize::try_from(REPLY_LEN).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, REPLY_BASE)?;
        bytes
    };
    let (mut text, mut rest) = (String::new(), &bytes[..]);
    // Batches are as long as they are: each ends with a frame of no length, within a sector.
    while let Some(len) = rest.first_chunk().map(|len| u32::from_le_bytes(*len)) {
        if len == 0 {
            let left = rest.len() % SECTOR_LEN as usize;
            if left == 0 {
                break;
            }
            rest = &rest[left..];
            continue;
        }
        let len = if len <= FRAME_LEN_MAX { FRAME_HEADER_LEN + len as usize } else { usize::MAX };
        let (frame, behind) = rest.split_at_checked(len).ok_or(io::ErrorKind::InvalidData)?;
        decode_batch(frame, |frame| text += &format!("{}\n", shown(format!("{frame:?}").as_bytes())))
            .map_err(|_| io::ErrorKind::InvalidData)?;
        rest = behind;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::reply::{End, Frame, encode_frame, pad_batch};

    #[test]
    fn frames_of_several_batches_are_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let [image, disk] = ["image", "disk"].map(|name| directory.path().join(name));
        std::fs::write(&image, [0; 1000]).expect("written");
        let words = control(&image, &disk).expect("made");
        assert_eq!(words.len(), "nonce=".len() + 32);
        assert_eq!(reply(&disk).expect("read"), "");
        let (mut batches, progress) = (Vec::new(), |done| Frame::Progress { done, total: 1000 });
        for frames in [&[progress(0), progress(1)][..], &[Frame::End(End::NeedsMore)]] {
            let mut batch = Vec::new();
            frames.iter().for_each(|frame| encode_frame(frame, &mut batch).expect("short"));
            pad_batch(&mut batch);
            batches.extend(batch);
        }
        let file = File::options().write(true).open(&disk).expect("there");
        file.write_all_at(&batches, REPLY_BASE).expect("written");
        let text = reply(&disk).expect("read");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with("End(NeedsMore)\n"), "{text}");
        file.write_all_at(&[0xff; 8], REPLY_BASE).expect("written");
        assert_eq!(reply(&disk).expect_err("no frames").kind(), io::ErrorKind::InvalidData);
    }
}
