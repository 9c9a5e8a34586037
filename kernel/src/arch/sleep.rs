//! Sleeping for a moment, where the boot code has found a local APIC.

use instar_abi::{epitaph, layout};

#[cfg(feature = "guest")]
unsafe extern "C" {
    /// Halts this core until its timer has run down from `count`: nanoseconds, on every machine so far (`boot.s`).
    fn instar_sleep(count: u32);
}

/// Whether the boot code has found the local APIC that the command line promised.
pub fn has_apic() -> bool {
    let word = core::ptr::with_exposed_provenance::<u32>((layout::EPITAPH + epitaph::APIC_READY) as usize);
    // SAFETY: an aligned word of the epitaph page, which is mapped for good; the boot code wrote it and nobody else does.
    unsafe { word.read_volatile() == 1 }
}

/// Sleeps for about this long. The machine must have an APIC ([`has_apic`]).
pub fn sleep(nanoseconds: u32) {
    #[cfg(feature = "guest")]
    // SAFETY: halts and returns; ring 0 keeps all registers but the one that a call may change.
    unsafe {
        instar_sleep(nanoseconds.max(1));
    }
    #[cfg(not(feature = "guest"))]
    let _ = nanoseconds;
}
