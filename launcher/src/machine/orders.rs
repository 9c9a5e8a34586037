//! What a child that has come to the end of a run is to do next: another request, and the disks that it does not have.
//!
//! Both ends are one program, before and after a fork. Records of a `SEQPACKET` socket, numbers little-endian:
//!
//! ```text
//! head     disks that stay, from the first on: u32; new disks: u32; length of the request: u32
//! disk     bytes of the file: u64; with it one descriptor, or a second one that goes past the page cache
//! request  its next bytes
//! ```
#![forbid(unsafe_code)]

use crate::disk::Disk;
use crate::disk::bytes::FileBytes;
use crate::disk::file::SourceFile;
use instar_abi::request::Request;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a request that one record carries.
const RECORD_LEN_MAX: usize = 64 << 10;
/// How long a child may leave orders lying.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors of one disk.
const DESCRIPTORS_MAX: usize = 2;

/// One order.
pub(super) struct Order {
    /// How many disks of the last run stay, from the first on.
    pub kept: usize,
    /// What comes behind them.
    pub disks: Vec<Arc<dyn Disk>>,
    /// What the guest is asked.
    pub request: Request,
}

/// The two ends, for who orders and for the child.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (orders, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&orders, Timeout::Send, Some(PATIENCE))?;
    Ok((orders, child))
}

/// Orders a run: with the first `kept` disks of the last one, and these behind them, all of them sources.
///
/// # Errors
/// The child is gone or does not listen; a disk that is no source.
pub(super) fn send(to: &OwnedFd, kept: usize, disks: &[Arc<dyn Disk>], request: &[u8]) -> io::Result<()> {
    let head = [kept, disks.len(), request.len()].map(|number| (number as u32).to_le_bytes());
    send_record(to.as_fd(), head.as_flattened(), &[])?;
    for disk in disks {
        let len = disk.source_len().ok_or(io::ErrorKind::InvalidInput)?;
        send_record(to.as_fd(), &len.to_le_bytes(), &disk.fds())?;
    }
    request.chunks(RECORD_LEN_MAX).try_for_each(|part| send_record(to.as_fd(), part, &[]))
}

fn send_record(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::io::retry_on_intr(|| sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The next order; `None`: there will be none.
///
/// # Errors
/// The host's, or records that are not as [`send`] makes them.
pub(super) fn receive(from: BorrowedFd<'_>) -> io::Result<Option<Order>> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let mut record = vec![0; RECORD_LEN_MAX];
    let (head, _) = receive_record(from, &mut record)?;
    if head.is_empty() {
        return Ok(None);
    }
    let ([kept, count, request_len], []) = head.as_chunks::<4>() else { return Err(broken()) };
    let [kept, count, request_len] = [kept, count, request_len].map(|number| u32::from_le_bytes(*number) as usize);
    let mut disks: Vec<Arc<dyn Disk>> = Vec::new();
    for _ in 0..count {
        let (len, files) = receive_record(from, &mut record)?;
        let len = u64::from_le_bytes(len.try_into().map_err(|_| broken())?);
        let bytes = FileBytes::source_from(files).ok_or_else(broken)?;
        disks.push(Arc::new(SourceFile::new(bytes, len)));
    }
    let mut request = Vec::new();
    while request.len() < request_len {
        let (part, _) = receive_record(from, &mut record)?;
        if part.is_empty() {
            return Err(broken());
        }
        request.extend_from_slice(part);
    }
    let request = Request::decode(&request).map_err(|_| broken())?;
    Ok(Some(Order { kept, disks, request }))
}

/// One record, and what files came with it. None that holds anything is empty, so that is the end.
fn receive_record<'r>(from: BorrowedFd<'_>, record: &'r mut [u8]) -> io::Result<(&'r [u8], Vec<File>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let len = rustix::io::retry_on_intr(|| {
        recvmsg(from, &mut [IoSliceMut::new(record)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?
    .bytes;
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((&record[..len], files.flatten().map(File::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Segments as _;
    use crate::disk::bytes::CacheMode;
    use crate::disk::memory::Memory;
    use instar_abi::format::Format;
    use instar_abi::request::{Budget, Disk as RequestDisk, DiskId, HostExtent, Layer, LayerId, Op, RawGate};
    use std::io::Write as _;

    fn request(disks: usize, data: usize) -> Request {
        let mut disk = RequestDisk::read_only(1 << 40);
        disk.data = Some((0..data as u64).map(|index| HostExtent { start: index * 4096, len: 512 }).collect());
        Request::new(
            Op::Info { image: LayerId(0), details: false },
            vec![disk; disks],
            vec![Layer::new(DiskId(0), Some(Format::Raw), RawGate::Open)],
            Budget { heap_bytes: 1, read_bytes: 2, steps: 3, depth: 4 },
        )
    }

    fn source(byte: u8, mode: CacheMode) -> Arc<dyn Disk> {
        let mut file = tempfile::tempfile_in(".").or_else(|_| tempfile::tempfile()).expect("a file");
        file.write_all(&[byte; 700]).expect("written");
        let again = file.try_clone().expect("a descriptor");
        let bytes = FileBytes::source(file, mode).unwrap_or_else(|_| again.into());
        Arc::new(SourceFile::new(bytes, 700))
    }

    #[test]
    fn an_order_arrives_with_its_files_and_a_long_request() {
        let (orders, child) = pair().expect("sockets");
        let request = request(3, 30_000);
        let encoded = request.encode().expect("memory");
        assert!(encoded.len() > 2 * RECORD_LEN_MAX, "{} bytes", encoded.len());
        let disks = [source(7, CacheMode::Writeback), source(9, CacheMode::None)];
        let sender = std::thread::spawn(move || send(&orders, 1, &disks, &encoded));
        let order = receive(child.as_fd()).expect("received").expect("an order");
        sender.join().expect("no panic").expect("sent");
        assert_eq!(order.kept, 1);
        assert_eq!(order.request, request);
        for (disk, byte) in order.disks.iter().zip([7, 9]) {
            let mut memory = Memory::new(&[1024], 0xEE);
            disk.read(0, &mut memory).expect("in range");
            assert_eq!(memory.to_vec(), [vec![byte; 700], vec![0; 324]].concat());
        }
        assert_eq!(order.disks.len(), 2);
        assert!(receive(child.as_fd()).expect("the end").is_none());
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let (orders, child) = pair().expect("sockets");
        send_record(orders.as_fd(), b"short", &[]).expect("sent");
        assert!(receive(child.as_fd()).is_err());
        let head = [0u32, 1, 4].map(u32::to_le_bytes);
        send_record(orders.as_fd(), head.as_flattened(), &[]).expect("sent");
        send_record(orders.as_fd(), &[0; 8], &[]).expect("a disk without its file");
        assert!(receive(child.as_fd()).is_err());
        let head = [0u32, 0, 4].map(u32::to_le_bytes);
        send_record(orders.as_fd(), head.as_flattened(), &[]).expect("sent");
        drop(orders);
        assert!(receive(child.as_fd()).is_err(), "an end in the middle");
    }
}
