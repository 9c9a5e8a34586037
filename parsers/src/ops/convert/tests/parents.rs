//! Differencing VHD and VHDX over their parents, and a VHDX's log.

use super::{job, read, run};
use crate::testing::foreign::{Changes, VHDX_DATA_ID, VhdxBlock, sign_crc32c, vhd_child, vhdx, with_log};
use crate::testing::{qemu_img, scratch};
use instar_abi::error::{BlockError, ChainError, Error, Structure};
use instar_abi::format::Format;
use instar_abi::request::{Answer, Given, LayerId, NeedKind, TargetFormat};

const MIB: usize = 1 << 20;

/// Converts `child` over `parent`, which it names so.
fn over(child: Vec<u8>, parent: Vec<u8>, name: &str, format: Format) -> Result<Vec<u8>, Error> {
    let (mut job, disks) = job(vec![child, parent], TargetFormat::Raw);
    let (kind, given) = (NeedKind::Backing, Given::Layer(LayerId(1)));
    job.answers = vec![Answer { layer: LayerId(0), kind, name: name.as_bytes().to_vec(), given }];
    job.layers[1].format = Some(format);
    run(&job, &disks)
}

fn alone(image: Vec<u8>) -> Result<Vec<u8>, Error> {
    let (job, disks) = job(vec![image], TargetFormat::Raw);
    run(&job, &disks)
}

fn block_error(result: Result<Vec<u8>, Error>) -> BlockError {
    match result {
        Err(Error::Block { error, .. }) => error,
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 247) as u8 + 1).collect()
}

/// Sectors of the child by a rule with runs of every kind.
fn of_child(sector: u64) -> Option<[u8; 512]> {
    let is_here = match sector / 128 {
        0 | 5 => false,
        1 => true,
        _ => sector % 7 < 3 || sector % 31 == 30,
    };
    is_here.then_some([sector as u8 | 1; 512])
}

#[test]
fn a_differencing_vhd_shows_its_parents_sectors() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), text(2 * MIB)).unwrap();
    qemu_img(dir, "convert -f raw -O vpc -o force_size=on a.raw base.vhd").unwrap();
    let parent = read(dir, "base.vhd");
    let id = *parent[68..84].first_chunk().unwrap();
    let expected: Vec<u8> = text(2 * MIB)
        .chunks(512)
        .zip(0..)
        .flat_map(|(below, sector)| of_child(sector).map_or(below.to_vec(), |sector| sector.to_vec()))
        .collect();
    let child = |locator| vhd_child(2 << 20, id, locator, of_child);
    for locator in [(b"W2ru", ".\\base.vhd"), (b"W2ku", "C:\\images\\base.vhd")] {
        let found = over(child(locator), parent.clone(), "base.vhd", Format::Vpc);
        assert!(found == Ok(expected.clone()), "{locator:?}: {:?}", found.map(|bytes| bytes.len()));
    }
    // Never without its parent, nor over another one.
    let elsewhere = over(child((b"W2ru", ".\\base.vhd")), parent.clone(), "other.vhd", Format::Vpc);
    assert!(matches!(elsewhere, Err(Error::Chain(ChainError::NameChanged { .. }))));
    let stranger = vhd_child(2 << 20, [1; 16], (b"W2ru", "base.vhd"), of_child);
    assert!(matches!(block_error(over(stranger, parent, "base.vhd", Format::Vpc)), BlockError::ParentChanged { .. }));
    assert_eq!(block_error(alone(child((b"W2ru", "..")))), BlockError::Differencing);
    let mut bent = child((b"W2ru", "base.vhd"));
    bent[512 + 100] ^= 1;
    assert_eq!(block_error(alone(bent)), BlockError::Checksum { structure: Structure::DynamicHeader });
}

