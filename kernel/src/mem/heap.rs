//! The heap: all usable memory from `layout::HEAP` on.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use instar_abi::layout;
use linked_list_allocator::LockedHeap;

/// The allocator, and whether it ever had to refuse: a panic that follows is then an exhausted heap.
struct Heap {
    inner: LockedHeap,
    exhausted: AtomicBool,
}

#[cfg_attr(feature = "guest", global_allocator)]
static HEAP: Heap = Heap { inner: LockedHeap::empty(), exhausted: AtomicBool::new(false) };

// SAFETY: delegates to `LockedHeap`, which keeps GlobalAlloc's contract; the flag changes nothing about it.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are passed on unchanged.
        let pointer = unsafe { self.inner.alloc(layout) };
        if pointer.is_null() {
            self.exhausted.store(true, Relaxed);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are passed on unchanged.
        unsafe { self.inner.dealloc(pointer, layout) }
    }
}

/// Whether an allocation was ever refused.
pub fn exhausted() -> bool {
    HEAP.exhausted.load(Relaxed)
}

/// The part of usable memory that becomes the heap: from `layout::HEAP` to the last whole large page of
/// the entry that holds it.
#[must_use]
pub fn region(usable: &[(u64, u64)]) -> Option<(u64, u64)> {
    let &(start, len) =
        usable.iter().find(|&&(start, len)| start <= layout::IMAGE && start.saturating_add(len) > layout::HEAP)?;
    let end = start.saturating_add(len).min(layout::HEAP_END_MAX) & !(layout::LARGE_PAGE_LEN - 1);
    let len = end.checked_sub(layout::HEAP).filter(|len| *len > 0)?;
    Some((layout::HEAP, len))
}

/// Gives the heap its memory.
///
/// # Safety
/// 1. Called once, before the first allocation.
/// 2. `len` bytes from `start` are mapped, writable, and used by nothing else, for ever.
pub unsafe fn init(start: u64, len: u64) {
    // SAFETY: the caller's duties are exactly `Heap::init`'s.
    unsafe { HEAP.inner.lock().init(core::ptr::with_exposed_provenance_mut(start as usize), len as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_the_rest_of_the_entry_that_holds_the_image() {
        assert_eq!(region(&[(0, 32 << 20)]), Some((layout::HEAP, (32 << 20) - layout::HEAP)));
        // Unsorted, a hole below 1 MiB, an end off the large-page grid.
        let map = [(0x10_0000, (16 << 20) - 0x10_0000 + 0x3000), (0, 0x9_fc00)];
        assert_eq!(region(&map), Some((layout::HEAP, (16 << 20) - layout::HEAP)));
    }

    #[test]
    fn too_little_memory_is_no_heap() {
        assert_eq!(region(&[(0, layout::HEAP)]), None);
        assert_eq!(region(&[(0, layout::HEAP + 4096)]), None);
        assert_eq!(region(&[]), None);
        assert_eq!(region(&[(0, 1 << 20), (8 << 20, 64 << 20)]), None);
    }
}
