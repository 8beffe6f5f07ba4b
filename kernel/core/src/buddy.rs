//! The free frames: a buddy allocator over the frame table.
//!
//! Free blocks are kept by zone (below 4 GiB, which old devices can reach, and above) and by order. A block remembers
//! the latest flush stamp of its frames; whoever takes it flushes the TLBs that have not been flushed since. So a
//! frame that is handed out is remembered by no TLB, and a run of frames costs one flush at most.

use abi::Mfn;

use crate::frame::{FrameTable, List};
use crate::{Core, Flush, Frame, Owner, Platform, State};

/// Blocks are of `1 << order` frames, order 0 to 18 (1 GiB).
pub const MAX_ORDER: u8 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// The first frame of the upper zone.
const ZONE_SPLIT: u64 = 1 << 20;
/// How many blocks of an order are looked at for one below an address limit inside a zone.
const SCAN: usize = 4096;

/// The free blocks.
pub struct Blocks {
    lists: [[List; ORDERS]; 2],
    /// The orders that have a block, a bit each.
    have: [u32; 2],
    frames: u64,
    scatter: bool,
}

fn zone(frame: Frame) -> usize {
    usize::from(frame.mfn().0 >= ZONE_SPLIT)
}

impl Blocks {
    /// Nothing free yet. With `scatter`, frames are handed out one by one in a scattered order, and no larger block
    /// ever: a test that nothing relies on neighbours.
    pub fn new(scatter: bool) -> Self {
        Self { lists: [[List::EMPTY; ORDERS]; 2], have: [0; 2], frames: 0, scatter }
    }

    fn push(&mut self, table: &FrameTable, block: Frame, order: u8, stamp: u32) {
        table.info(block).set_owner(Owner::Free(Some(order)));
        table.info(block).set_stamp(stamp);
        self.lists[zone(block)][usize::from(order)].push(table, block);
        self.have[zone(block)] |= 1 << order;
    }

    fn unlink(&mut self, table: &FrameTable, block: Frame, order: u8) {
        let list = &mut self.lists[zone(block)][usize::from(order)];
        list.unlink(table, block);
        if list.first(table).is_none() {
            self.have[zone(block)] &= !(1 << order);
        }
        table.info(block).set_owner(Owner::Free(None));
    }

    /// Puts a block back, and makes one of it and its neighbours.
    fn free(&mut self, table: &FrameTable, mut block: Frame, mut order: u8, mut stamp: u32) {
        self.frames += 1 << order;
        table.info(block).set_owner(Owner::Free(None));
        while order < MAX_ORDER && !self.scatter {
            let Some(buddy) = table.known(block.mfn().0 ^ 1 << order) else { break };
            let info = table.info(buddy);
            if info.owner() != Owner::Free(Some(order)) {
                break;
            }
            let now = table.clock.stamp();
            if now.wrapping_sub(info.stamp()) < now.wrapping_sub(stamp) {
                stamp = info.stamp();
            }
            self.unlink(table, buddy, order);
            block = block.min(buddy);
            order += 1;
        }
        self.push(table, block, order, stamp);
    }

    /// Takes a block whose frames are all below `limit`; returns its first frame and its stamp.
    fn take(&mut self, table: &FrameTable, order: u8, limit: u64) -> Option<(Frame, u32)> {
        let zones: &[usize] = if limit > ZONE_SPLIT { &[1, 0] } else { &[0] };
        for &zone in zones {
            let mut orders = self.have[zone] & u32::MAX << order;
            while orders != 0 {
                let have = orders.trailing_zeros() as u8;
                orders &= orders - 1;
                let list = self.lists[zone][usize::from(have)];
                let fits = |block: &Frame| block.mfn().0 + (1 << order) <= limit;
                let Some(block) = list.iter(table).take(SCAN).find(fits) else { continue };
                self.unlink(table, block, have);
                let stamp = table.info(block).stamp();
                for half in (order..have).rev() {
                    let upper = table.get(Mfn(block.mfn().0 + (1 << half)))?;
                    self.push(table, upper, half, stamp);
                }
                self.frames -= 1 << order;
                return Some((block, stamp));
            }
        }
        None
    }
}

impl<P: Platform> Core<P> {
    /// How many frames are free.
    pub fn free_frames(&self) -> u64 {
        self.free.lock().frames
    }

    /// Gives frames to the allocator while the machine starts: `count` from `first` on, all of which
    /// [`FrameTable::add_ram`] knows.
    pub fn add_free(&self, first: Mfn, count: u64) {
        let mut blocks = self.free.lock();
        let frames = |at: u64, count: u64| (at..at + count).filter_map(|mfn| self.frames.get(Mfn(mfn)));
        for info in frames(first.0, count).map(|frame| self.frames.info(frame)) {
            info.reset(0);
            info.set_owner(Owner::Free(None));
        }
        if blocks.scatter {
            // One by one, each step's bits in reverse: every frame once, far apart.
            let unused = count.next_power_of_two().leading_zeros() + 1;
            let steps = (0..count.next_power_of_two()).map(|step| step.reverse_bits().checked_shr(unused).unwrap_or(0));
            let scattered = steps.filter(|at| *at < count).flat_map(|at| frames(first.0 + at, 1));
            return scattered.for_each(|frame| blocks.free(&self.frames, frame, 0, 0));
        }
        let (mut at, end) = (first.0, first.0 + count);
        while at < end {
            let order = at.trailing_zeros().min((end - at).ilog2()).min(u32::from(MAX_ORDER)) as u8;
            frames(at, 1).for_each(|frame| blocks.free(&self.frames, frame, order, 0));
            at += 1 << order;
        }
    }

