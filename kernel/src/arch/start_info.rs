//! What the machine tells at entry: PVH's start info, read once.
//!
//! Source: Xen's `hvm_start_info`, version 1 (`public/arch-x86/hvm/start_info.h`).

use alloc::string::String;
use alloc::vec::Vec;
use instar_abi::layout::COMMAND_LINE_LEN_MAX;

const MAGIC: u32 = 0x336e_c578;
/// PVH's type of usable memory.
const USABLE: u32 = 1;

/// Entries of the memory map that are looked at; machines list fewer than 16.
pub type MemoryMap = [(u64, u64); 16];

/// Start info that is there and has the right magic.
pub struct StartInfo {
    address: u64,
}

impl StartInfo {
    /// The start info at `address`.
    ///
    /// # Safety
    /// `address` is what PVH put into ebx, below 1 GiB, and its structures stay as the loader left them while
    /// the value lives.
    #[must_use]
    pub unsafe fn at(address: u64) -> Option<Self> {
        let info = Self { address };
        // SAFETY: the loader wrote a start info there (the caller's duty), and the page is mapped.
        (unsafe { read::<u32>(address) } == MAGIC).then_some(info)
    }

    /// Usable memory as (address, bytes), in the machine's order, unused entries zero.
    #[must_use]
    pub fn usable(&self) -> MemoryMap {
        // SAFETY: fields of the start info, and the entries of its memory map: 24 bytes each, `count` of
        // them, as the loader left them (`at`).
        unsafe {
            let map = read::<u64>(self.address + 40);
            let count = u64::from(read::<u32>(self.address + 48));
            core::array::from_fn(|index| {
                let entry = map + index as u64 * 24;
                let listed = (index as u64) < count && read::<u32>(entry + 16) == USABLE;
                if listed { (read(entry), read(entry + 8)) } else { (0, 0) }
            })
        }
    }

    /// The kernel command line, invalid UTF-8 replaced.
    #[must_use]
    pub fn command_line(&self) -> String {
        // SAFETY: the loader's NUL-terminated command line (`at`), at most `COMMAND_LINE_LEN_MAX` bytes of it.
        let bytes: Vec<u8> = unsafe {
            match read::<u64>(self.address + 24) {
                0 => Vec::new(),
                at => (0..COMMAND_LINE_LEN_MAX)
                    .map(|index| read::<u8>(at + index))
                    .take_while(|&byte| byte != 0)
                    .collect(),
            }
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// # Safety
/// `address` is mapped for `size_of::<T>()` bytes that nobody else writes, and any bytes make a `T`.
unsafe fn read<T: Copy + zerocopy::FromBytes>(address: u64) -> T {
    // SAFETY: the caller's duty; the address needs no alignment.
    unsafe { core::ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() }
}
