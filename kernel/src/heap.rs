//! The core's heap: small things of domains. It starts with memory of the boot-time allocator and grows by blocks of
//! frames, which it keeps.
//!
//! A block is taken with the heap's lock held. That is sound since whoever hands out frames allocates nothing, and
//! since a CPU that waits for this lock serves flushes meanwhile.

use core::alloc::Layout;

use abi::PAGE_SIZE;
use talc::TalcLock;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

use crate::lock::SpinLock;
use crate::{machine, physical};

#[global_allocator]
static HEAP: TalcLock<SpinLock, Frames> = TalcLock::new(Frames);

/// Pages that it grows by, at least, where there are as many in one piece.
const GROWTH: usize = 16;
/// What the heap itself needs of a block, at most.
const OVERHEAD: usize = 64;

/// Gives the heap its first memory.
pub fn init(address: u64, bytes: u64) {
    // SAFETY: the memory was taken from the boot-time allocator for this and belongs to nobody else.
    unsafe { HEAP.lock().claim(physical::at(address), bytes as usize) };
}

/// Bytes that the heap has, and those that are in use.
pub fn size() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.counters().claimed_bytes, heap.counters().allocated_bytes)
}

/// Where the heap gets more: frames of the core's own.
#[derive(Debug)]
struct Frames;

// SAFETY: neither taking frames nor the flush that may need allocates, so this heap is not entered again.
unsafe impl Source for Frames {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let needed = layout.size().checked_add(layout.align() + OVERHEAD).ok_or(())?.div_ceil(PAGE_SIZE);
        let order = |pages: usize| pages.next_power_of_two().ilog2() as u8;
        let frames = |pages| machine::core_if_made()?.take_frames(order(pages), u64::MAX).map(|frame| (frame, pages));
        let (first, pages) = frames(needed.max(GROWTH)).or_else(|| frames(needed)).ok_or(())?;
        let (at, bytes) = (physical::at(first.mfn().maddr().0), PAGE_SIZE << order(pages));
        // SAFETY: the frames were free, and are the core's from now on; nothing else knows them.
        unsafe { talc.claim(at, bytes) }.map(drop).ok_or(())
    }
}
