//! The control device: the request to the guest, its reply back. It is no file.
#![forbid(unsafe_code)]

use super::{Disk, Segments, check_range};
use instar_abi::control::{Header, REPLY_BASE, REPLY_LEN_MAX, REQUEST_LEN_MAX, REQUEST_OFFSET, SECTOR_LEN};
use std::io;
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes as _;

/// Takes each write of the reply, in order. An error fails the write; one of kind `InvalidData` ends the reply.
pub type Sink = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// Header, request and reply area of one run.
///
/// Writes must continue the reply exactly where the one before ended; one that does not, or that
/// exceeds the run's limit, fails and the reply takes no more.
pub struct Control {
    front: Vec<u8>, // header, gap, request
    reply_len_max: u64,
    reply: Mutex<Reply>,
}

struct Reply {
    len: u64,
    broken: bool,
    sink: Sink,
}

/// The request does not fit: more than [`REQUEST_LEN_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTooLong;

impl Control {
    /// The control device of one run.
    ///
    /// `reply_len_max` is in bytes and cut to [`REPLY_LEN_MAX`].
    ///
    /// # Errors
    /// [`RequestTooLong`].
    pub fn new(nonce: [u8; 16], request: &[u8], reply_len_max: u64, sink: Sink) -> Result<Self, RequestTooLong> {
        let request_len = u64::try_from(request.len()).map_err(|_| RequestTooLong)?;
        if request_len > REQUEST_LEN_MAX {
            return Err(RequestTooLong);
        }
        let reply_len_max = reply_len_max.min(REPLY_LEN_MAX) / SECTOR_LEN * SECTOR_LEN;
        let mut front = Header::new(nonce, request_len, reply_len_max).as_bytes().to_vec();
        front.resize(REQUEST_OFFSET as usize, 0);
        front.extend_from_slice(request);
        let reply = Mutex::new(Reply { len: 0, broken: false, sink });
        Ok(Self { front, reply_len_max, reply })
    }

    /// Header and request as they lie on the device, for machines that also place them in memory.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        &self.front
    }

    /// Whether the guest wrote a reply that the contract does not allow, or the sink refused one.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).broken
    }
}

impl Disk for Control {
    fn sectors(&self) -> u64 {
        (REPLY_BASE + self.reply_len_max) / SECTOR_LEN
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        check_range(offset, into.len(), self.sectors())?;
        into.zero_from(0);
        let here = usize::try_from(offset).ok().and_then(|offset| self.front.get(offset..));
        into.put(0, here.unwrap_or_default());
        Ok(())
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        // A sink that panicked has left the reply half taken: refuse the rest.
        let mut reply = self.reply.lock().map_err(|_| io::ErrorKind::BrokenPipe)?;
        let continues = !reply.broken && offset.checked_sub(REPLY_BASE) == Some(reply.len);
        let len = reply.len.checked_add(from.len()).filter(|&len| len <= self.reply_len_max);
        let (result, breaks) = match len {
            Some(len) if continues && from.len().is_multiple_of(SECTOR_LEN) => {
                reply.len = len;
                let result = (reply.sink)(&from.to_vec());
                let breaks = matches!(&result, Err(error) if error.kind() == io::ErrorKind::InvalidData);
                (result, breaks)
            }
            _ => (Err(io::ErrorKind::InvalidInput.into()), true),
        };
        reply.broken |= breaks;
        result
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::sync::Arc;

    fn control(reply_len_max: u64) -> (Control, Arc<Mutex<Vec<u8>>>) {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&taken);
        let sink = move |batch: &[u8]| {
            into.lock().expect("not poisoned").extend_from_slice(batch);
            Ok(())
        };
        (Control::new([7; 16], b"request", reply_len_max, Box::new(sink)).expect("short"), taken)
    }

    #[test]
    fn header_and_request_are_where_the_abi_says() {
        let (control, _) = control(1024);
        let mut memory = Memory::new(&[512, 4096, 512], 0xEE);
        control.read(0, &mut memory).expect("in range");
        let bytes = memory.to_vec();
        assert_eq!(bytes[..128], *Header::new([7; 16], 7, 1024).as_bytes());
        assert!(bytes[128..4096].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[4096..4103], *b"request");
        assert!(bytes[4103..].iter().all(|&byte| byte == 0));
        let mut memory = Memory::new(&[512], 0xEE);
        control.read(REPLY_BASE, &mut memory).expect("in range");
        assert_eq!(memory.to_vec(), vec![0; 512]);
    }

    #[test]
    fn the_reply_goes_on_where_it_ended() {
        let (control, taken) = control(2048);
        control.write(REPLY_BASE, &Memory::new(&[512], 1)).expect("the first");
        control.write(REPLY_BASE + 512, &Memory::new(&[1000, 24], 2)).expect("the next");
        assert_eq!(*taken.lock().expect("not poisoned"), [vec![1; 512], vec![2; 1024]].concat());
        assert!(!control.is_broken());
    }

    #[test]
    fn a_reply_out_of_order_or_past_its_limit_takes_no_more() {
        for (offset, len) in [(0, 512), (4096, 512), (REPLY_BASE + 512, 512), (REPLY_BASE, 100), (REPLY_BASE, 2560)] {
            let (control, taken) = control(2048);
            assert!(control.write(offset, &Memory::new(&[len], 1)).is_err(), "{offset} {len}");
            assert!(control.write(REPLY_BASE, &Memory::new(&[512], 1)).is_err());
            assert!(control.is_broken());
            assert!(taken.lock().expect("not poisoned").is_empty());
        }
    }

    #[test]
    fn what_the_host_could_not_do_is_no_fault_of_the_reply() {
        let mut failing = true;
        let once = move |_: &[u8]| if std::mem::take(&mut failing) { Err(io::Error::other("full")) } else { Ok(()) };
        let control = Control::new([0; 16], b"", 4096, Box::new(once)).expect("short");
        assert!(control.write(REPLY_BASE, &Memory::new(&[512], 1)).is_err());
        assert!(!control.is_broken());
        control.write(REPLY_BASE + 512, &Memory::new(&[512], 1)).expect("it goes on behind");
    }

    #[test]
    fn a_sink_that_refuses_fails_the_write() {
        let refuse = |_: &[u8]| Err(io::ErrorKind::InvalidData.into());
        let control = Control::new([0; 16], b"", 4096, Box::new(refuse)).expect("short");
        assert!(control.write(REPLY_BASE, &Memory::new(&[512], 1)).is_err());
        assert!(control.is_broken());
        let long = vec![0; REQUEST_LEN_MAX as usize + 1];
        assert!(Control::new([0; 16], &long, 0, Box::new(refuse)).is_err());
    }
}
