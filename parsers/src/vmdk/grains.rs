//! Sparse extents: grains that are found through a directory and its tables.
//!
//! ```text
//! hosted (KDMV)   32-bit entries, sectors; grains as they are, or zlib streams behind markers
//! ESX (COWD)      32-bit entries, sectors; tables of 4096 entries
//! seSparse        64-bit entries, a nibble of type; numbers of tables and grains within their regions
//! ```

use super::wire::{self, CowdHeader, Footer, Header, SeHeader, SeVolatile, flag};
use crate::align;
use crate::image::{Codec, Extent, Kind, Layered, entry, padded_len};
use crate::store::ReadAt;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::request::DiskId;

/// Most entries of a hosted grain table, as in QEMU.
const HOSTED_ENTRIES_MAX: u32 = 512;
/// Entries of an ESX grain table.
const COWD_ENTRIES: u64 = 4096;
/// Most sectors of a grain, as in QEMU.
const GRAIN_SECTORS_MAX: u64 = 0x20_0000;
/// Most entries of the grain directory, as in QEMU.
const DIRECTORY_ENTRIES_MAX: u64 = 32 << 20;
/// Bytes of a grain's marker before its stream.
pub(super) const MARKER_LEN: u64 = 12;
/// What a stream may have more than its grain.
const STREAM_SLACK: u64 = 1024;
/// A 32-bit entry of a grain of zeros, where the image has such.
const ZERO: u64 = 1;

/// A sparse extent. Having one proves: grain and table sizes are within their bounds, and the directory lies within the file.
pub struct Grains {
    pub(super) layered: Layered,
    pub(super) disk: DiskId,
    /// Bytes of content.
    pub len: u64,
    /// Bytes of a grain.
    pub grain_size: u64,
    pub(super) table_entries: u64,
    pub(super) directory_offset: u64,
    pub(super) directory_entries: u64,
    pub(super) form: Form,
}

/// What entries say.
#[derive(Clone, Copy)]
pub enum Form {
    /// Of VMware's other programs.
    Hosted {
        /// An entry of 1 is a grain of zeros.
        has_zero_grains: bool,
        /// Bytes before each stream, where grains are compressed.
        compressed: Option<u64>,
    },
    /// Of ESX.
    Cowd,
    /// Space-efficient.
    SeSparse {
        /// Sector of the first table.
        tables: u64,
        /// Sector of the first grain.
        grains: u64,
    },
}

/// The numbers of any form, as its header says them, in sectors.
struct Geometry {
    sectors: u64,
    grain_sectors: u64,
    table_entries: u64,
    directory_offset: u64,
    directory_entries: u64,
}

