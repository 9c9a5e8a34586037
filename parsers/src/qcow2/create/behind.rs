//! A new state of an image that exists, behind its end.

use super::header::Header;
use super::tables::Tables;
use super::{Layout, Writer, pack};
use crate::align;
use crate::image::Codec;
use crate::qcow2::{Crypt, Qcow2};
use crate::store::ReadAt;
use alloc::vec;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, ExistingError, TargetError};
use instar_abi::request::Compression;

impl Writer {
    /// A new state for `image`, which keeps its options, its size and everything that its header says but for where its
    /// tables are. Nothing that the file holds is written over before the commit point.
    ///
    /// # Errors
    /// [`TargetError::Existing`] for what a new state would lose or break; the heap budget; those of the reads.
    pub fn behind(io: &mut dyn ReadAt, image: &Qcow2, capacity: u64) -> Result<Self, Error> {
        refuse(image).map_err(|error| Error::Target(TargetError::Existing(error)))?;
        let header = image.header();
        let layout = Layout {
            version: header.version(),
            cluster_bits: header.cluster_size().trailing_zeros(),
            refcount_order: header.refcount_bits().trailing_zeros(),
            lazy_refcounts: header.has_lazy_refcounts(),
            extended_l2: header.has_extended_l2(),
            compression: match header.compression() {
                Codec::Deflate | Codec::Zlib => Compression::Zlib,
                Codec::Zstd => Compression::Zstd,
            },
        };
        let disk = image.disk();
        let mut sector = vec![0; SECTOR_LEN as usize];
        io.read_padded(disk, 0, &mut sector)?;
        let cluster_size = layout.cluster_size();
        let end = align::up(io.len(disk), cluster_size).unwrap_or(u64::MAX).max(cluster_size);
        let l1_len = u64::from(header.l1().count).saturating_mul(8);
        let l1_space = align::up(l1_len, cluster_size).unwrap_or(u64::MAX);
        let l1_padded = align::up(l1_len, SECTOR_LEN).unwrap_or(l1_len);
        let l1 = io.budget().zeroed(usize::try_from(l1_padded).unwrap_or(usize::MAX))?;
        let mut writer = Self {
            layout,
            virtual_size: header.virtual_size(),
            disk,
            capacity: capacity.min(layout.file_len_max()),
            l1,
            end,
            tables: Tables::default(),
            packing: pack::Packing::new(io.budget().half_of_heap()),
            header: Header::Existing(sector),
            l1_at: end,
            unused_end: end,
            is_preallocated: false,
            has_data_file: false,
        };
        writer.take(l1_space)?;
        Ok(writer)
    }

    /// The image's layout.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }
}

/// What a new state would lose, or can't be trusted to keep.
fn refuse(image: &Qcow2) -> Result<(), ExistingError> {
    let header = image.header();
    match header.snapshots().count {
        0 => {}
        count => return Err(ExistingError::Snapshots { count }),
    }
    if !image.bitmaps().is_empty() {
        return Err(ExistingError::Bitmaps);
    }
    if header.crypt() != Crypt::None {
        return Err(ExistingError::Encrypted);
    }
    if header.has_data_file() {
        return Err(ExistingError::DataFile);
    }
    if header.is_corrupt() {
        return Err(ExistingError::Corrupt);
    }
    if header.is_dirty() {
        return Err(ExistingError::Dirty);
    }
    Ok(())
}
