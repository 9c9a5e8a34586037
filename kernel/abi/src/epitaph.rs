//! What a guest leaves behind when it can't answer.
//!
//! The ring-0 fault handler and the panic handler write one page at [`crate::layout::EPITAPH`] and
//! power off. On engines whose memory the launcher can't see, the same facts leave as one serial
//! line. A page whose [`Epitaph::kind`] is 0 was never written: the guest ended or hangs.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A guest's last words, a fixed page in guest memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Epitaph {
    /// A [`Death`] as a number; 0: none.
    pub kind: U32,
    /// Exception vector of a fault, or the line of a panic.
    pub vector_or_line: U32,
    /// Error code the CPU pushed, 0 for vectors without one.
    pub error_code: U64,
    /// Instruction pointer of the fault.
    pub rip: U64,
    /// Faulting address of a page fault.
    pub cr2: U64,
    /// Bytes of [`Epitaph::text`] in use.
    pub text_len: U32,
    /// File name of a panic, not terminated, cut at the front.
    pub text: [u8; 220],
}

/// Offsets the ring-0 assembly writes to; asserted below.
pub mod offset {
    /// Of [`super::Epitaph::kind`].
    pub const KIND: usize = 0;
    /// Of [`super::Epitaph::vector_or_line`].
    pub const VECTOR: usize = 4;
    /// Of [`super::Epitaph::error_code`].
    pub const ERROR_CODE: usize = 8;
    /// Of [`super::Epitaph::rip`].
    pub const RIP: usize = 16;
    /// Of [`super::Epitaph::cr2`].
    pub const CR2: usize = 24;
}

/// Byte of the page, behind the epitaph, where the guest keeps how its machine is switched off, for the
/// fault handler: port (2 bytes; 0: the built-in machine's), value, and whether the serial line is read.
pub const WAY_OUT: usize = 512;

/// Word of the page, behind what the boot code may keep of the memory map, where the boot code tells whether it has found
/// a local APIC that the command line promised: 1, else 0.
pub const APIC_READY: u64 = 0x600;

const _: () = assert!(size_of::<Epitaph>() == 256 && size_of::<Epitaph>() <= WAY_OUT);
const _: () = assert!(core::mem::offset_of!(Epitaph, kind) == offset::KIND);
const _: () = assert!(core::mem::offset_of!(Epitaph, vector_or_line) == offset::VECTOR);
const _: () = assert!(core::mem::offset_of!(Epitaph, error_code) == offset::ERROR_CODE);
const _: () = assert!(core::mem::offset_of!(Epitaph, rip) == offset::RIP);
const _: () = assert!(core::mem::offset_of!(Epitaph, cr2) == offset::CR2);

/// How a guest died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// A CPU exception in ring 3.
    Fault,
    /// A CPU exception in the ring-0 stub itself, a double fault among them.
    FaultInRing0,
    /// A Rust panic.
    Panic,
    /// The heap could not give what was asked for.
    HeapExhausted,
    /// The control device was not the launcher's: wrong magic, nonce or build id, or a request that does not decode.
    BadControl,
    /// A device broke the virtio contract: wrong, short, repeated or late completions.
    BadDevice,
}

impl Death {
    /// The number in [`Epitaph::kind`].
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Fault => 1,
            Self::FaultInRing0 => 2,
            Self::Panic => 3,
            Self::HeapExhausted => 4,
            Self::BadControl => 5,
            Self::BadDevice => 6,
        }
    }

    /// The death a number stands for.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Fault),
            2 => Some(Self::FaultInRing0),
            3 => Some(Self::Panic),
            4 => Some(Self::HeapExhausted),
            5 => Some(Self::BadControl),
            6 => Some(Self::BadDevice),
            _ => None,
        }
    }
}
