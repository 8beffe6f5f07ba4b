//! The global allocator: talc over pages of the frame allocator, taken as they are needed.

use crate::memory;
use crate::sync::RawLocal;
use abi::PAGE_SIZE;
use core::alloc::Layout;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// Pages taken at a time, so that a small heap is one piece.
const CHUNK: usize = 64;

/// Takes pages when the heap is full. They stay the heap's.
#[derive(Debug)]
pub struct Frames;

// SAFETY: it allocates nothing itself and claims only memory that is the heap's alone.
unsafe impl Source for Frames {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the heap's own bookkeeping besides the allocation.
        let needed = (layout.size() + layout.align() + PAGE_SIZE).div_ceil(PAGE_SIZE);
        let take = |pages: usize| Some((memory::take_pages(pages)?, pages));
        let (start, pages) = take(needed.max(CHUNK)).or_else(|| take(needed)).ok_or(())?;
        // SAFETY: the pages are fresh, mapped for good, and used by nobody else.
        unsafe { talc.claim(start.as_ptr(), pages * PAGE_SIZE) }.map(drop).ok_or(())
    }
}

/// The heap; usable once [`memory::init`] has run.
#[cfg_attr(target_os = "none", global_allocator)]
pub static HEAP: talc::TalcLock<RawLocal, Frames> = talc::TalcLock::new(Frames);
