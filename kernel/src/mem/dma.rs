//! Memory that devices use: addresses are the same on both sides.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// virtio-drivers' view of memory in a guest whose virtual addresses are its physical ones.
#[derive(Debug)]
pub struct Identity;

// SAFETY: (1) `dma_alloc` returns zeroed pages from the heap, page-aligned, owned by the caller until
// `dma_dealloc`; (2) the page tables map memory one to one, so the pointer's address is the
// physical address; (3) `mmio_phys_to_virt` is only asked for device windows, which are always mapped.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let pointer = pages_layout(pages).and_then(|layout| {
            // SAFETY: `pages_layout` never gives a layout of size zero.
            NonNull::new(unsafe { alloc_zeroed(layout) })
        });
        #[cfg(feature = "provoke")]
        rings::note(pointer.map_or(0, |pointer| pointer.addr().get()));
        match pointer {
            Some(pointer) => (pointer.addr().get() as PhysAddr, pointer),
            // virtio-drivers takes address 0 for "no memory".
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = pages_layout(pages) {
            // SAFETY: the caller hands back what `dma_alloc` gave for the same number of pages.
            unsafe { dealloc(pointer.as_ptr(), layout) }
        }
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Where the rings are, for guests that break them on purpose.
#[cfg(feature = "provoke")]
pub mod rings {
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    static NOTED: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn note(address: usize) {
        if let Some(place) = NOTED.get(COUNT.fetch_add(1, Relaxed)) {
            place.store(address, Relaxed);
        }
    }

    /// What was given for device memory at the `index`th time. Each queue takes two pieces: what the driver writes, descriptors
    /// first, then what the device does.
    #[must_use]
    pub fn address(index: usize) -> Option<usize> {
        NOTED.get(index).map(|place| place.load(Relaxed)).filter(|&address| address != 0)
    }
}

fn pages_layout(pages: usize) -> Option<Layout> {
    let len = pages.checked_mul(PAGE_SIZE)?;
    if len == 0 { None } else { Layout::from_size_align(len, PAGE_SIZE).ok() }
}
