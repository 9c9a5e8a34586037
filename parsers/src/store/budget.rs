//! What images may use up.

use alloc::vec::Vec;
use instar_abi::error::{Error, Resource};
use instar_abi::request;

/// What is left of a job's budget. Whatever an image asks for is drawn from it first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    heap_bytes: u64,
    read_bytes: u64,
    steps: u64,
    depth: u32,
}

impl From<request::Budget> for Budget {
    fn from(given: request::Budget) -> Self {
        Self { heap_bytes: given.heap_bytes, read_bytes: given.read_bytes, steps: given.steps, depth: given.depth }
    }
}

impl Budget {
    /// Pays for `bytes` of heap.
    ///
    /// # Errors
    /// [`Resource::Heap`] is used up.
    pub fn take_heap(&mut self, bytes: u64) -> Result<(), Error> {
        draw(&mut self.heap_bytes, bytes, Resource::Heap)
    }

    /// Gives back heap that was paid for and is free again.
    pub fn give_heap(&mut self, bytes: u64) {
        self.heap_bytes = self.heap_bytes.saturating_add(bytes);
    }

    /// Half of the heap that is left, as a budget of its own and nothing else in it: for someone who works beside.
    #[must_use]
    pub fn half_of_heap(&mut self) -> Self {
        let half = self.heap_bytes.div_ceil(2);
        self.heap_bytes = self.heap_bytes.saturating_sub(half);
        Self { heap_bytes: half, read_bytes: 0, steps: 0, depth: 0 }
    }

    /// Pays for `bytes` read from a disk.
    ///
    /// # Errors
    /// [`Resource::ReadBytes`] is used up.
    pub fn take_read(&mut self, bytes: u64) -> Result<(), Error> {
        draw(&mut self.read_bytes, bytes, Resource::ReadBytes)
    }

    /// Pays for `count` turns of a loop over image structures.
    ///
    /// # Errors
    /// [`Resource::Steps`] is used up.
    pub fn take_steps(&mut self, count: u64) -> Result<(), Error> {
        draw(&mut self.steps, count, Resource::Steps)
    }

    /// Pays for one more layer of a chain.
    ///
    /// # Errors
    /// [`Resource::Depth`] is used up.
    pub fn take_layer(&mut self) -> Result<(), Error> {
        self.depth = self.depth.checked_sub(1).ok_or(Error::OutOfBudget(Resource::Depth))?;
        Ok(())
    }

    /// `len` zero bytes, paid for; an allocator that can't give them is the same error.
    ///
    /// # Errors
    /// [`Resource::Heap`] is used up.
    pub fn zeroed(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        self.take_heap(len as u64)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::OutOfBudget(Resource::Heap))?;
        bytes.resize(len, 0);
        Ok(bytes)
    }
}

fn draw(left: &mut u64, amount: u64, resource: Resource) -> Result<(), Error> {
    *left = left.checked_sub(amount).ok_or(Error::OutOfBudget(resource))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_exactly_what_it_holds() {
        let given = request::Budget { heap_bytes: 10, read_bytes: 5, steps: 2, depth: 1 };
        let mut budget = Budget::from(given);
        assert_eq!(budget.zeroed(10), Ok(vec![0; 10]));
        assert_eq!(budget.take_heap(1), Err(Error::OutOfBudget(Resource::Heap)));
        budget.give_heap(4);
        assert_eq!(budget.take_heap(5), Err(Error::OutOfBudget(Resource::Heap)));
        assert_eq!(budget.take_heap(4), Ok(()));
        assert_eq!(budget.take_read(6), Err(Error::OutOfBudget(Resource::ReadBytes)));
        assert_eq!(budget.take_read(5), Ok(()));
        assert_eq!(budget.take_steps(2), Ok(()));
        assert_eq!(budget.take_steps(1), Err(Error::OutOfBudget(Resource::Steps)));
        assert_eq!(budget.take_layer(), Ok(()));
        assert_eq!(budget.take_layer(), Err(Error::OutOfBudget(Resource::Depth)));
    }
}
