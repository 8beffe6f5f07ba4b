//! The global allocator: talc over pages of the frame allocator, taken as they are needed.

use crate::memory;
use crate::sync::RawLocal;
use abi::PAGE_SIZE;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
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

/// Counts the bytes that are in use.
pub struct Heap(talc::TalcLock<RawLocal, Frames>);

impl core::fmt::Debug for Heap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Heap({} bytes)", used())
    }
}

static USED: AtomicUsize = AtomicUsize::new(0);

/// Bytes allocated and not freed.
pub fn used() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Nothing else runs meanwhile: a domain has one vCPU, and events do not interrupt.
fn count(more: usize, less: usize) {
    USED.store(used().wrapping_add(more).wrapping_sub(less), Ordering::Relaxed);
}

// SAFETY: talc's, but for the count.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let memory = unsafe { self.0.alloc(layout) };
        count(if memory.is_null() { 0 } else { layout.size() }, 0);
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { self.0.dealloc(memory, layout) };
        count(0, layout.size());
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        let moved = unsafe { self.0.realloc(memory, layout, size) };
        if !moved.is_null() {
            count(size, layout.size());
        }
        moved
    }
}

/// The heap; usable once [`memory::init`] has run.
#[cfg_attr(target_os = "none", global_allocator)]
pub static HEAP: Heap = Heap(talc::TalcLock::new(Frames));
