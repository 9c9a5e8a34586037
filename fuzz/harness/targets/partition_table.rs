use crate::image::{FuzzImage, FuzzReader};
use crate::layout::{Script, crc32};
use crate::targets::DISK;
use instar_parsers::partition::{Content, Kind, Purpose, Table, Unread, check_table, read};
use instar_parsers::store::ReadAt;

/// Most reads that a table takes: two headers in two sector lengths, 1 MiB of entries twice, a chain of 252.
const READS_MAX: u32 = 5 + 512 + 252;

/// A disk's partition table: 8 bytes of the disk's length, 2 of how many bytes of the input lie at its end, 1 whose
/// lowest bit has the headers signed, 1 unused, then the disk.
pub fn partition_table(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(len), Some(tail_len), Some(flags), Some(_)) = (script.u64(), script.u16(), script.u8(), script.u8())
    else {
        return;
    };
    let rest = script.rest();
    let (head, tail) = rest.split_at(rest.len() - rest.len().min(tail_len.into()));
    let (mut head, mut tail) = (head.to_vec(), tail.to_vec());
    let len = (rest.len() as u64).max(len % (1 << 40));
    if flags & 1 != 0 {
        sign(&mut head, 512);
        let last = tail.len().saturating_sub(512);
        sign(&mut tail, last);
    }
    let image = FuzzImage::placed(len).with(0, &head[..]).with(len - tail.len() as u64, &tail[..]);
    let first = table_of(&image);
    assert_eq!(first, table_of(&image), "the same disk twice");
    let Ok(Some(table)) = first else { return };
    check_table(&table, len);
    let mut reader = FuzzReader::new(vec![image]);
    let sector = sector_of(&mut reader, 0).expect("it was read before");
    check_primary(&table, &sector);
    let places = |table: &Table| -> Vec<(u64, u64)> {
        table.partitions.iter().filter(|part| part.number > 4).map(|part| (part.start, part.len)).collect()
    };
    if matches!(table.kind, Kind::Mbr { .. }) {
        assert_eq!(places(&table), logical(&mut reader, &sector), "logical partitions");
    }
}

/// Gives a header, if there is one, the checksum that its bytes have.
fn sign(bytes: &mut [u8], at: usize) {
    let Some(header) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<92>()) else { return };
    header[16..20].fill(0);
    let sum = crc32(header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// Primary partitions of an MBR are what their entries say, read here once more.
fn check_primary(table: &Table, sector: &[u8; 512]) {
    if !matches!(table.kind, Kind::Mbr { .. }) {
        return;
    }
    for partition in table.partitions.iter().filter(|partition| partition.number <= 4) {
        let entry = &sector[446 + 16 * (partition.number as usize - 1)..][..16];
        let number = |at: usize| u64::from(u32::from_le_bytes(entry[at..at + 4].try_into().expect("4 bytes")));
        let Purpose::Mbr { kind, is_active } = partition.purpose else { panic!("an MBR's") };
        assert_eq!((entry[4], entry[0] == 0x80), (kind, is_active), "type and flag");
        assert_eq!((number(8) * 512, number(12) * 512), (partition.start, partition.len), "place");
    }
}

fn sector_of(reader: &mut FuzzReader<'_>, sector: u64) -> Option<[u8; 512]> {
    let mut bytes = [0; 512];
    reader.read_at(DISK, sector * 512, &mut bytes).ok().map(|()| bytes)
}

/// Type, first sector and sectors of the entries in use of a sector that is a record.
fn entries(sector: &[u8; 512]) -> Vec<(u8, u64, u64)> {
    let number = |at: usize| u64::from(u32::from_le_bytes(sector[at..at + 4].try_into().expect("4 bytes")));
    let places = [446, 462, 478, 494];
    if sector[510..] != [0x55, 0xaa] || places.iter().any(|&at| sector[at] & 0x7f != 0) {
        return Vec::new();
    }
    let all = places.map(|at| (sector[at + 4], number(at + 8), number(at + 12)));
    all.into_iter().filter(|&(kind, _, sectors)| kind != 0 && sectors != 0).collect()
}

/// First byte and bytes of the logical partitions of the first extended one, read here once more.
fn logical(reader: &mut FuzzReader<'_>, first: &[u8; 512]) -> Vec<(u64, u64)> {
    let is_extended = |&(kind, _, _): &(u8, u64, u64)| [5, 0xf, 0x85].contains(&kind);
    let Some((_, base, sectors)) = entries(first).into_iter().find(is_extended) else { return Vec::new() };
    let (mut found, mut at) = (Vec::new(), base);
    for _ in 0..252 {
        let Some(record) = sector_of(reader, at) else { break };
        let entries = entries(&record);
        let own = entries.iter().filter(|entry| !is_extended(entry));
        found.extend(own.map(|&(_, start, len)| ((at + start) * 512, len * 512)));
        let Some((_, link, _)) = entries.into_iter().find(is_extended) else { break };
        if base + link <= at || base + link >= base + sectors {
            break;
        }
        at = base + link;
    }
    found
}

struct Disk<'a> {
    reader: FuzzReader<'a>,
    reads: u32,
}

impl Content for Disk<'_> {
    fn size(&self) -> u64 {
        self.reader.len(DISK)
    }

    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<(), Unread> {
        self.reads += 1;
        assert!(self.reads <= READS_MAX, "more reads than a table takes");
        self.reader.read_at(DISK, at, buf).map_err(|_| Unread::Failed)
    }
}

fn table_of(image: &FuzzImage<'_>) -> Result<Option<Table>, Unread> {
    read(&mut Disk { reader: FuzzReader::new(vec![image.clone()]), reads: 0 })
}
