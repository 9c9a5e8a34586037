//! The kernel's own page tables: every page with the rights it needs, and no more.
//!
//! Built in ring 3 as plain data, loaded once by the ring-0 stub. They leave themselves out, so
//! nothing can change them afterwards: no page is ever both writable and executable.
//!
//! ```text
//! 0 .. 2 MiB       4 KiB pages: epitaph, table registers, control area; the null page stays out
//! image            4 KiB pages: ring-0 stub (supervisor), text, read-only data, data
//! stacks           4 KiB pages, one page left out below each stack
//! heap             2 MiB pages
//! device windows   2 MiB pages, uncached
//! ```

use instar_abi::layout::{self, LARGE_PAGE_LEN, PAGE_LEN};

const ENTRIES: usize = 512;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Ring 3 executes and reads.
    Text,
    /// Ring 3 reads.
    ReadOnly,
    /// Ring 3 reads and writes.
    Data,
    /// Ring 3 reads and writes, past the caches.
    Device,
    /// Ring 0 executes and reads.
    Ring0Text,
    /// Ring 0 reads and writes.
    Ring0Data,
}

impl Rights {
    const fn bits(self) -> u64 {
        PRESENT
            | match self {
                Self::Text => USER,
                Self::ReadOnly => USER | NO_EXECUTE,
                Self::Data => USER | WRITABLE | NO_EXECUTE,
                Self::Device => USER | WRITABLE | UNCACHED | NO_EXECUTE,
                Self::Ring0Text => 0,
                Self::Ring0Data => WRITABLE | NO_EXECUTE,
            }
    }
}

/// Ranges of memory and their rights. Ranges of 4 KiB pages lie in the low region, the image's or
/// the stacks'; everything else is in whole large pages below 4 GiB.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// (start, end, rights), page-aligned.
    pub small: &'a [(u64, u64, Rights)],
    /// (start, end, rights), rounded out to large pages.
    pub large: &'a [(u64, u64, Rights)],
}

/// Nine pages: one PML4, one PDPT, four page directories, and page tables for the low region, the image
/// and the stacks.
#[repr(C, align(4096))]
pub struct Tables {
    pml4: [u64; ENTRIES],
    pdpt: [u64; ENTRIES],
    directories: [[u64; ENTRIES]; 4],
    /// Of the regions 0, `layout::IMAGE` and `layout::STACKS`: large pages 0, 1 and 2.
    pages: [[u64; ENTRIES]; 3],
}

const _: () = assert!(size_of::<Tables>() == 9 * 4096);
const _: () = assert!(layout::IMAGE == LARGE_PAGE_LEN && layout::STACKS == 2 * LARGE_PAGE_LEN);

/// A range that [`Map`] does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// Its first byte.
    pub start: u64,
}

impl Tables {
    /// Tables that map nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self { pml4: [0; ENTRIES], pdpt: [0; ENTRIES], directories: [[0; ENTRIES]; 4], pages: [[0; ENTRIES]; 3] }
    }

    /// Fills the tables, which will lie at physical address `at`.
    ///
    /// # Errors
    /// A range outside the regions that [`Map`] names.
    pub fn fill(&mut self, at: u64, map: &Map<'_>) -> Result<(), BadRange> {
        const ALL: u64 = PRESENT | WRITABLE | USER;
        self.pml4[0] = at + PAGE_LEN + ALL;
        for (index, entry) in self.pdpt.iter_mut().take(4).enumerate() {
            *entry = at + (2 + index as u64) * PAGE_LEN + ALL;
        }
        for index in 0..self.pages.len() {
            self.directories[0][index] = at + (6 + index as u64) * PAGE_LEN + ALL;
        }
        for &(start, end, rights) in map.small {
            for page in start / PAGE_LEN..end / PAGE_LEN {
                let (table, index) = (page as usize / ENTRIES, page as usize % ENTRIES);
                *self.pages.get_mut(table).and_then(|table| table.get_mut(index)).ok_or(BadRange { start })? =
                    page * PAGE_LEN | rights.bits();
            }
        }
        for &(start, end, rights) in map.large {
            if start < layout::HEAP {
                return Err(BadRange { start });
            }
            for page in start / LARGE_PAGE_LEN..end.div_ceil(LARGE_PAGE_LEN) {
                let (table, index) = (page as usize / ENTRIES, page as usize % ENTRIES);
                *self.directories.get_mut(table).and_then(|table| table.get_mut(index)).ok_or(BadRange { start })? =
                    page * LARGE_PAGE_LEN | LARGE | rights.bits();
            }
        }
        Ok(())
    }
}

#[cfg(feature = "guest")]
mod guest {
    use super::{BadRange, Map, Rights, Tables};
    use crate::arch::entry;
    use instar_abi::layout;

    unsafe extern "C" {
        static image_text: u8;
        static image_rodata: u8;
        static image_data: u8;
        static image_end: u8;
    }

    /// Where the tables lie: in the image, at the start of its zero-initialised data, and in no map.
    #[unsafe(link_section = ".bss.page_tables")]
    static mut TABLES: Tables = Tables::empty();