    /// Takes a block of `1 << order` free frames below `limit`, which the caller makes somebody's. Nothing in it is
    /// cleared; no TLB remembers it. Until then their owner is the core. Allocates nothing, since the heap grows by it.
    pub fn take_frames(&self, order: u8, limit: u64) -> Option<Frame> {
        let taken = self.free.lock().take(&self.frames, order, limit);
        let (block, stamp) = taken?;
        self.frames.block(block, order).for_each(|frame| self.frames.info(frame).set_owner(Owner::Core));
        self.flush(self.stale(self.online(), stamp), Flush::All);
        Some(block)
    }

    /// Gives back a frame that nothing refers to.
    pub(crate) fn free_frame(&self, frame: Frame) {
        self.free_into(&mut self.free.lock(), frame);
    }

    /// The same, for who has the free blocks.
    pub(crate) fn free_into(&self, blocks: &mut Blocks, frame: Frame) {
        let info = self.frames.info(frame);
        debug_assert_eq!(info.state().refs(), 0);
        info.reset(State(0).0);
        self.dma_changed(frame);
        self.platform.set_m2p(frame.mfn(), u64::MAX);
        let stamp = self.frames.clock.stamp();
        blocks.free(&self.frames, frame, 0, stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PageInfo;
    use alloc::boxed::Box;
    use alloc::collections::BTreeSet;

    /// Nothing free of the frames below 4 GiB and of some above; and the flush clock's stamps at two moments.
    fn machine() -> (FrameTable, Blocks, [u32; 2]) {
        let infos = (0..ZONE_SPLIT + 16).map(|_| PageInfo::default()).collect();
        let table = FrameTable::new(Box::leak(infos), &[]);
        let early = table.clock.stamp();
        table.clock.flush_begins();
        let stamps = [early, table.clock.stamp()];
        assert_ne!(stamps[0], stamps[1]);
        (table, Blocks::new(false), stamps)
    }

    #[test]
    fn blocks_go_to_whom_they_fit_and_grow_again() {
        let (table, mut blocks, [early, late]) = machine();
        let frame = |mfn| table.add_ram(Mfn(mfn)).unwrap();
        // What old devices can reach is spared; so is what is out of reach for who asks.
        for mfn in [64, ZONE_SPLIT, ZONE_SPLIT + 8] {
            blocks.free(&table, frame(mfn), 0, early);
        }
        let [one, two, three] = [64, ZONE_SPLIT, ZONE_SPLIT + 8].map(frame);
        let mut take = |limit| blocks.take(&table, 0, limit).map(|(block, _)| block);
        assert_eq!([take(64), take(ZONE_SPLIT + 1), take(ZONE_SPLIT + 8)], [None, Some(two), Some(one)]);
        assert_eq!([take(ZONE_SPLIT + 8), take(u64::MAX), take(u64::MAX)], [None, Some(three), None]);
        // Neighbours become one, whichever is freed last, with the later stamp of both.
        for (first, second, stamps) in [(64, 65, [early, late]), (65, 64, [late, early]), (64, 65, [late, early])] {
            blocks.free(&table, frame(first), 0, stamps[0]);
            blocks.free(&table, frame(second), 0, stamps[1]);
            assert_eq!([65, 66].map(|limit| blocks.take(&table, 1, limit)), [None, Some((frame(64), late))]);
        }
        // But no block is larger than the largest.
        let size = 1 << MAX_ORDER;
        for mfn in [0, size] {
            blocks.free(&table, frame(mfn), MAX_ORDER, early);
        }
        assert_eq!(blocks.frames, 2 * size);
        let taken = [(); 3].map(|()| blocks.take(&table, MAX_ORDER, u64::MAX).map(|(block, _)| block.mfn().0));
        assert_eq!((taken, blocks.frames), ([Some(0), Some(size), None], 0));
    }

    #[test]
    fn scattered_frames_are_those_that_were_given() {
        let core = crate::testing::core_with::<512>(128, 1, true);
        let take_all = || core::iter::from_fn(|| core.take_frames(0, u64::MAX).map(|it| it.mfn().0)).collect();
        let all: BTreeSet<u64> = take_all();
        let first = all.iter().copied().find(|at| (1..4).all(|n| all.contains(&(at + n)))).unwrap();
        core.add_free(Mfn(first), 3);
        assert_eq!(take_all(), BTreeSet::from([first, first + 1, first + 2]));
    }
}
