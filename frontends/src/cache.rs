//! Blocks of a disk in memory, for readers that cannot wait.
//!
//! `ext4-view` reads synchronously and a disk answers asynchronously. So a reader looks only here, and where a block
//! is missing it fails and leaves a note; the caller then fetches what the note says and runs the reader again
//! ([`Files::read_with`](crate::files::Files::read_with)).

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;

/// Bytes of a cached block.
pub const BLOCK: usize = 4096;

#[derive(Debug)]
struct Inner {
    blocks: BTreeMap<u64, Box<[u8]>>,
    /// The blocks in the order they came, oldest first.
    order: VecDeque<u64>,
    capacity: usize,
    /// Bytes of the device.
    size: u64,
    missing: Option<Range<u64>>,
}

/// A bounded set of blocks, oldest out first. Clones are the same cache.
#[derive(Clone, Debug)]
pub struct Cache(Rc<RefCell<Inner>>);

/// A block that a read needs is not here; what is missing was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing;

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("block not in the cache")
    }
}
impl core::error::Error for Missing {}

/// A read beyond the end of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeyondEnd;

impl fmt::Display for BeyondEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("read beyond the end of the device")
    }
}
impl core::error::Error for BeyondEnd {}

impl Cache {
    /// An empty cache of at most `capacity` blocks, at least 1, of a device of `size` bytes.
    pub fn new(capacity: usize, size: u64) -> Self {
        let (blocks, order) = (BTreeMap::new(), VecDeque::new());
        let capacity = capacity.max(1);
        Self(Rc::new(RefCell::new(Inner { blocks, order, capacity, size, missing: None })))
    }

    /// Copies out the bytes at `start`, if all of their blocks are here.
    pub fn read(&self, start: u64, out: &mut [u8]) -> Result<Result<(), Missing>, BeyondEnd> {
        let mut inner = self.0.borrow_mut();
        let end = start.checked_add(out.len() as u64).filter(|end| *end <= inner.size).ok_or(BeyondEnd)?;
        let blocks = start / BLOCK as u64..end.div_ceil(BLOCK as u64);
        if blocks.clone().any(|block| !inner.blocks.contains_key(&block)) {
            inner.missing = Some(blocks);
            return Ok(Err(Missing));
        }
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let within = (at % BLOCK as u64) as usize;
            let data = inner.blocks.get(&(at / BLOCK as u64)).and_then(|block| block.get(within..));
            let data = data.ok_or(BeyondEnd)?;
            let (now, later) = rest.split_at_mut(rest.len().min(data.len()));
            now.copy_from_slice(data.get(..now.len()).ok_or(BeyondEnd)?);
            at += now.len() as u64;
            rest = later;
        }
        Ok(Ok(()))
    }

    /// Takes the note of what the last failed read needs: block numbers.
    pub fn take_missing(&self) -> Option<Range<u64>> {
        self.0.borrow_mut().missing.take()
    }

    /// Which blocks to fetch for `missing`: those, and up to `ahead` in all, as far as they are not here and the
    /// device has them.
    pub fn plan(&self, missing: Range<u64>, ahead: u64) -> Range<u64> {
        let inner = self.0.borrow();
        let absent = |block: &u64| !inner.blocks.contains_key(block);
        let first = missing.clone().find(absent).unwrap_or(missing.start);
        let most = ahead.max(missing.end - first).min(inner.capacity as u64);
        let last = inner.size.div_ceil(BLOCK as u64).min(first + most);
        first..(first..last).take_while(absent).last().map_or(first, |block| block + 1)
    }

    /// Puts in blocks from `first` on; a last one may be short, at the end of the device.
    pub fn insert(&self, first: u64, data: &[u8]) {
        let mut inner = self.0.borrow_mut();
        for (block, bytes) in (first..).zip(data.chunks(BLOCK)) {
            if inner.blocks.insert(block, Vec::from(bytes).into_boxed_slice()).is_none() {
                inner.order.push_back(block);
            }
            if inner.order.len() > inner.capacity
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.blocks.remove(&oldest);
            }
        }
    }

    /// Bytes of the device.
    pub fn size(&self) -> u64 {
        self.0.borrow().size
    }

    /// Blocks held.
    pub fn len(&self) -> usize {
        self.0.borrow().order.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_miss_says_what_to_fetch_and_then_hits() {
        let cache = Cache::new(8, 10 * BLOCK as u64);
        let mut out = vec![0; 10];
        let at = 2 * BLOCK as u64 - 5;
        assert_eq!(cache.read(at, &mut out), Ok(Err(Missing)));
        let missing = cache.take_missing().unwrap();
        assert_eq!((missing.clone(), cache.take_missing()), (1..3, None));
        assert_eq!(cache.plan(missing.clone(), 4), 1..5);
        let data: Vec<u8> = (0..2 * BLOCK).map(|i| (i % 251) as u8).collect();
        cache.insert(1, &data);
        assert_eq!(cache.read(at, &mut out), Ok(Ok(())));
        assert_eq!(out, data[BLOCK - 5..BLOCK + 5]);
        assert_eq!(cache.plan(missing, 4), 1..1, "nothing is missing any more");
    }

    #[test]
    fn a_plan_stops_at_what_is_here_at_the_end_and_at_the_capacity() {
        let cache = Cache::new(4, 10 * BLOCK as u64 - 1);
        cache.insert(3, &[0; BLOCK]);
        assert_eq!(cache.plan(1..2, 32), 1..3);
        assert_eq!(cache.plan(8..9, 32), 8..10);
        assert_eq!(cache.plan(4..5, 32), 4..8);
        assert_eq!(cache.plan(3..5, 1), 4..5);
    }

    #[test]
    fn the_oldest_goes_first_and_the_end_is_the_end() {
        let cache = Cache::new(2, 3 * BLOCK as u64 - 100);
        cache.insert(0, &[1; 2 * BLOCK]);
        cache.insert(2, &[2; BLOCK - 100]);
        let mut byte = [0];
        assert_eq!(cache.read(0, &mut byte), Ok(Err(Missing)));
        assert_eq!(cache.read(3 * BLOCK as u64 - 101, &mut byte), Ok(Ok(())));
        assert_eq!(cache.read(3 * BLOCK as u64 - 100, &mut byte), Err(BeyondEnd));
        assert_eq!(cache.read(u64::MAX, &mut [0; 2]), Err(BeyondEnd));
        assert_eq!(cache.len(), 2);
    }
}
