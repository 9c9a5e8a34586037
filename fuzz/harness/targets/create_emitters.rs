use super::{DISK, LAYER};
use crate::image::{BUDGET, FuzzImage, FuzzReader};
use crate::layout::Script;
use crate::model::check::check;
use instar_abi::error::{Error, TargetError, WriteError};
use instar_abi::request::{Compression, DiskId, LayerId, NewBacking, NewDataFile, Qcow2Options};
use instar_parsers::image::Image as _;
use instar_parsers::plan::invariants::{check_crash_order, check_memory, check_repeatable};
use instar_parsers::plan::{Epoch, Plan, sim};
use instar_parsers::qcow2::create::{Layout, Names, Writer};
use instar_parsers::qcow2::{Qcow2, wire};

/// Patches of one plan.
const PATCHES_MAX: usize = 96;
/// A file that is made and read again.
const READ_LEN_MAX: u64 = 16 << 20;
/// A file that is crashed on the way.
const CRASHED_LEN_MAX: u64 = 256 << 10;
/// Clusters of a disk that is preallocated.
const CLUSTERS_MAX: u64 = 1 << 16;

/// A new image. Byte 0: format (mod 4, 0 is qcow2; others are not there yet); 1: refcount width (mod 8, 7 is none); 2:
/// flags (0 extended L2, 1 lazy refcounts, 2 version 3, 3 zstd, 4 data file, 7 raw values); 3: preallocation (mod 4: off
/// or not); 4, 5: of other formats; 6: backing file (0 there, 1 with a format, 4 to 7 which); 7: length of its
/// name (to 127 as it is, 128: 1024, above: 1025); 8: virtual size; 16: cluster size; 20: of other formats; 24: the name.
pub fn create_emitters(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some([format, width, flags, prealloc, _, _, backing, path_len]), Some(size), Some(cluster), Some(_)) =
        (script.array::<8>(), script.u64(), script.u32(), script.u32())
    else {
        return;
    };
    if format % 4 != 0 {
        return;
    }
    let (flag, is_raw) = (|bit: u8| flags >> bit & 1 == 1, flags & 0x80 != 0);
    let mut path = script.rest().to_vec();
    path.resize(if path_len < 128 { path_len.into() } else { 896 + usize::from(path_len.min(129)) }, b'p');
    let formats: [&[u8]; 6] = [b"raw", b"qcow2", b"vmdk", b"vpc", b"vhdx", b""];
    let options = Qcow2Options {
        version: if flag(2) { 3 } else { 2 },
        cluster_bits: if is_raw { cluster } else { 9 + cluster.trailing_zeros().wrapping_sub(9) % 13 },
        refcount_order: if width % 8 == 7 { 0xff } else { (width % 8).into() },
        lazy_refcounts: flag(1),
        extended_l2: flag(0),
        compression: if flag(3) { Compression::Zstd } else { Compression::Zlib },
        compress: false,
        backing: (backing & 1 == 1).then(|| NewBacking {
            name: path.clone(),
            format: if backing & 2 == 0 { Vec::new() } else { formats[usize::from(backing >> 4) % 6].to_vec() },
            layer: LayerId(1),
        }),
        preallocated: prealloc % 4 != 0,
        data_file: flag(4).then(|| NewDataFile { name: b"d".to_vec(), disk: DiskId(2), raw: prealloc % 4 != 0 }),
    };
    let size = if is_raw { size } else { size % (1 << 41) } & !511;
    let Some((plans, tables, file_len)) = check_repeatable(|| plan(&options, size)) else { return };
    let unit = (1 << 20).max(1 << options.cluster_bits).max(l1_len(&options, size));
    check_memory(&plans, unit);
    for plan in &plans {
        plan.check(PATCHES_MAX).unwrap_or_else(|fault| panic!("{fault:?} in {:?}", shape(plan)));
    }
    let (last, others) = plans.split_last().expect("a plan with the header");
    assert!(last.commit.is_some() && others.iter().all(|plan| plan.commit.is_none()), "the header comes last, alone");
    if file_len <= READ_LEN_MAX {
        let whole = joined(&plans, tables, file_len);
        judge(&options, size, &whole);
    }
}

/// What is planned for an image, the tables that are written on the way, and its length; `None`: it is refused.
type Planned = (Vec<Plan>, Vec<(u64, Vec<u8>)>, u64);

