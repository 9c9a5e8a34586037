//! Where units go.

use super::UNIT;
use super::ledger::Ledger;
use super::stretch::Stretch;
use super::zero::{data_runs, is_zero};
use alloc::vec;
use alloc::vec::Vec;
use instar_abi::error::{Error, WriteError};
use instar_abi::request::DiskId;
use instar_io::{Action, BlockRequest};
use spin::Mutex;

/// Most bytes of one write.
const WRITE_LEN_MAX: u64 = super::STRETCH_UNITS as u64 * UNIT;

/// A new image.
pub struct Target {
    /// Its disk.
    pub disk: DiskId,
    /// Bytes that the disk may come to hold.
    pub capacity: u64,
    /// Virtual size in bytes.
    pub virtual_size: u64,
    /// Shortest run of zeros that becomes a hole; 0: none does.
    pub sparse_len: u32,
    /// Its format.
    pub format: Format,
}

/// What differs between formats.
pub enum Format {
    /// A unit goes where it is on the disk.
    Raw,
    /// A unit is a cluster, and clusters are handed out in order.
    Qcow2(Mutex<Ledger>),
}

/// What is left of a stretch: units that are written as soon as their place is known.
pub struct Kept {
    number: u64,
    starts: Vec<u64>,
    units: Vec<Vec<u8>>,
}

/// What is written for a stretch.
pub struct Writes {
    /// Units and parts of units: their buffers are the lane's.
    pub content: Vec<BlockRequest>,
    /// Tables that are complete: their buffers are not.
    pub tables: Vec<BlockRequest>,
}

fn write(disk: DiskId, offset: u64, bytes: Vec<u8>) -> BlockRequest {
    BlockRequest { disk: disk.0, action: Action::Write, offset, segments: vec![bytes] }
}

/// Writes of neighbouring bytes, joined.
struct Joined {
    disk: DiskId,
    requests: Vec<BlockRequest>,
}

impl Joined {
    fn push(&mut self, offset: u64, bytes: Vec<u8>) {
        if let Some(last) = self.requests.last_mut()
            && last.offset.checked_add(last.len()) == Some(offset)
            && last.len() < WRITE_LEN_MAX
        {
            last.segments.push(bytes);
            return;
        }
        self.requests.push(write(self.disk, offset, bytes));
    }
}

impl Target {
    /// Decides which units of a stretch are written; the buffers of the others go to `unused`.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn keep(&self, stretch: Stretch, units: Vec<Vec<u8>>, unused: &mut Vec<Vec<u8>>) -> Result<Kept, Error> {
        let Stretch { number, units: starts, .. } = stretch;
        let Format::Qcow2(ledger) = &self.format else { return Ok(Kept { number, starts, units }) };
        let mut kept =
            Kept { number, starts: Vec::with_capacity(starts.len()), units: Vec::with_capacity(units.len()) };
        for (start, unit) in starts.into_iter().zip(units) {
            if self.sparse_len != 0 && is_zero(&unit) {
                unused.push(unit);
            } else {
                kept.starts.push(start);
                kept.units.push(unit);
            }
        }
        ledger.lock().deposit(number, kept.starts.clone())?;
        Ok(kept)
    }

    /// The writes of a stretch, and in `unused` the buffers that nothing is written from; the stretch again while its
    /// clusters are not known.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn writes(&self, kept: Kept, unused: &mut Vec<Vec<u8>>) -> Result<Result<Writes, Kept>, Error> {
        let mut joined = Joined { disk: self.disk, requests: Vec::new() };
        let mut tables = Vec::new();
        match &self.format {
            Format::Raw => {
                for (start, unit) in kept.starts.iter().zip(kept.units) {
                    self.write_raw(*start, unit, &mut joined, unused)?;
                }
            }
            Format::Qcow2(ledger) => {
                let Some(placed) = ledger.lock().collect(kept.number) else { return Ok(Err(kept)) };
                for (placed, unit) in placed.into_iter().zip(kept.units) {
                    if let Some((offset, table)) = placed.table {
                        tables.push(write(self.disk, offset, table));
                    }
                    joined.push(placed.offset, unit);
                }
            }
        }
        Ok(Ok(Writes { content: joined.requests, tables }))
    }

    fn write_raw(
        &self,
        start: u64,
        unit: Vec<u8>,
        joined: &mut Joined,
        unused: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let len = self.virtual_size.saturating_sub(start).min(UNIT);
        let end = start.saturating_add(len);
        if end > self.capacity {
            return Err(Error::Write(WriteError::Capacity { disk: self.disk, end }));
        }
        let bytes = unit.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
        let sparse_len = usize::try_from(self.sparse_len).unwrap_or(usize::MAX);
        let runs = if sparse_len == 0 { Vec::new() } else { data_runs(bytes, sparse_len) };
        let whole = sparse_len == 0 || runs.first().is_some_and(|run| run.len() == bytes.len());
        if whole && bytes.len() == unit.len() {
            joined.push(start, unit);
            return Ok(());
        }
        if whole {
            joined.push(start, bytes.to_vec());
            unused.push(unit);
            return Ok(());
        }
        for run in runs {
            let offset = start.saturating_add(run.start as u64);
            joined.push(offset, unit.get(run).unwrap_or_default().to_vec());
        }
        unused.push(unit);
        Ok(())
    }
}
