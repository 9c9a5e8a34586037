//! The processor that guests see: a small one, the same everywhere but for what its vector units can do.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_xcrs};
use kvm_ioctls::VcpuFd;

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX.
const LEAF_1_ECX: u32 = 0x16d8_3203;
/// Of these, what AVX state is for, and AVX itself.
const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
/// Leaf 1, EDX: the features every x86-64 processor has, FPU to SSE2.
const LEAF_1_EDX: u32 = 0x078b_fbff;
/// Leaf 7, EBX: BMI1, AVX2, BMI2, SHA.
const LEAF_7_EBX: u32 = 1 << 3 | 1 << 5 | 1 << 8 | 1 << 29;
/// Leaf 7, ECX: VAES, VPCLMULQDQ.
const LEAF_7_ECX: u32 = 1 << 9 | 1 << 10;
/// Of leaf 1 what does without AVX state: all but FMA, XSAVE and AVX.
const LEAF_1_ECX_PLAIN: u32 = LEAF_1_ECX & !(XSAVE_AND_AVX | 1 << 12);
/// Of leaf 7 what does without AVX state: BMI1, BMI2, SHA.
const LEAF_7_EBX_PLAIN: u32 = 1 << 3 | 1 << 8 | 1 << 29;
/// Leaf 0x8000_0001, EDX: long mode, NX, SYSCALL.
const EXTENDED_EDX: u32 = 1 << 29 | 1 << 20 | 1 << 11;
/// x87, SSE and AVX state: XCR0.
const VECTOR_STATE: u64 = 7;

/// What guests are told of the host's processor. Made once a run: each CPUID may be an exit where the host is a guest itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// The host's leaf 1, ECX.
    leaf_1_ecx: u32,
    /// The host's leaf 7, EBX and ECX.
    leaf_7: [u32; 2],
}

impl Processor {
    /// Asks the host's.
    #[must_use]
    pub fn of_host() -> Self {
        let seven = core::arch::x86_64::__cpuid_count(7, 0);
        Self { leaf_1_ecx: core::arch::x86_64::__cpuid(1).ecx, leaf_7: [seven.ebx, seven.ecx] }
    }

    /// Whether guests have AVX, and the state that goes with it.
    fn has_avx(&self) -> bool {
        self.leaf_1_ecx & XSAVE_AND_AVX == XSAVE_AND_AVX
    }

    /// What CPUID says in a guest. Asking KVM for the host's costs more than booting.
    ///
    /// # Panics
    /// Never: eight entries are fewer than KVM's limit.
    #[must_use]
    pub fn cpuid(&self) -> CpuId {
        let leaf =
            |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() };
        let sub = |index, entry| kvm_cpuid_entry2 { index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..entry };
        let (leaf_1_ecx, leaf_7_ebx, leaf_7_ecx) = match self.has_avx() {
            true => (LEAF_1_ECX, LEAF_7_EBX, LEAF_7_ECX),
            false => (LEAF_1_ECX_PLAIN, LEAF_7_EBX_PLAIN, 0),
        };
        let [ebx, ecx] = self.leaf_7;
        CpuId::from_entries(&[
            leaf(0, 0xd, u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ntel"), u32::from_le_bytes(*b"ineI")),
            leaf(1, 0x0008_06f8, 0, leaf_1_ecx & self.leaf_1_ecx, LEAF_1_EDX),
            sub(0, leaf(7, 0, leaf_7_ebx & ebx, leaf_7_ecx & ecx, 0)),
            // The areas that XSAVE would write: 512 bytes, a header of 64, and 256 of AVX state.
            sub(0, leaf(0xd, 7, 832, 832, 0)),
            sub(2, leaf(0xd, 256, 576, 0, 0)),
            leaf(0x8000_0000, 0x8000_0008, 0, 0, 0),
            leaf(0x8000_0001, 0, 0, 1, EXTENDED_EDX),
            leaf(0x8000_0008, 0x3028, 0, 0, 0),
        ])
        .expect("eight entries are fewer than KVM's limit")
    }

    /// Gives a vCPU that skips the boot code the vector state that the boot code turns on.
    ///
    /// # Errors
    /// KVM's.
    pub fn enable_vector_state(&self, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        if !self.has_avx() {
            return Ok(());
        }
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = VECTOR_STATE;
        vcpu.set_xcrs(&xcrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(processor: Processor, function: u32) -> kvm_cpuid_entry2 {
        *processor.cpuid().as_slice().iter().find(|entry| entry.function == function).expect("there")
    }

    #[test]
    fn without_avx_state_nothing_is_offered_that_needs_it() {
        let all = Processor { leaf_1_ecx: u32::MAX, leaf_7: [u32::MAX; 2] };
        assert_eq!((leaf(all, 1).ecx, leaf(all, 7).ebx, leaf(all, 7).ecx), (LEAF_1_ECX, LEAF_7_EBX, LEAF_7_ECX));
        let plain = Processor { leaf_1_ecx: !(1 << 26), ..all };
        assert_eq!(leaf(plain, 1).ecx & (XSAVE_AND_AVX | 1 << 12), 0, "AVX, XSAVE, FMA");
        assert_eq!((leaf(plain, 7).ebx & 1 << 5, leaf(plain, 7).ecx), (0, 0), "AVX2, VAES, VPCLMULQDQ");
        let none = Processor { leaf_1_ecx: 0, leaf_7: [0; 2] };
        assert_eq!((leaf(none, 1).ecx, leaf(none, 7).ebx), (0, 0), "never more than the host has");
    }
}
