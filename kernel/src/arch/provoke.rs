//! Ways to die, for the test images that show what a launcher makes of each.

use core::arch::asm;

/// Reads the null page, which is never mapped.
pub fn page_fault() -> u8 {
    // SAFETY: not sound and not meant to be: the read faults, and the fault handler ends the run.
    unsafe { core::ptr::without_provenance::<u8>(8).read_volatile() }
}

/// Writes to read-only data.
pub fn write_to_text() {
    let text = page_fault as fn() -> u8 as usize;
    // SAFETY: not sound and not meant to be: the write faults, and the fault handler ends the run.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(text).write_volatile(0xc3) }
}

/// Jumps into the heap.
pub fn execute_data(code: &[u8]) {
    // SAFETY: not sound and not meant to be: the jump faults, and the fault handler ends the run.
    unsafe { asm!("call {}", in(reg) code.as_ptr(), clobber_abi("C")) }
}

/// An invalid instruction after the ring-0 stack was taken away: a double fault.
pub fn double_fault() {
    // SAFETY: not sound and not meant to be: the double fault's handler has a stack of its own and ends the run.
    unsafe { asm!("ud2", "mov edx, 0", "ud2", in("rdx") 0x6272_6561, options(noreturn)) }
}

/// Writes to the page tables.
pub fn write_to_page_tables() {
    let tables = core::ptr::with_exposed_provenance_mut::<u64>(instar_abi::layout::IMAGE as usize + 0x2000);
    // SAFETY: not sound and not meant to be: the write faults, and the fault handler ends the run.
    unsafe { tables.write_volatile(7) }
}

/// What [`leave_marks`] leaves.
const MARK: u64 = 0x6d61_726b_6d61_726b;

/// Memory of guests that nothing of this machine's lies in: table pages of devices that it does not have, and what is behind
/// the request.
fn unused() -> impl Iterator<Item = usize> {
    use instar_abi::layout::{CONTROL, HEAP, IMAGE, PAGE_LEN, TABLE};
    let pages = (PAGE_LEN..IMAGE).chain(TABLE + 16 * PAGE_LEN..CONTROL).chain(CONTROL + 16 * PAGE_LEN..HEAP);
    pages.step_by(8).filter_map(|address| usize::try_from(address).ok())
}

/// Leaves marks in memory that a next guest might read: in `heap`, and beside what the machine has placed.
pub fn leave_marks(heap: &mut [u64]) {
    heap.fill(MARK);
    core::hint::black_box(heap);
    for address in unused() {
        // SAFETY: mapped as data, and neither the machine nor this program has anything there.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(MARK) }
    }
}

/// How many marks there are: in memory of the heap that nobody has written to, and where [`leave_marks`] leaves them.
pub fn marks(heap: &[core::mem::MaybeUninit<u64>]) -> u64 {
    let heap = heap.iter().map(|word| word.as_ptr() as usize);
    let is_marked = |address: usize| {
        // SAFETY: mapped as data. Whoever wrote there before, it was memory: any value is one of a u64.
        unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() == MARK }
    };
    heap.chain(unused()).filter(|&address| is_marked(address)).count() as u64
}

/// Uses up the stack.
#[expect(unconditional_recursion, reason = "the guard page ends it")]
pub fn overflow_stack(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overflow_stack(depth + 1) + frame[63]
}

/// Executes an instruction of AES-NI, of SHA-NI and of AVX2, as far as the processor says it has them, and holds what
/// comes out against plain arithmetic. Bit 0, 1 and 2: the instruction is there and right.
pub fn vector_instructions() -> u32 {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    let (one, seven) = (__cpuid(1).ecx, __cpuid_count(7, 0).ebx);
    // SAFETY: each runs only where CPUID has its instructions; OSXSAVE says that XGETBV may be asked, and XCR0 that AVX
    // state is on.
    unsafe {
        let avx2 = one & 1 << 27 != 0 && seven & 1 << 5 != 0 && _xgetbv(0) & 6 == 6;
        u32::from(one & 1 << 25 != 0 && aes_is_right())
            | u32::from(seven & 1 << 29 != 0 && sha_is_right()) << 1
            | u32::from(avx2 && avx2_is_right()) << 2
    }
}

/// Asks the local APIC to start every other core where this guest likes.
pub fn write_to_local_apic() {
    let command = core::ptr::with_exposed_provenance_mut::<u32>(0xfee0_0300);
    // SAFETY: ring 0's alone: it faults, and that is the point.
    unsafe { command.write_volatile(0xc_4600) }
}

/// One round, from the example of Intel's white paper on AES-NI.
#[target_feature(enable = "aes,sse2")]
fn aes_is_right() -> bool {
    use core::arch::x86_64::{__m128i, _mm_aesenc_si128};
    let block = |bytes: u128| -> __m128i {
        // SAFETY: both are 16 bytes without invalid values.
        unsafe { core::mem::transmute(bytes) }
    };
    let round = _mm_aesenc_si128(
        block(0x7b5b_5465_7374_5665_6374_6f72_5d53_475d),
        block(0x4869_2853_6861_7929_5b47_7565_726f_6e5d),
    );
    // SAFETY: both are 16 bytes without invalid values.
    unsafe { core::mem::transmute::<__m128i, u128>(round) == 0xa831_1c2f_9fdb_a3c5_8b10_4b58_ded7_e595 }
}

/// The first half of the message schedule (FIPS 180-4, 6.2.2): each word and sigma 0 of the next.
#[target_feature(enable = "sha,sse2")]
fn sha_is_right() -> bool {
    use core::arch::x86_64::{__m128i, _mm_sha256msg1_epu32};
    let words =
        [0x6a09_e667u32, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
    let sigma = |word: u32| word.rotate_right(7) ^ word.rotate_right(18) ^ word >> 3;
    let expected: [u32; 4] = core::array::from_fn(|index| words[index].wrapping_add(sigma(words[index + 1])));
    // SAFETY: 32 bytes as two blocks of 16, 16 bytes as four words: no invalid values.
    unsafe {
        let [low, high] = core::mem::transmute::<[u32; 8], [__m128i; 2]>(words);
        core::mem::transmute::<__m128i, [u32; 4]>(_mm_sha256msg1_epu32(low, high)) == expected
    }
}

/// An addition over all 256 bits.
#[target_feature(enable = "avx2")]
fn avx2_is_right() -> bool {
    use core::arch::x86_64::{__m256i, _mm256_add_epi64};
    let words = core::hint::black_box([1u64, u64::MAX, 3 << 40, 7]);
    // SAFETY: 32 bytes as four words: no invalid values.
    unsafe {
        let block = core::mem::transmute::<[u64; 4], __m256i>(words);
        let sum = core::mem::transmute::<__m256i, [u64; 4]>(_mm256_add_epi64(block, block));
        sum == words.map(|word| word.wrapping_add(word))
    }
}

/// Writes over a ring that the driver believes to be its own: `offset` bytes into what disk 0's driver writes.
pub fn write_to_ring_of_disk_0(offset: usize, bytes: &[u8]) {
    // The control device took the first two.
    let Some(ring) = crate::mem::rings::address(2) else { return };
    for (index, &byte) in bytes.iter().enumerate() {
        let place = core::ptr::with_exposed_provenance_mut::<u8>(ring + offset + index);
        // SAFETY: inside the pages of a ring, which stay the driver's for ever; that it does not know of it is the point.
        unsafe { place.write_volatile(byte) }
    }
}