    /// Builds the tables for this image and loads them.
    ///
    /// `low` are pages below the image, `large` the heap and device windows; image and stacks are added here.
    ///
    /// # Errors
    /// A range outside the regions of [`Map`].
    ///
    /// # Safety
    /// Called once, with the boot tables in force, when nothing is in use outside image, stacks,
    /// `low` and `large`.
    pub unsafe fn load(low: &[(u64, u64, Rights)], large: &[(u64, u64, Rights)], lanes: usize) -> Result<(), BadRange> {
        let address = |symbol: *const u8| symbol.expose_provenance() as u64;
        let [text, rodata, data, end] =
            [&raw const image_text, &raw const image_rodata, &raw const image_data, &raw const image_end].map(address);
        let tables = &raw mut TABLES;
        let tables_at = tables.expose_provenance() as u64;
        let image = [
            (layout::IMAGE, layout::IMAGE + 0x1000, Rights::Ring0Text),
            (layout::IMAGE + 0x1000, text, Rights::Ring0Data),
            (text, rodata, Rights::Text),
            (rodata, data, Rights::ReadOnly),
            (data, tables_at, Rights::Data),
            (tables_at + size_of::<Tables>() as u64, end, Rights::Data),
        ];
        let mut small = alloc::vec::Vec::from(low);
        small.extend(image);
        for lane in 0..lanes {
            let top = layout::stack_top(lane);
            small.push((top - layout::STACK_LEN, top, Rights::Data));
        }
        // SAFETY: called once (the caller's duty), so this is the only reference; it ends before the load.
        unsafe { (*tables).fill(tables_at, &Map { small: &small, large })? };
        // SAFETY: the tables map the ring-0 pages, text, data, stacks and heap at their addresses;
        // everything else is out of use by the caller's word. Addresses are physical: one to one.
        unsafe { entry::load_tables(tables_at) };
        Ok(())
    }
}
#[cfg(feature = "guest")]
pub use guest::load;

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    const AT: u64 = 0x30_0000;

    /// What a CPU finds for an address: the entry, or nothing.
    fn walk(tables: &Tables, address: u64) -> Option<u64> {
        let index = |shift: u32| (address >> shift) as usize % ENTRIES;
        assert_eq!(tables.pml4[index(39)] & !0xfff, AT + PAGE_LEN);
        let directory = tables.pdpt[index(30)];
        if directory & PRESENT == 0 {
            return None;
        }
        assert_eq!(directory & !0xfff, AT + (2 + index(30) as u64) * PAGE_LEN);
        let entry = tables.directories[index(30)][index(21)];
        if entry & PRESENT == 0 {
            return None;
        }
        if entry & LARGE != 0 {
            return Some(entry);
        }
        let table = ((entry & !0xfff) - AT) / PAGE_LEN - 6;
        let entry = tables.pages[table as usize][index(12)];
        (entry & PRESENT != 0).then_some(entry)
    }

    fn filled(map: &Map<'_>) -> Result<Box<Tables>, BadRange> {
        let mut tables = Box::new(Tables::empty());
        tables.fill(AT, map).map(|()| tables)
    }

    #[test]
    fn every_range_has_its_rights_and_nothing_else_is_mapped() {
        let tables = filled(&Map {
            small: &[(0x1000, 0x2000, Rights::Data), (0x20_2000, 0x20_5000, Rights::Text)],
            large: &[(layout::HEAP, layout::HEAP + 3, Rights::Data), (0xfeb0_0000, 0xfeb0_1000, Rights::Device)],
        })
        .expect("all in range");
        assert_eq!(walk(&tables, 0), None);
        assert_eq!(walk(&tables, 0x1000), Some(0x1000 | Rights::Data.bits()));
        assert_eq!(walk(&tables, 0x20_4fff), Some(0x20_4000 | Rights::Text.bits()));
        assert_eq!(walk(&tables, 0x20_5000), None);
        assert_eq!(walk(&tables, layout::HEAP), Some(layout::HEAP | LARGE | Rights::Data.bits()));
        assert_eq!(walk(&tables, layout::HEAP + LARGE_PAGE_LEN), None);
        assert_eq!(walk(&tables, 0xfeb0_0000), Some(0xfea0_0000 | LARGE | Rights::Device.bits()));
    }

    #[test]
    fn no_rights_are_both_writable_and_executable() {
        use Rights::{Data, Device, ReadOnly, Ring0Data, Ring0Text, Text};
        for rights in [Text, ReadOnly, Data, Device, Ring0Text, Ring0Data] {
            let bits = rights.bits();
            assert!(bits & WRITABLE == 0 || bits & NO_EXECUTE != 0, "{rights:?}");
        }
    }

    #[test]
    fn ranges_outside_the_regions_are_refused() {
        let high = [(0x60_0000, 0x60_1000, Rights::Data)];
        assert_eq!(filled(&Map { small: &high, large: &[] }).err(), Some(BadRange { start: 0x60_0000 }));
        let low = [(0, 0x20_0000, Rights::Data)];
        assert_eq!(filled(&Map { small: &[], large: &low }).err(), Some(BadRange { start: 0 }));
        let far = [(1 << 32, (1 << 32) + 1, Rights::Device)];
        assert_eq!(filled(&Map { small: &[], large: &far }).err(), Some(BadRange { start: 1 << 32 }));
    }
}
