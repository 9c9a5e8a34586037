//! C's names for the heap, for a library that asks for memory by them (zlib-rs).

use alloc::alloc::{alloc, alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

/// Stands right before each block that is handed out: the layout of the whole allocation, which `free` is not told.
#[repr(C)]
struct Head {
    len: usize,
    align: usize,
}

/// `ENOMEM`, for want of errno.
const NO_MEMORY: c_int = 12;

/// A block of `len` bytes; null where there is no room. In front of it lies a multiple of its alignment, which has
/// room for its [`Head`].
fn block(align: usize, len: usize, allocate: unsafe fn(Layout) -> *mut u8) -> *mut c_void {
    let align = align.max(size_of::<Head>());
    let layout = len.checked_add(align).and_then(|len| Layout::from_size_align(len, align).ok());
    let Some(layout) = layout else { return null_mut() };
    // SAFETY: `layout` is at least `align` bytes, not zero.
    let start = unsafe { allocate(layout) };
    if start.is_null() {
        return null_mut();
    }
    // SAFETY: `align` bytes into the allocation, which has `len` more; the head's bytes before it are in the allocation,
    // and aligned, since both addresses are multiples of 16.
    unsafe {
        let block = start.add(align);
        block.cast::<Head>().sub(1).write(Head { len: layout.size(), align });
        block.cast()
    }
}

/// A block of `len` bytes at a multiple of `align`.
///
/// # Safety
/// `out` is valid for a write; `align` is a power of two.
#[cfg_attr(feature = "guest", unsafe(no_mangle))]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, len: usize) -> c_int {
    let block = block(align, len, alloc);
    if block.is_null() {
        return NO_MEMORY;
    }
    // SAFETY: the caller's.
    unsafe { out.write(block) }
    0
}

/// A block of `count` times `len` zeros.
#[cfg_attr(feature = "guest", unsafe(no_mangle))]
pub extern "C" fn calloc(count: usize, len: usize) -> *mut c_void {
    count.checked_mul(len).map_or(null_mut(), |len| block(1, len, alloc_zeroed))
}

/// Gives a block back.
///
/// # Safety
/// `pointer` is null, or came from a function of this module and is not used any more.
#[cfg_attr(feature = "guest", unsafe(no_mangle))]
pub unsafe extern "C" fn free(pointer: *mut c_void) {
    if pointer.is_null() {
        return;
    }
    let block = pointer.cast::<u8>();
    // SAFETY: `block` wrote the head there and made the allocation with the layout that the head tells, `align` bytes
    // before the block.
    unsafe {
        let Head { len, align } = block.cast::<Head>().sub(1).read();
        dealloc(block.sub(align), Layout::from_size_align_unchecked(len, align));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_apart_and_zero_where_that_is_asked_for() {
        let mut blocks = Vec::new();
        for align in [8, 16, 64, 4096] {
            for len in [1, 15, 64, 5000] {
                let mut pointer = null_mut();
                // SAFETY: a valid place, powers of two.
                assert_eq!(unsafe { posix_memalign(&raw mut pointer, align, len) }, 0);
                assert_eq!(pointer.addr() % align, 0);
                // SAFETY: as many bytes as the block has.
                unsafe { pointer.cast::<u8>().write_bytes(0xee, len) };
                blocks.push(pointer);
            }
        }
        let zeros = calloc(100, 7);
        // SAFETY: as many bytes as the block has.
        assert!(unsafe { core::slice::from_raw_parts(zeros.cast::<u8>(), 700) }.iter().all(|&byte| byte == 0));
        blocks.extend([zeros, null_mut()]);
        for pointer in blocks {
            // SAFETY: from this module, and not used again.
            unsafe { free(pointer) };
        }
        assert!(calloc(usize::MAX, 2).is_null());
        let mut pointer = null_mut();
        // SAFETY: a valid place, a power of two.
        assert_eq!(unsafe { posix_memalign(&raw mut pointer, 64, usize::MAX - 8) }, NO_MEMORY);
    }
}