#[test]
fn a_differencing_vhdx_shows_its_parents_sectors() {
    for sector_size in [512, 4096] {
        let parent = vhdx(5 << 20, sector_size, None, |index| VhdxBlock::Full(vec![index as u8 + 1; MIB]));
        let linkage = format!("{{{VHDX_DATA_ID}}}");
        let locator = [("parent_linkage", linkage.as_str()), ("relative_path", ".\\base.vhdx")];
        let child = |locator: &[(&str, &str)]| {
            vhdx(5 << 20, sector_size, Some(locator), |index| match index {
                0 => VhdxBlock::State(0),
                1 => VhdxBlock::State(2),
                2 => VhdxBlock::Full(vec![0xaa; MIB]),
                3 => VhdxBlock::Partial(vec![0xbb; MIB], |sector| sector % 5 < 2 || sector > 200),
                _ => VhdxBlock::State(3),
            })
        };
        let mut expected = [vec![1; MIB], vec![0; MIB], vec![0xaa; MIB]].concat();
        let here = |sector: usize| sector % 5 < 2 || sector > 200;
        expected.extend((0..MIB).map(|at| if here(at / sector_size as usize) { 0xbb } else { 4 }));
        expected.extend(vec![0; MIB]);
        let found = over(child(&locator), parent.clone(), "base.vhdx", Format::Vhdx);
        assert!(found == Ok(expected), "{sector_size}: {:?}", found.map(|bytes| bytes.len()));
        let stranger = [("parent_linkage", "{00000000-4455-6677-8899-aabbccddeeff}"), locator[1]];
        let error = block_error(over(child(&stranger), parent, "base.vhdx", Format::Vhdx));
        assert!(matches!(error, BlockError::ParentChanged { .. }), "{error:?}");
        assert_eq!(block_error(alone(child(&locator[..1]))), BlockError::Differencing);
        assert_eq!(block_error(alone(child(&locator[1..]))), BlockError::Differencing);
        // Without a parent no block is there in part.
        let lone = vhdx(1 << 20, sector_size, None, |_| VhdxBlock::Partial(vec![1; MIB], |_| true));
        assert!(matches!(block_error(alone(lone)), BlockError::Entry { structure: Structure::Table, .. }));
    }
}

/// The builder's log is judged by qemu-img, which replays it in the file.
#[test]
fn a_vhdxs_log_is_replayed_in_memory_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    // Two blocks whose entries only the log has, and one that it takes away.
    let plain = vhdx(5 << 20, 512, None, |index| VhdxBlock::Full(vec![index as u8 + 1; MIB]));
    let table = plain[3 * MIB..3 * MIB + 4096].to_vec();
    let mut before = plain.clone();
    before[3 * MIB..3 * MIB + 16].fill(0);
    let mut half = table.clone();
    half[..8].fill(0);
    let mut after = table.clone();
    after[16..24].copy_from_slice(&2u64.to_le_bytes());
    let place = 3 << 20;
    let changes: [Changes<'_>; 3] =
        [&[(place, Some(half))], &[(place, None)], &[(place, Some(after.clone())), (place + 4096, None)]];
    // At the front, and over the ring's end.
    for at in [0, MIB - 16384] {
        let logged = with_log(before.clone(), at, 0x1_0000_0005, &changes);
        std::fs::write(dir.join("a.vhdx"), &logged).unwrap();
        qemu_img(dir, "check -r all a.vhdx").unwrap();
        qemu_img(dir, "convert -O raw a.vhdx expected.raw").unwrap();
        let expected = read(dir, "expected.raw");
        assert!(expected[..MIB] == vec![1; MIB] && expected[2 * MIB..3 * MIB] == vec![0; MIB], "the log counts");
        assert!(alone(logged.clone()) == Ok(expected), "{at}");
        // The last entry torn: the sequence ends before it.
        let mut torn = logged.clone();
        torn[MIB + (at + 8192 + 4096 + 4096) % MIB + 100] ^= 1;
        assert!(alone(torn).is_ok_and(|bytes| bytes.iter().all(|&byte| byte == 0)), "the table was zeros for a while");
        // None is sound.
        let mut broken = logged.clone();
        for entry in [at, at + 8192, at + 8192 + 4096] {
            broken[MIB + entry % MIB + 70] ^= 1;
        }
        assert_eq!(block_error(alone(broken)), BlockError::Checksum { structure: Structure::Log });
        // The file was cut since.
        let cut = logged[..logged.len() - MIB].to_vec();
        assert_eq!(block_error(alone(cut)), BlockError::Log);
    }
    // A change of content is none that a log may make.
    let content = u64::from_le_bytes(*table.first_chunk().unwrap()) & !0xfffff;
    let wrong: [Changes<'_>; 1] = [&[(content, None)]];
    assert_eq!(block_error(alone(with_log(plain, 0, 7, &wrong))), BlockError::Log);
}

/// The second region table counts where the first is broken, which QEMU does not look at.
#[test]
fn the_second_region_table_takes_the_place_of_the_first() {
    let whole = vhdx(1 << 20, 512, None, |_| VhdxBlock::Full(vec![9; MIB]));
    for (broken, opens) in [(&[0x30010][..], true), (&[0x40010], true), (&[0x30010, 0x40010], false)] {
        let mut bytes = whole.clone();
        broken.iter().for_each(|&at| bytes[at] ^= 1);
        assert_eq!(alone(bytes).is_ok(), opens, "{broken:x?}");
    }
    let mut bytes = whole;
    bytes[0x30009] = 0x10;
    sign_crc32c(&mut bytes, 0x30000, 65536);
    assert!(alone(bytes).is_err(), "a sound one counts, whatever it says");
}
