//! What the machine tells at entry: PVH's start info, copied and checked.
//!
//! Source: Xen's `hvm_start_info`, version 1 (`public/arch-x86/hvm/start_info.h`).

use alloc::string::String;
use alloc::vec::Vec;
use instar_abi::layout::COMMAND_LINE_LEN_MAX;

const MAGIC: u32 = 0x336e_c578;
/// Entries of the memory map that are looked at; machines list fewer than 16.
const MEMORY_MAP_LEN_MAX: u32 = 64;
/// PVH's type of usable memory.
const USABLE: u32 = 1;

/// The machine as the start info describes it.
#[derive(Debug)]
pub struct StartInfo {
    /// The kernel command line, invalid UTF-8 replaced.
    pub command_line: String,
    /// Usable memory as (address, bytes), in the machine's order.
    pub usable: Vec<(u64, u64)>,
}

/// Copies the start info out of guest memory.
///
/// # Safety
/// 1. `address` is what PVH put into ebx, and its structures are still as the loader left them.
/// 2. The boot page tables (first 4 GiB one to one) are in force.
#[must_use]
pub unsafe fn copy(address: u64) -> Option<StartInfo> {
    // SAFETY: below 4 GiB by PVH (ebx is 32 bits wide), so mapped; the loader wrote a start info there.
    let field = |offset: u64| unsafe { read::<u64>(address + offset) };
    // SAFETY: as above.
    if unsafe { read::<u32>(address) } != MAGIC {
        return None;
    }
    let command_line = match field(24) {
        0 => String::new(),
        // SAFETY: the loader's NUL-terminated command line, below 4 GiB.
        at => unsafe { copy_text(at) },
    };
    let map = field(40);
    // SAFETY: as for `field`.
    let entries = unsafe { read::<u32>(address + 48) }.min(MEMORY_MAP_LEN_MAX);
    let mut usable = Vec::new();
    for index in 0..u64::from(entries) {
        // SAFETY: the loader's memory map has `entries` entries of 24 bytes, below 4 GiB.
        let (start, len, kind) = unsafe {
            let entry = map + index * 24;
            (read::<u64>(entry), read::<u64>(entry + 8), read::<u32>(entry + 16))
        };
        if kind == USABLE && len > 0 {
            usable.push((start, len));
        }
    }
    Some(StartInfo { command_line, usable })
}

/// # Safety
/// `address` is mapped for `size_of::<T>()` bytes that nobody else writes, and any bytes make a `T`.
unsafe fn read<T: Copy + zerocopy::FromBytes>(address: u64) -> T {
    // SAFETY: the caller's duty; the address needs no alignment.
    unsafe { core::ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() }
}

/// # Safety
/// Mapped from `address` to a NUL, or for [`COMMAND_LINE_LEN_MAX`] bytes.
unsafe fn copy_text(address: u64) -> String {
    let bytes: Vec<u8> = (0..COMMAND_LINE_LEN_MAX)
        // SAFETY: the caller's duty; reading stops at the NUL.
        .map(|index| unsafe { read::<u8>(address + index) })
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
