use super::*;
use alloc::vec;

/// A disk in memory that fails where it is told to.
struct Disk {
    bytes: Vec<u8>,
    fails_at: Option<u64>,
}

impl Content for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<(), Unread> {
        let start = usize::try_from(at).map_err(|_| Unread::Failed)?;
        let end = start.checked_add(buf.len()).ok_or(Unread::Failed)?;
        if self.fails_at.is_some_and(|bad| (at..end as u64).contains(&bad)) {
            return Err(Unread::Below);
        }
        buf.copy_from_slice(self.bytes.get(start..end).ok_or(Unread::Failed)?);
        Ok(())
    }
}

const MIB: usize = 1 << 20;

fn table_of(bytes: Vec<u8>) -> Option<Table> {
    let size = bytes.len() as u64;
    let table = read(&mut Disk { bytes, fails_at: None }).expect("readable");
    table.as_ref().inspect(|table| check_table(table, size));
    table
}

/// Type, start and number of sectors of the entries of the record at a sector.
fn record(disk: &mut [u8], sector: usize, entries: &[(u8, u32, u32)]) {
    let sector = &mut disk[sector * 512..][..512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    for (index, (kind, start, sectors)) in entries.iter().enumerate() {
        let entry = &mut sector[446 + index * 16..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
    }
}

/// Number, first sector and sectors.
fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    let unit = table.sector_len;
    table.partitions.iter().map(|part| (part.number, part.start / unit, part.len / unit)).collect()
}

/// A primary partition, and three logical ones in a chain.
fn with_chain() -> Vec<u8> {
    let mut disk = vec![0; MIB];
    record(&mut disk, 0, &[(0x83, 1, 99), (0, 0, 0), (0x0f, 100, 1900)]);
    record(&mut disk, 100, &[(0x83, 10, 50), (0x05, 200, 100)]);
    record(&mut disk, 300, &[(0x82, 10, 50), (0x05, 400, 100)]);
    record(&mut disk, 500, &[(0x83, 10, 50)]);
    disk
}

#[test]
fn a_chain_of_logical_partitions_is_followed() {
    let table = table_of(with_chain()).expect("a table");
    assert_eq!(places(&table), [(1, 1, 99), (3, 100, 1900), (5, 110, 50), (6, 310, 50), (7, 510, 50)]);
    assert_eq!(table.problems, []);
}

#[test]
fn a_chain_that_leads_back_or_out_ends() {
    for link in [0, 200, 1900, u32::MAX] {
        let mut disk = with_chain();
        record(&mut disk, 300, &[(0x82, 10, 50), (0x05, link, 100)]);
        let table = table_of(disk).expect("a table");
        assert_eq!((table.partitions.len(), &table.problems[..]), (4, &[Problem::Chain][..]), "{link}");
    }
    let mut endless = vec![0; MIB];
    record(&mut endless, 0, &[(0x05, 1, 2000)]);
    for at in 1..2000 {
        record(&mut endless, at as usize, &[(0x05, at, 1)]);
    }
    assert_eq!(table_of(endless).expect("a table").problems, [Problem::Chain]);
}

#[test]
fn what_a_table_says_wrongly_is_noted() {
    let problems = |entries: &[(u8, u32, u32)]| {
        let mut disk = vec![0; MIB];
        record(&mut disk, 0, entries);
        table_of(disk).map(|table| table.problems)
    };
    assert_eq!(problems(&[(0x83, 1, 2047)]), Some(vec![]));
    assert_eq!(problems(&[(0x83, 1, 2048)]), Some(vec![Problem::PastEnd]));
    assert_eq!(problems(&[(0x83, u32::MAX, u32::MAX)]), Some(vec![Problem::PastEnd]));
    assert_eq!(problems(&[(0x83, 1, 100), (0x83, 100, 100)]), Some(vec![Problem::Overlap]));
    assert_eq!(problems(&[(0x83, 1, 99), (0x83, 100, 100)]), Some(vec![]));
    assert_eq!(problems(&[(0x05, 100, 100), (0x85, 300, 100)]), Some(vec![Problem::SecondExtended]));
    assert_eq!(problems(&[(0xee, 1, 2047)]), Some(vec![Problem::NoGpt]));
    assert_eq!(problems(&[]), None);
    assert_eq!(table_of(vec![0; 511]), None);
}

#[test]
fn what_cannot_be_read_is_told() {
    let at = |fails_at| read(&mut Disk { bytes: with_chain(), fails_at: Some(fails_at) });
    assert_eq!(at(0), Err(Unread::Below));
    let table = at(300 * 512).expect("readable").expect("a table");
    assert_eq!((table.partitions.len(), &table.problems[..]), (3, &[Problem::Unread][..]));
}

/// A GPT with two partitions in sectors of `unit` bytes.
fn gpt(unit: usize) -> Vec<u8> {
    let mut disk = vec![0; MIB];
    let end = MIB / unit - 1;
    record(&mut disk, 0, &[(0xee, 1, u32::MAX)]);
    let mut entries = vec![0; 128 * 128];
    for (index, (first, last, name)) in [(40u64, 49u64, "root"), (50, 99, "\u{e4}\u{1f600}")].iter().enumerate() {
        let entry = &mut entries[index * 128..][..128];
        entry[0] = 0xaf;
        entry[16] = 1 + index as u8;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (unit, at) in name.encode_utf16().zip((56..).step_by(2)) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let entries_len = entries.len().div_ceil(unit);
    for (here, other, entries_at) in [(1, end, 2), (end, 1, end - entries_len)] {
        disk[entries_at * unit..][..entries.len()].copy_from_slice(&entries);
        let header = &mut disk[here * unit..][..92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&(here as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(other as u64).to_le_bytes());
        header[56] = 7;
        header[72..80].copy_from_slice(&(entries_at as u64).to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        sign(&mut disk, here * unit);
    }
    disk
}

/// Bit by bit, as the specification describes it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(sum & 1)))
    })
}

fn sign(disk: &mut [u8], at: usize) {
    disk[at + 16..at + 20].fill(0);
    let sum = crc32(&disk[at..at + 92]);
    disk[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_gpt_in_sectors_of_both_lengths_is_read() {
    for unit in [512, 4096] {
        let table = table_of(gpt(unit)).expect("a table");
        assert_eq!((table.sector_len, places(&table)), (unit as u64, vec![(1, 40, 10), (2, 50, 50)]));
        assert_eq!(table.problems, []);
        let Purpose::Gpt { name, .. } = &table.partitions[1].purpose else { panic!("a GPT's") };
        assert_eq!(String::from_utf16_lossy(name), "\u{e4}\u{1f600}");
    }
}

#[test]
fn one_sound_header_is_enough_and_the_other_is_noted() {
    let end = MIB / 512 - 1;
    let bent = |changes: &[(usize, u8)]| {
        let mut disk = gpt(512);
        changes.iter().for_each(|&(at, value)| disk[at] ^= value);
        let table = table_of(disk).expect("a table");
        (table.partitions.len(), table.problems)
    };
    let (first, last) = (512, end * 512);
    // Every field of the first header: signature, revision, length, checksum, …
    for at in (0..20).chain(24..92) {
        assert_eq!(bent(&[(first + at, 1)]), (2, vec![Problem::FirstHeader]), "{at}");
        assert_eq!(bent(&[(last + at, 1)]), (2, vec![Problem::LastHeader]), "{at}");
    }
    assert_eq!(bent(&[(first, 1), (last, 1)]), (1, vec![Problem::NoGpt, Problem::PastEnd]));
    assert_eq!(bent(&[(1024 + 200, 1)]), (2, vec![Problem::Entries]));
    let last_entries = (end - 32) * 512;
    assert_eq!(bent(&[(last_entries + 200, 1)]), (2, vec![Problem::Entries]));
    assert_eq!(bent(&[(1024 + 200, 1), (last_entries + 200, 1)]), (0, vec![Problem::Entries]));
}

/// A change to a field of a header whose checksum is made anew.
#[test]
fn signed_headers_are_not_trusted() {
    let signed = |here: usize, at: usize, value: &[u8]| {
        let mut disk = gpt(512);
        disk[here * 512 + at..][..value.len()].copy_from_slice(value);
        sign(&mut disk, here * 512);
        let table = table_of(disk).expect("a table");
        (table.partitions.len(), table.problems)
    };
    let end = MIB / 512 - 1;
    assert_eq!(signed(1, 24, &[2]), (2, vec![Problem::FirstHeader]));
    assert_eq!(signed(1, 84, &[64, 0, 0, 0]), (2, vec![Problem::FirstHeader]));
    assert_eq!(signed(1, 84, &[0, 0, 0, 0]), (2, vec![Problem::FirstHeader]));
    assert_eq!(signed(1, 84, &[0xff; 4]), (2, vec![Problem::FirstHeader]));
    assert_eq!(signed(1, 80, &[0xff; 4]), (2, vec![Problem::HeadersDiffer, Problem::TooManyEntries]));
    assert_eq!(signed(1, 72, &[0xff; 8]), (2, vec![Problem::Unread]));
    assert_eq!(signed(1, 56, &[9]), (2, vec![Problem::HeadersDiffer]));
    assert_eq!(signed(end, 32, &[9]), (2, vec![]));
    assert_eq!(signed(1, 32, &[0xff; 8]), (2, vec![Problem::LastHeader]));
}

#[test]
fn a_disk_that_was_made_longer_has_its_last_header_in_the_middle() {
    let mut disk = gpt(512);
    disk.resize(2 * MIB, 0);
    assert_eq!(table_of(disk).expect("a table").problems, [Problem::LastHeaderPlace]);
    // Its first header gone, nothing says where the last one is.
    let mut disk = gpt(512);
    disk.resize(2 * MIB, 0);
    disk[512] = 0;
    assert!(table_of(disk).expect("a table").problems.contains(&Problem::NoGpt));
}

#[test]
fn a_guid_is_shown_as_everybody_shows_it() {
    let bytes = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
    assert_eq!(alloc::format!("{}", Guid(bytes)), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
}
