//! The control device: header and request to the guest, reply frames back.
//!
//! ```text
//! byte 0        Header (128 bytes)
//! byte 4096     request, `postcard`, Header::request_len bytes
//! REPLY_BASE    reply frames, written by the guest at ever-growing offsets
//! ```
//!
//! It is always the first device. A per-run nonce on the kernel command line must be repeated in
//! the header, so that no image can pose as it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of the control device.
pub const MAGIC: [u8; 8] = *b"INSTARC\x01";
/// Version of this ABI, apart from any crate version. The build id decides; this is for people.
pub const ABI_VERSION: u32 = 1;
/// Byte offset of the request on the control device.
pub const REQUEST_OFFSET: u64 = 4096;
/// Most bytes of a request: 4 MiB, room for 65,536 host extents and 256 disks.
pub const REQUEST_LEN_MAX: u64 = 4 << 20;
/// Byte offset at which the reply starts. Reads of the reply area give zeros.
pub const REPLY_BASE: u64 = 16 << 20;
/// Most bytes of all replies of one run: 256 MiB. An operation's own limit is lower.
pub const REPLY_LEN_MAX: u64 = 256 << 20;
/// Most bytes of one reply frame's payload: 1 MiB.
pub const FRAME_LEN_MAX: u32 = 1 << 20;
/// Unit of the control device and of every disk, as virtio-blk has it: 512 bytes.
pub const SECTOR_LEN: u64 = 512;

/// The first 128 bytes of the control device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`ABI_VERSION`].
    pub abi_version: U32,
    /// Zero.
    pub reserved: U32,
    /// [`crate::BUILD_ID`] of the launcher.
    pub build_id: [u8; 32],
    /// Random bytes of this run, also on the guest's command line as 32 hex digits.
    pub nonce: [u8; 16],
    /// Length of the request in bytes, at [`REQUEST_OFFSET`], at most [`REQUEST_LEN_MAX`].
    pub request_len: U64,
    /// Most bytes of reply that this run may write.
    pub reply_len_max: U64,
    /// Zero.
    pub reserved_tail: [u8; 48],
}

const _: () = assert!(size_of::<Header>() == 128);
const _: () = assert!(REQUEST_OFFSET + REQUEST_LEN_MAX <= REPLY_BASE);

/// Why a control header is not for this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The first eight bytes are something else.
    Magic,
    /// Another run's device, or an image posing as one.
    Nonce,
    /// Launcher and guest were built from different sources.
    BuildId {
        /// The launcher's id.
        found: [u8; 32],
    },
    /// The request is longer than [`REQUEST_LEN_MAX`].
    RequestLen {
        /// What the header says, in bytes.
        found: u64,
    },
}

impl Header {
    /// A header of this build for one run.
    #[must_use]
    pub fn new(nonce: [u8; 16], request_len: u64, reply_len_max: u64) -> Self {
        Self {
            magic: MAGIC,
            abi_version: U32::new(ABI_VERSION),
            reserved: U32::new(0),
            build_id: crate::BUILD_ID,
            nonce,
            request_len: U64::new(request_len),
            reply_len_max: U64::new(reply_len_max),
            reserved_tail: [0; 48],
        }
    }

    /// The length of the request, once everything about the header is right.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of the fields.
    pub fn request_len(&self, nonce: [u8; 16]) -> Result<u64, HeaderError> {
        if self.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        if self.build_id != crate::BUILD_ID {
            return Err(HeaderError::BuildId { found: self.build_id });
        }
        if self.nonce != nonce {
            return Err(HeaderError::Nonce);
        }
        match self.request_len.get() {
            len @ 0..=REQUEST_LEN_MAX => Ok(len),
            found => Err(HeaderError::RequestLen { found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_golden_bytes() {
        let bytes = Header::new([0xAB; 16], 0x0102, 0x0304).as_bytes().to_vec();
        assert_eq!(&bytes[..16], b"INSTARC\x01\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..48], crate::BUILD_ID);
        assert_eq!(bytes[48..64], [0xAB; 16]);
        assert_eq!(bytes[64..72], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[72..80], [4, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[80..], [0; 48]);
    }

    #[test]
    fn a_header_is_refused_by_the_first_thing_that_is_wrong() {
        let good = Header::new([7; 16], 9, 0);
        assert_eq!(good.request_len([7; 16]), Ok(9));
        assert_eq!(good.request_len([8; 16]), Err(HeaderError::Nonce));
        let mut other = good;
        other.build_id[0] ^= 1;
        assert_eq!(other.request_len([7; 16]), Err(HeaderError::BuildId { found: other.build_id }));
        let mut long = good;
        long.request_len = U64::new(REQUEST_LEN_MAX + 1);
        assert_eq!(long.request_len([7; 16]), Err(HeaderError::RequestLen { found: REQUEST_LEN_MAX + 1 }));
        let mut alien = good;
        alien.magic[7] = 2;
        assert_eq!(alien.request_len([7; 16]), Err(HeaderError::Magic));
    }
}