impl Grains {
    /// A hosted extent by the header at its start, or by that of its footer.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn hosted(io: &mut dyn ReadAt, layered: Layered, disk: DiskId, first: Header) -> Result<Self, Error> {
        let header = if first.gd_offset.get() == wire::GD_AT_END { footer(io, layered, disk)? } else { first };
        let version = header.version.get();
        layered.check(version <= 3, BlockError::Version { found: version.into() })?;
        let table_entries = header.table_entries.get();
        let is_size = (1..=HOSTED_ENTRIES_MAX).contains(&table_entries);
        layered.field(Field::LowerTableSize, table_entries.into(), is_size)?;
        let (capacity, grain_sectors) = (header.capacity.get(), header.grain_sectors.get());
        let span = grain_sectors.saturating_mul(table_entries.into()).max(1);
        let grains_start = header.grain_offset.get().saturating_mul(SECTOR_LEN);
        let is_whole = grains_start <= padded_len(io, disk);
        layered.check(is_whole, BlockError::Truncated { structure: Structure::Table })?;
        let flags = header.flags.get();
        let marker_len = if flags & flag::MARKER == 0 { 0 } else { MARKER_LEN };
        let compressed = (header.compression.get() == wire::DEFLATE).then_some(marker_len);
        let geometry = Geometry {
            sectors: capacity,
            grain_sectors,
            table_entries: table_entries.into(),
            directory_offset: header.gd_offset.get(),
            directory_entries: capacity.div_ceil(span),
        };
        let form = Form::Hosted { has_zero_grains: flags & flag::ZERO_GRAIN != 0, compressed };
        Self::new(io, layered, disk, &geometry, form)
    }

    /// An extent of ESX.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn cowd(io: &mut dyn ReadAt, layered: Layered, disk: DiskId) -> Result<Self, Error> {
        let header: CowdHeader = io.read_wire(disk, 0)?;
        let geometry = Geometry {
            sectors: header.sectors.get().into(),
            grain_sectors: header.grain_sectors.get().into(),
            table_entries: COWD_ENTRIES,
            directory_offset: header.gd_offset.get().into(),
            directory_entries: header.gd_entries.get().into(),
        };
        Self::new(io, layered, disk, &geometry, Form::Cowd)
    }

    /// A space-efficient extent. All that is fixed must be as it is known to be: there is no specification.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn se_sparse(io: &mut dyn ReadAt, layered: Layered, disk: DiskId) -> Result<Self, Error> {
        let header: SeHeader = io.read_wire(disk, 0)?;
        let magic = BlockError::Magic { structure: Structure::Header };
        layered.check(header.magic.get() == wire::SE_MAGIC, magic)?;
        let version = header.version.get();
        layered.check(version == wire::SE_VERSION, BlockError::Version { found: version })?;
        let (grain_sectors, table_sectors) = (header.grain_sectors.get(), header.table_sectors.get());
        layered.field(Field::BlockSize, grain_sectors, grain_sectors == wire::SE_GRAIN_SECTORS)?;
        layered.field(Field::LowerTableSize, table_sectors, table_sectors == wire::SE_TABLE_SECTORS)?;
        let reserved = header.reserved.iter().map(|field| field.get()).find(|field| *field != 0);
        layered.field(Field::Reserved, reserved.unwrap_or(0), reserved.is_none() && header.padding == [0; 304])?;
        let at = header.volatile.offset.get().saturating_mul(SECTOR_LEN);
        let volatile: SeVolatile = io.read_wire(disk, at)?;
        let magic = BlockError::Magic { structure: Structure::VolatileHeader };
        layered.check(volatile.magic.get() == wire::SE_VOLATILE_MAGIC, magic)?;
        let replay = volatile.replay_journal.get();
        layered.field(Field::Journal, replay, replay == 0)?;
        layered.field(Field::Reserved, 0, volatile.padding == [0; 480])?;
        let geometry = Geometry {
            sectors: header.capacity.get(),
            grain_sectors,
            table_entries: entries_of(table_sectors),
            directory_offset: header.directory.offset.get(),
            directory_entries: entries_of(header.directory.len.get()),
        };
        let form = Form::SeSparse { tables: header.tables.offset.get(), grains: header.grains.offset.get() };
        Self::new(io, layered, disk, &geometry, form)
    }

    fn new(
        io: &mut dyn ReadAt,
        layered: Layered,
        disk: DiskId,
        geometry: &Geometry,
        form: Form,
    ) -> Result<Self, Error> {
        let Geometry { sectors, grain_sectors, table_entries, directory_offset, directory_entries } = *geometry;
        layered.field(Field::BlockSize, grain_sectors, (1..=GRAIN_SECTORS_MAX).contains(&grain_sectors))?;
        layered.field(Field::TableSize, directory_entries, directory_entries <= DIRECTORY_ENTRIES_MAX)?;
        let len = sectors.checked_mul(SECTOR_LEN).filter(|len| i64::try_from(*len).is_ok());
        let error = BlockError::Field { field: Field::VirtualSize, found: sectors };
        let len = len.ok_or(layered.error(error))?;
        let directory_offset = directory_offset.saturating_mul(SECTOR_LEN);
        let entry_len = if matches!(form, Form::SeSparse { .. }) { 8 } else { 4 };
        layered.table(io, disk, Structure::Table, (directory_offset, directory_entries, entry_len))?;
        let grain_size = grain_sectors.saturating_mul(SECTOR_LEN);
        Ok(Self { layered, disk, len, grain_size, table_entries, directory_offset, directory_entries, form })
    }

    /// Sizes are within their bounds, and the directory lies within the file and maps all that there is, but for the forms whose
    /// header says how long it is.
    ///
    /// # Panics
    /// They are not.
    #[cfg(any(test, feature = "invariants"))]
    pub fn check_grains(&self, io: &dyn ReadAt) {
        assert!((1..=GRAIN_SECTORS_MAX * SECTOR_LEN).contains(&self.grain_size), "grains of {} bytes", self.grain_size);
        assert!((1..=COWD_ENTRIES).contains(&self.table_entries), "{} entries", self.table_entries);
        let entry_len = if matches!(self.form, Form::SeSparse { .. }) { 8 } else { 4 };
        let end = self.directory_entries.checked_mul(entry_len).and_then(|len| len.checked_add(self.directory_offset));
        assert!(end.is_some_and(|end| end <= padded_len(io, self.disk)), "a directory to {end:?}");
        let grains = self.directory_entries.saturating_mul(self.table_entries);
        let is_mapped = grains.saturating_mul(self.grain_size) >= self.len;
        assert!(is_mapped || !matches!(self.form, Form::Hosted { .. }), "{grains} grains of {} bytes", self.len);
    }

    /// Whether grains are zlib streams.
    pub const fn is_compressed(&self) -> bool {
        matches!(self.form, Form::Hosted { compressed: Some(_), .. })
    }

    /// The grain that holds byte `at` of the extent, where it lies in the extent; a hole as long as its table would map.
    ///
    /// # Errors
    /// Those of the reads; a table is broken there.
    pub fn grain_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        let index = align::units(at, self.grain_size);
        // The last grain may be shorter than the others, as may be what the last table maps.
        let whole = |start: u64, size: u64| (start, size.min(self.len.saturating_sub(start)).max(1));
        let Some(table) = self.table(io, align::units(index, self.table_entries))? else {
            // One step for all that a table would map, or a small directory is a day's work.
            let span = self.grain_size.saturating_mul(self.table_entries);
            let (start, len) = whole(align::down(at, span), span);
            return Ok(Extent { start, len, kind: Kind::Hole });
        };
        let (start, len) = whole(index.saturating_mul(self.grain_size), self.grain_size);
        Ok(Extent { start, len, kind: self.grain(io, table, index, len)? })
    }

    /// Where a table is; `None`: nothing that it maps is here.
    fn table(&self, io: &mut dyn ReadAt, index: u64) -> Result<Option<u64>, Error> {
        let found = self.read_entry(io, self.directory_offset, index)?;
        let error = self.layered.error(BlockError::Entry { structure: Structure::Table, index, found });
        if index >= self.directory_entries {
            return Err(error);
        }
        match self.table_place(found) {
            Place::Nowhere | Place::Zero => Ok(None),
            Place::At(offset) if offset < io.len(self.disk) => Ok(Some(offset)),
            Place::At(_) | Place::Broken => Err(error),
        }
    }

    /// What a grain is. `len`: bytes of it that are content.
    fn grain(&self, io: &mut dyn ReadAt, table: u64, index: u64, len: u64) -> Result<Kind, Error> {
        let found = self.read_entry(io, table, align::within(index, self.table_entries))?;
        let error = BlockError::Entry { structure: Structure::LowerTable, index, found };
        let offset = match self.grain_place(found) {
            Place::Nowhere => return Ok(Kind::Hole),
            Place::Zero => return Ok(Kind::Zero),
            Place::At(offset) if offset < io.len(self.disk) => offset,
            Place::At(_) | Place::Broken => return Err(self.layered.error(error)),
        };
        let Form::Hosted { compressed: Some(marker_len), .. } = self.form else {
            return Ok(Kind::Data { disk: self.disk, offset });
        };
        // The stream tells its own end.
        let cluster_size = u32::try_from(len).unwrap_or(u32::MAX);
        let len = u32::try_from(self.grain_size.saturating_add(STREAM_SLACK)).unwrap_or(u32::MAX);
        let offset = offset.saturating_add(marker_len);
        Ok(Kind::Encoded { disk: self.disk, offset, len, padding: 0, codec: Codec::Zlib, cluster_size, skip: 0 })
    }

    /// Bytes of an entry, of either level.
    pub(super) const fn entry_len(&self) -> usize {
        if matches!(self.form, Form::SeSparse { .. }) { 8 } else { 4 }
    }

    fn read_entry(&self, io: &mut dyn ReadAt, table: u64, index: u64) -> Result<u64, Error> {
        Ok(match self.form {
            Form::SeSparse { .. } => u64::from_le_bytes(entry(io, self.disk, table, index)?),
            Form::Hosted { .. } | Form::Cowd => u32::from_le_bytes(entry(io, self.disk, table, index)?).into(),
        })
    }

    /// What an entry of the directory says.
    pub(super) fn table_place(&self, found: u64) -> Place {
        match self.form {
            _ if found == 0 => Place::Nowhere,
            Form::Hosted { .. } | Form::Cowd => Place::at(found),
            Form::SeSparse { tables, .. } => {
                let sector =
                    (found & u64::from(u32::MAX)).saturating_mul(wire::SE_TABLE_SECTORS).saturating_add(tables);
                let is_table = found >> 32 == 0x1000_0000 && u32::try_from(sector).is_ok();
                if is_table { Place::at(sector) } else { Place::Broken }
            }
        }
    }

    /// What an entry of a table says.
    pub(super) fn grain_place(&self, found: u64) -> Place {
        match self.form {
            _ if found == 0 => Place::Nowhere,
            Form::Hosted { has_zero_grains: true, .. } if found == ZERO => Place::Zero,
            Form::Hosted { .. } | Form::Cowd => Place::at(found),
            Form::SeSparse { grains, .. } => match found >> 60 {
                // Unmapped by the guest, or zeros.
                1 | 2 => Place::Zero,
                3 => {
                    // The number's lowest twelve bits stand above the others.
                    let number = found >> 48 & 0xfff | (found & 0xffff_ffff_ffff) << 12;
                    Place::at(number.saturating_mul(wire::SE_GRAIN_SECTORS).saturating_add(grains))
                }
                _ => Place::Broken,
            },
        }
    }
}

/// Where an entry leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing is here.
    Nowhere,
    /// Zeros.
    Zero,
    /// To this byte of the file, which may be past its end.
    At(u64),
    /// It makes no sense.
    Broken,
}

impl Place {
    const fn at(sector: u64) -> Self {
        Self::At(sector.saturating_mul(SECTOR_LEN))
    }
}

/// 64-bit entries in as many sectors.
const fn entries_of(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_LEN / 8)
}

/// The header at the end of a stream-optimized extent.
pub(super) fn footer(io: &mut dyn ReadAt, layered: Layered, disk: DiskId) -> Result<Header, Error> {
    let at = padded_len(io, disk).checked_sub(size_of::<Footer>() as u64);
    let at = at.ok_or(layered.error(BlockError::Truncated { structure: Structure::Footer }))?;
    let Footer { marker, header, end } = io.read_wire(disk, at)?;
    let is_footer = header.magic == wire::MAGIC
        && marker.len.get() == 0
        && marker.kind.get() == wire::MARKER_FOOTER
        && (end.value.get(), end.len.get(), end.kind.get()) == (0, 0, 0);
    layered.check(is_footer, BlockError::Magic { structure: Structure::StreamFooter })?;
    Ok(header)
}
