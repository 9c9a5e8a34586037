//! A lane's buffers, each of one unit, made when first needed and used again.

use super::UNIT;
use alloc::vec::Vec;
use instar_abi::error::{Error, Resource};

/// Unit buffers; as many as ever existed at a time are kept.
#[derive(Default)]
pub struct Buffers {
    free: Vec<Vec<u8>>,
    out: usize,
}

impl Buffers {
    /// A buffer of a unit, with anything in it.
    ///
    /// # Errors
    /// [`Resource::Heap`].
    pub fn take(&mut self) -> Result<Vec<u8>, Error> {
        let buffer = match self.free.pop() {
            Some(buffer) => buffer,
            None => {
                let mut buffer = Vec::new();
                buffer.try_reserve_exact(UNIT as usize).map_err(|_| Error::OutOfBudget(Resource::Heap))?;
                buffer.resize(UNIT as usize, 0);
                buffer
            }
        };
        self.out = self.out.saturating_add(1);
        Ok(buffer)
    }

    /// Takes a buffer back; other vectors are dropped.
    pub fn give(&mut self, buffer: Vec<u8>) {
        if buffer.len() == UNIT as usize {
            self.out = self.out.saturating_sub(1);
            self.free.push(buffer);
        }
    }

    /// Buffers that are out.
    pub const fn out(&self) -> usize {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let mut buffers = Buffers::default();
        let (first, second) = (buffers.take().unwrap(), buffers.take().unwrap());
        assert_eq!(buffers.out(), 2);
        buffers.give(vec![0; 512]);
        assert_eq!(buffers.out(), 2);
        buffers.give(first);
        buffers.give(second);
        assert_eq!((buffers.out(), buffers.free.len()), (0, 2));
        buffers.take().unwrap();
        assert_eq!((buffers.out(), buffers.free.len()), (1, 1));
    }
}
