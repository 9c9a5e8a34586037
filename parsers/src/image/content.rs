//! Small reads of what one image holds of a disk, cluster by cluster: for the few sectors that a table of partitions has.

use super::{Chain, Kind, Opened};
use crate::codec::{Codecs, Decoder};
use crate::partition::{Content, Unread};
use crate::store::ReadAt;
use instar_abi::request::LayerId;

/// An image's own content; what is below it is not looked at.
pub struct OwnContent<'a> {
    io: &'a mut dyn ReadAt,
    chain: Chain,
    decoder: Decoder,
}

impl<'a> OwnContent<'a> {
    /// The content of a layer that is not encrypted.
    #[must_use]
    pub fn new(io: &'a mut dyn ReadAt, id: LayerId, image: Opened) -> Self {
        Self { io, chain: Chain::top_alone(id, image), decoder: Codecs::SMALL.decoder() }
    }

    /// Fills the start of `buf`; the bytes filled, at least 1.
    fn read_extent(&mut self, at: u64, buf: &mut [u8]) -> Result<usize, Unread> {
        let end = at.saturating_add(buf.len() as u64);
        let extent = self.chain.map_top(self.io, at..end).map_err(|_| Unread::Failed)?.extent;
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..len).ok_or(Unread::Failed)?;
        match extent.kind {
            Kind::Hole | Kind::Reserved { .. } => return Err(Unread::Below),
            Kind::Zero => buf.fill(0),
            Kind::Data { disk, offset } => self.io.read_padded(disk, offset, buf).map_err(|_| Unread::Failed)?,
            Kind::Encoded { disk, offset, len: stream_len, padding, codec, cluster_size, skip } => {
                let failed = |_| Unread::Failed;
                let mut stream = self.io.read_vec(disk, offset, stream_len as usize).map_err(failed)?;
                stream.resize(stream.len().saturating_add(padding as usize), 0);
                let mut cluster = self.io.budget().zeroed(cluster_size as usize).map_err(failed)?;
                self.decoder.decode(codec, &stream, &mut cluster).map_err(|_| Unread::Failed)?;
                let content = cluster.get(skip as usize..).and_then(|rest| rest.get(..len)).ok_or(Unread::Failed)?;
                buf.copy_from_slice(content);
                self.io.budget().give_heap(u64::from(stream_len).saturating_add(cluster_size.into()));
            }
        }
        Ok(len)
    }
}

impl Content for OwnContent<'_> {
    fn size(&self) -> u64 {
        self.chain.virtual_size()
    }

    fn read(&mut self, mut at: u64, mut buf: &mut [u8]) -> Result<(), Unread> {
        let end = at.checked_add(buf.len() as u64).ok_or(Unread::Failed)?;
        if end > self.size() {
            return Err(Unread::Failed);
        }
        while !buf.is_empty() {
            let len = self.read_extent(at, buf)?;
            if len == 0 {
                return Err(Unread::Failed);
            }
            at = at.saturating_add(len as u64);
            buf = buf.get_mut(len..).unwrap_or_default();
        }
        Ok(())
    }
}