fn plan(options: &Qcow2Options, size: u64) -> Option<Planned> {
    let layout = match Layout::try_from(options) {
        Ok(layout) => layout,
        Err(error) => {
            let wrong = options.cluster_bits < 9 || options.cluster_bits > 21 || options.refcount_order > 6;
            let version_3 = options.version == 3;
            let plain = !options.extended_l2 && options.backing.is_none() && options.data_file.is_none();
            assert!(wrong || !version_3 || !plain, "{options:?} is refused: {error:?}");
            return None;
        }
    };
    assert!((9..=21).contains(&options.cluster_bits) && options.refcount_order <= 6, "{options:?} is accepted");
    let mut budget = BUDGET.into();
    let max = layout.virtual_size_max();
    let writer = match Writer::new(&mut budget, layout, size, DISK, 1 << 50) {
        Ok(writer) => writer,
        Err(Error::Target(TargetError::TooLarge { .. })) => return assert_none(size <= max, "too large"),
        Err(Error::OutOfBudget(_) | Error::Write(WriteError::Capacity { .. })) => return None,
        Err(error) => panic!("{error:?}"),
    };
    assert!(size <= max, "{size} of {max} bytes");
    let names = Names {
        backing: options.backing.as_ref().map(|backing| (backing.name.clone(), backing.format.clone())),
        data_file: options.data_file.as_ref().map(|file| (file.name.clone(), file.raw)),
    };
    let name_len = options.backing.as_ref().map_or(0, |backing| backing.name.len());
    let mut writer = match writer.with_names(names) {
        Ok(writer) => writer,
        Err(error) => {
            let too_long = name_len > 1023 || name_len as u64 + 400 > layout.cluster_size();
            return assert_none(!too_long, &format!("a name of {name_len} bytes: {error:?}"));
        }
    };
    assert!(name_len <= 1023, "a name of {name_len} bytes is taken");
    let mut tables = Vec::new();
    if options.preallocated {
        if size / layout.cluster_size() > CLUSTERS_MAX {
            return None;
        }
        writer = writer.preallocated();
        if let Err(error) = writer.reserve(0..size) {
            assert!(matches!(error, Error::Write(WriteError::Capacity { .. })), "{error:?}");
            return None;
        }
        tables.extend(writer.settle(size));
    }
    let mut finish = writer.finish().expect("room for the refcounts");
    let file_len = finish.file_len();
    let mut plans = Vec::new();
    while let Some(plan) = finish.next_plan() {
        plans.push(plan);
    }
    Some((plans, tables, file_len))
}

fn assert_none(wrong: bool, what: &str) -> Option<Planned> {
    assert!(!wrong, "refused: {what}");
    None
}

/// Bytes of the L1 table, worked out anew.
fn l1_len(options: &Qcow2Options, size: u64) -> u64 {
    let entry_bits = if options.extended_l2 { 4 } else { 3 };
    let span = 1u64 << (2 * options.cluster_bits - entry_bits);
    (size.div_ceil(span) * 8).next_multiple_of(512)
}

fn shape(plan: &Plan) -> Vec<(&'static str, usize)> {
    plan.epochs.iter().map(|epoch| (epoch.name, epoch.patches.len())).collect()
}

/// All plans as one of the whole file; what is written on the way is not flushed before the first of them is.
fn joined(plans: &[Plan], tables: Vec<(u64, Vec<u8>)>, file_len: u64) -> Plan {
    let mut whole = Plan::new(0, file_len);
    let mut first =
        tables.into_iter().fold(Epoch::new("tables on the way"), |epoch, (at, bytes)| epoch.write(at, bytes));
    for plan in plans {
        for (index, epoch) in plan.epochs.iter().enumerate() {
            if plan.commit == Some(index) {
                whole.commit = Some(whole.epochs.len());
            }
            if whole.epochs.is_empty() && plan.commit != Some(index) {
                first.patches.extend(epoch.patches.iter().cloned());
                whole.push(std::mem::replace(&mut first, Epoch::new("nothing")));
            } else {
                whole.push(epoch.clone());
            }
        }
    }
    whole.check(usize::MAX).unwrap_or_else(|fault| panic!("{fault:?} in the whole: {:?}", shape(&whole)));
    whole
}

/// Makes the file, opens it, and crashes on the way to it.
fn judge(options: &Qcow2Options, size: u64, whole: &Plan) {
    let file = sim::crashed(whole, &[], whole.epochs.len(), 0);
    let image = open(&file).unwrap_or_else(|error| panic!("what was made does not open: {error:?}"));
    let header = image.header();
    assert_eq!(image.virtual_size(), size, "another virtual size");
    assert_eq!(header.version(), options.version);
    assert_eq!(header.cluster_size(), 1 << options.cluster_bits);
    assert_eq!(header.refcount_bits(), 1 << options.refcount_order);
    assert_eq!(header.has_extended_l2(), options.extended_l2);
    // No caller has a name with a zero byte, and no reader reads beyond one.
    let name = options.backing.as_ref().and_then(|backing| backing.name.split(|&byte| byte == 0).next());
    assert_eq!(image.backing(), name.filter(|name| !name.is_empty()), "another name");
    let verdict = check(&FuzzImage::new(&file), header);
    assert!(verdict.corruptions.is_empty() && verdict.leaks == 0, "the image is not clean: {verdict:?}");
    if file.len() as u64 > CRASHED_LEN_MAX {
        return;
    }
    check_crash_order(whole, &[], size, |epochs, file| {
        if !file.starts_with(&wire::MAGIC) {
            return assert!(epochs < whole.epochs.len(), "no image at the end");
        }
        let image = open(&file).unwrap_or_else(|error| panic!("PI-13: a crash leaves what does not open: {error:?}"));
        let verdict = check(&FuzzImage::new(&file), image.header());
        assert!(verdict.corruptions.is_empty(), "PI-13: after {epochs} epochs: {verdict:?}");
    });
}

fn open(bytes: &[u8]) -> Result<Qcow2, Error> {
    Qcow2::open(&mut FuzzReader::new(vec![FuzzImage::new(bytes)]), LAYER, DISK)
}
