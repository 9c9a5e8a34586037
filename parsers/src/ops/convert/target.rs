//! What a conversion makes, and what that wants to know of the disk.

use super::sources::Images;
use crate::align;
use crate::codec::Codecs;
use crate::image::{Driver, Image};
use crate::mover::{Format, Ledger, Mark, Target, Wanted, Zeros};
use crate::qcow2::create::{Layout, Names, Writer};
use crate::store::{Budget, Cache, Queue, Store};
use alloc::boxed::Box;
use alloc::vec::Vec;
use instar_abi::error::{Error, TargetError, WriteError};
use instar_abi::request::{Access, Before, Convert, Disk, DiskId, NewDataFile, Qcow2Options, TargetFormat};
use instar_io::{Env, SECTOR_LEN};
use spin::Mutex;

/// A target, what it wants, and what else is written.
pub struct Made {
    /// Where content goes.
    pub target: Target,
    /// What the source is asked for.
    pub wanted: Wanted,
    /// The external data file, and its length.
    pub data_file: Option<(DiskId, u64)>,
}

/// Makes the target of a conversion; nothing has been written then.
///
/// # Errors
/// What qemu-img refuses; [`TargetError::Unsupported`].
pub fn make<E: Env>(
    convert: &Convert,
    codecs: Codecs,
    disks: &[Disk],
    images: &Images,
    env: &mut E,
    budget: &mut Budget,
) -> Result<Made, Error> {
    let disk = convert.target;
    let capacity = capacity(disks, disk).ok_or(Error::WrongOp)?;
    let virtual_size = images.disk_len(convert);
    let (sparse_len, old_len) = match (&convert.target_format, convert.before) {
        (TargetFormat::Raw, Before::Unknown { len }) => (0, Some(len)),
        (TargetFormat::Raw, Before::Zeros { len }) => (convert.sparse_len, Some(len)),
        _ => (convert.sparse_len, None),
    };
    // Both are counted in sectors, as in QEMU.
    if let Some(len) = old_len.filter(|len| align::up(*len, SECTOR_LEN).is_some_and(|len| len < virtual_size)) {
        return Err(Error::Target(TargetError::TooSmall { len, needed: virtual_size }));
    }
    let plain = |format, virtual_size, granule: Option<u64>, zeros, sparse_len| Target {
        disk,
        capacity,
        virtual_size,
        old_len: old_len.unwrap_or(0),
        sparse_len,
        format,
        codecs,
        zeros,
        granule,
    };
    let mut wanted = Wanted::flat(if sparse_len == 0 { Zeros::Move } else { Zeros::Skip });
    wanted.salvage = convert.salvage;
    wanted.offload = convert.offload;
    match &convert.target_format {
        TargetFormat::Raw if virtual_size > capacity => {
            Err(Error::Write(WriteError::Capacity { disk, end: virtual_size }))
        }
        TargetFormat::Raw => {
            wanted.granule = (convert.offload || convert.top_only).then_some(SECTOR_LEN);
            let target = plain(Format::Raw, virtual_size, wanted.granule, wanted.zeros, sparse_len);
            Ok(Made { target, wanted, data_file: None })
        }
        TargetFormat::Qcow2(options) => {
            let layout = Layout::try_from(options).map_err(Error::Target)?;
            let writer = Writer::new(budget, layout, virtual_size, disk, capacity)?;
            let writer = writer.with_names(names(options)).map_err(Error::Target)?;
            let is_preallocated = options.preallocated || options.data_file.as_ref().is_some_and(|file| file.raw);
            let writer = if is_preallocated { writer.preallocated() } else { writer };
            let data_file = data_file(disks, options.data_file.as_ref(), virtual_size)?;
            let kind = Kind {
                hides: options.backing.is_some(),
                is_preallocated,
                compress: options.compress,
                any_order: convert.any_order,
            };
            kind.refine(&mut wanted, layout);
            let sparse_len = if wanted.zeros == Zeros::Move { 0 } else { sparse_len };
            let format = kind.format(layout, data_file, writer);
            let target = plain(format, virtual_size, wanted.granule, wanted.zeros, sparse_len);
            Ok(Made { target, wanted, data_file })
        }
        TargetFormat::Existing { compress, .. } => {
            let Some((_, opened)) = &images.existing else { return Err(Error::WrongOp) };
            let Driver::Qcow2(image) = &opened.driver else { return Err(Error::WrongOp) };
            if image.virtual_size() < virtual_size {
                let len = image.virtual_size();
                return Err(Error::Target(TargetError::TooSmall { len, needed: virtual_size }));
            }
            let mut queue = Queue::new(env.lane());
            let mut store = Store { queue: &mut queue, cache: &mut Cache::new(), budget, disks };
            let writer = Writer::behind(&mut store, image, capacity)?;
            let layout = writer.layout();
            let kind = Kind {
                hides: image.backing().is_some(),
                is_preallocated: false,
                compress: *compress,
                any_order: convert.any_order,
            };
            kind.refine(&mut wanted, layout);
            let sparse_len = if wanted.zeros == Zeros::Move { 0 } else { sparse_len };
            let format = kind.format(layout, None, writer);
            let target = plain(format, image.virtual_size(), wanted.granule, wanted.zeros, sparse_len);
            Ok(Made { target, wanted, data_file: None })
        }
    }
}

