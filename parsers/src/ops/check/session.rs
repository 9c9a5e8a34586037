//! What a check reads through and tells to: the job's disks and the launcher.

use crate::image::Findings;
use crate::ops::Reply;
use crate::store::{Budget, Cache, Part, Queue, ReadAt, Store};
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::check::{Checked, FINDINGS_MAX, Finding, TOLD_MAX};
use instar_abi::error::Error;
use instar_abi::reply::Frame;
use instar_abi::request::{DiskId, HostExtent, Request};
use instar_io::Env;

/// A check as it reads and tells. Nothing is in flight between two reads.
pub struct Session<'a, E: Env> {
    request: &'a Request,
    env: &'a mut E,
    cache: Cache,
    budget: Budget,
    /// The part of its disk that the image is.
    part: Option<Part>,
    reply: Reply,
    findings: Vec<Finding>,
    told: u64,
    untold: u64,
}

impl<'a, E: Env> Session<'a, E> {
    pub fn new(request: &'a Request, env: &'a mut E) -> Self {
        let (cache, budget) = (Cache::new(), Budget::from(request.budget));
        let (reply, findings) = (Reply::default(), Vec::new());
        Self { request, env, cache, budget, part: None, reply, findings, told: 0, untold: 0 }
    }

    /// From now on a part stands for the whole of its disk.
    pub fn set_part(&mut self, part: Part) {
        self.part = Some(part);
    }

    /// Sends what is left; the check as it came out.
    pub fn finish(mut self, checked: Checked) -> Result<Checked, Error> {
        self.send()?;
        self.reply.flush(self.env)?;
        Ok(Checked { untold: self.untold, ..checked })
    }

    fn send(&mut self) -> Result<(), Error> {
        let findings = core::mem::take(&mut self.findings);
        if findings.is_empty() { Ok(()) } else { self.reply.push(self.env, &Frame::Findings(findings)) }
    }

    fn with_store<T>(&mut self, work: impl FnOnce(&mut dyn ReadAt) -> T) -> T {
        let mut queue = Queue::new(self.env.lane());
        let (cache, budget, disks) = (&mut self.cache, &mut self.budget, &self.request.disks[..]);
        let mut store = Store { queue: &mut queue, cache, budget, disks };
        match self.part {
            Some(part) => work(&mut part.view(&mut store)),
            None => work(&mut store),
        }
    }
}

impl<E: Env> ReadAt for Session<'_, E> {
    fn len(&self, disk: DiskId) -> u64 {
        match self.part {
            Some(part) if part.disk == disk => part.len,
            _ => {
                usize::try_from(disk.0).ok().and_then(|index| self.request.disks.get(index)).map_or(0, |disk| disk.len)
            }
        }
    }

    fn read_at(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.with_store(|store| store.read_at(disk, offset, buf))
    }

    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error> {
        self.with_store(|store| store.prefetch(ranges))
    }

    fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    fn host_data(&self, disk: DiskId) -> Option<&[HostExtent]> {
        let index = usize::try_from(disk.0).ok()?;
        self.request.disks.get(index)?.data.as_deref()
    }

    fn host_allocated(&self, disk: DiskId) -> Option<u64> {
        let index = usize::try_from(disk.0).ok()?;
        self.request.disks.get(index)?.allocated
    }
}

impl<E: Env> Findings for Session<'_, E> {
    fn read_each(&mut self, disk: DiskId, offsets: &[u64], len: usize) -> Result<Vec<Vec<u8>>, Error> {
        let part = self.part.filter(|part| part.disk == disk);
        let part = part.unwrap_or(Part { disk, offset: 0, len: self.len(disk) });
        let shifted: Vec<u64> = offsets.iter().map(|at| part.offset.saturating_add((*at).min(part.len))).collect();
        let mut queue = Queue::new(self.env.lane());
        let (cache, budget, disks) = (&mut self.cache, &mut self.budget, &self.request.disks[..]);
        let mut all = Store { queue: &mut queue, cache, budget, disks }.read_each(disk, &shifted, len)?;
        for (offset, bytes) in offsets.iter().zip(&mut all) {
            // The disk may go on behind the part.
            let inside = usize::try_from(part.len.saturating_sub(*offset)).unwrap_or(usize::MAX);
            bytes.get_mut(inside..).unwrap_or_default().fill(0);
        }
        Ok(all)
    }

    fn tell_often(&mut self, finding: Finding, times: u64) -> Result<(), Error> {
        let told = times.min(TOLD_MAX.saturating_sub(self.told));
        self.told = self.told.saturating_add(told);
        self.untold = self.untold.saturating_add(times.saturating_sub(told));
        for _ in 0..told {
            self.findings.push(finding.clone());
            if self.findings.len() >= FINDINGS_MAX {
                self.send()?;
            }
        }
        Ok(())
    }
}
