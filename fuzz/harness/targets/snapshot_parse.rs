use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::Script;
use crate::model::snapshot::{Entry, entries};
use instar_abi::error::Error;
use instar_abi::request::SnapshotName;
use instar_parsers::qcow2::invariants::check_found;
use instar_parsers::qcow2::{Header, Snapshot, Snapshots};

/// Most entries of a table.
const COUNT_MAX: u32 = 4096;

/// The snapshot table of a qcow2 whose header is the first sector. Bytes 512 to 519: where the table is; 520 to 523: entries (at
/// most 4096); 524 to 527, 528 and 529: first and number of entries that are looked at one by one; 530: entries after which the walk
/// stops and a name is looked for; 531: bytes of the name; 532 to 539: where the name is; 540: bit 0: the table is where the number
/// says, else at a cluster of the file. The input is the image.
pub fn snapshot_parse(data: &[u8]) {
    let Some(control) = data.get(512..544) else { return };
    let mut control = Script::new(control);
    let (Some(table), Some(count), Some(first)) = (control.u64(), control.u32(), control.u32()) else { return };
    let (Some(window), Some(stop), Some(name_len)) = (control.u16(), control.u8(), control.u8()) else { return };
    let (Some(name_at), Some(how)) = (control.u64(), control.u8()) else { return };
    let count = count % (COUNT_MAX + 1);
    let cluster = 1u64 << data[23].clamp(9, 21);
    let table = if how & 1 == 1 { table } else { table % (data.len() as u64 + 1) / cluster * cluster };
    let head = [&count.to_be_bytes()[..], &table.to_be_bytes()].concat();
    let image = FuzzImage::new(data).with(60, head);
    let mut reader = FuzzReader::new(vec![image.clone()]);
    let header = match Header::read(&mut reader, LAYER, DISK) {
        Ok(header) => header,
        Err(error) => return check_error(&error),
    };
    assert_eq!((header.snapshots().offset, header.snapshots().count), (table, count));
    let expected = entries(&image, table, count.into(), header.virtual_size());
    let (Ok(sound) | Err(sound)) = &expected;
    let mut walk = Snapshots::new(LAYER, DISK, &header);
    let (mut stopped, mut rest) = (None, Vec::new());
    for index in 0..=count {
        if index == u32::from(stop) {
            stopped = Some(walk.clone());
        }
        match walk.next(&mut reader) {
            Ok(Some(snapshot)) => {
                let entry = sound.get(index as usize).expect("an entry that is not there");
                assert_eq!(walk.walked_len(), entry.end - table, "entry {index} ends elsewhere");
                let is_in_window = index >= first && index - first < window.into();
                check_entry(&snapshot, entry, is_in_window || stopped.is_some());
                if stopped.is_some() {
                    rest.push(snapshot);
                }
            }
            Ok(None) => {
                assert!(expected.is_ok() && index == count, "the table ends at entry {index}");
                break;
            }
            Err(Error::OutOfBudget(_)) => return,
            Err(error) => {
                check_error(&error);
                assert!(expected.is_err() && index as usize == sound.len(), "entry {index}: {error:?}");
                break;
            }
        }
    }
    let mut name = vec![0; name_len.into()];
    image.fill(name_at, &mut name);
    if let (Some(walk), Ok(_)) = (stopped, &expected) {
        check_find(&walk, &image, &rest, &name);
    }
}

fn check_entry(found: &Snapshot, entry: &Entry, all: bool) {
    assert_eq!((found.l1_offset, u64::from(found.l1_count)), (entry.l1_offset, entry.l1_count), "the L1 table");
    if all {
        assert!(found.id == entry.id && found.name == entry.name, "other names");
        assert_eq!((found.vm_state_size, found.disk_size), (entry.vm_state_size, entry.disk_size), "sizes");
    }
}

/// Every way to look for a name among `rest`, which a walk gave that goes on where `walk` is.
fn check_find(walk: &Snapshots, image: &FuzzImage<'_>, rest: &[Snapshot], text: &[u8]) {
    for wanted in [SnapshotName::Id, SnapshotName::Name, SnapshotName::IdOrName].map(|kind| kind(text.to_vec())) {
        match walk.clone().find(&mut FuzzReader::new(vec![image.clone()]), &wanted) {
            Ok(found) => check_found(rest, &wanted, found.as_ref()),
            Err(Error::OutOfBudget(_)) => return,
            Err(error) => panic!("walked a moment ago: {error:?}"),
        }
    }
}