/// What kind of qcow2 a target is.
struct Kind {
    /// There is a layer below, which zeros must hide.
    hides: bool,
    is_preallocated: bool,
    compress: bool,
    /// Clusters need not come in the order of the disk.
    any_order: bool,
}

impl Kind {
    /// What it wants to know of the disk beyond its data.
    fn refine(&self, wanted: &mut Wanted, layout: Layout) {
        wanted.offload &= !self.compress;
        wanted.reserve = self.is_preallocated;
        if wanted.zeros == Zeros::Skip {
            wanted.zeros = match (self.hides, self.is_preallocated) {
                // Version 2 has no zero flag.
                (true, _) if layout.version() < 3 => Zeros::Move,
                (true, _) => Zeros::Mark(Mark::Zero),
                (false, true) => Zeros::Mark(Mark::Reserved),
                (false, false) => Zeros::Skip,
            };
        }
        if self.hides || self.is_preallocated || wanted.offload {
            wanted.granule = Some(if self.compress { layout.cluster_size() } else { layout.granule() });
            wanted.marks_len_max = layout.marks_len_max();
        }
    }

    fn format(&self, layout: Layout, data_file: Option<(DiskId, u64)>, writer: Writer) -> Format {
        Format::Qcow2 {
            granule: layout.granule(),
            compress: self.compress.then(|| (layout.cluster_size(), layout.compression())),
            data_disk: data_file.map(|(disk, _)| disk),
            ledger: Box::new(Mutex::new(Ledger::new(writer, self.any_order))),
        }
    }
}

fn names(options: &Qcow2Options) -> Names {
    Names {
        backing: options.backing.as_ref().map(|backing| (backing.name.clone(), backing.format.clone())),
        data_file: options.data_file.as_ref().map(|file| (file.name.clone(), file.raw)),
    }
}

/// The disk of a data file, and its length: that of the disk that it holds.
fn data_file(disks: &[Disk], file: Option<&NewDataFile>, len: u64) -> Result<Option<(DiskId, u64)>, Error> {
    let Some(&NewDataFile { disk, .. }) = file else { return Ok(None) };
    match capacity(disks, disk) {
        Some(capacity) if len <= capacity => Ok(Some((disk, len))),
        Some(_) => Err(Error::Write(WriteError::Capacity { disk, end: len })),
        None => Err(Error::WrongOp),
    }
}

/// Bytes that an output may come to hold; `None`: it is none.
pub fn capacity(disks: &[Disk], disk: DiskId) -> Option<u64> {
    match usize::try_from(disk.0).ok().and_then(|index| disks.get(index)) {
        Some(Disk { access: Access::Output { capacity }, .. }) => Some(*capacity),
        _ => None,
    }
}

/// The job's disks, with the length that a target has which exists.
pub fn disks_of(disks: &[Disk], convert: &Convert) -> Option<Vec<Disk>> {
    let (TargetFormat::Existing { .. }, Before::Unknown { len } | Before::Zeros { len }) =
        (&convert.target_format, convert.before)
    else {
        return None;
    };
    let mut disks = disks.to_vec();
    if let Some(disk) = usize::try_from(convert.target.0).ok().and_then(|index| disks.get_mut(index)) {
        disk.len = len;
    }
    Some(disks)
}
