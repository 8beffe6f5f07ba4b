//! Frames of other domains, mapped by right and not by grant: for the toolstack.

use crate::hypercall;
use crate::memory::Window;
use crate::page::ring_memory;
use crate::raw::SharedRange;
use abi::mmu::uvmf;
use abi::{DomId, Errno, Mfn, PAGE_SIZE, Pte, PteFlags};
use core::mem::ManuallyDrop;
use ring_proto::memory::RingMemory;
use ring_proto::sync::AtomicU32;

/// Consecutive addresses that show frames of another domain, until dropped.
#[derive(Debug)]
pub struct Foreign {
    range: SharedRange,
    /// Kept reserved if unmapping fails.
    window: ManuallyDrop<Window>,
}

impl Foreign {
    /// Maps frames of `owner`, writable: all of them or none. A frame that `owner` uses as a page table is refused.
    pub fn new(owner: DomId, frames: &[Mfn]) -> Result<Self, Errno> {
        let window = Window::reserve(frames.len()).map_err(|_| Errno::ENOMEM)?;
        let mapped = window.map(0, frames.iter().copied(), PteFlags::NONE, owner);
        // SAFETY: a fresh range that is this value's alone; it is used only if every page of it was mapped.
        let range = unsafe { SharedRange::new(window.address(0).0 as *mut u8, frames.len() * PAGE_SIZE) };
        let foreign = Self { range, window: ManuallyDrop::new(window) };
        // Dropped on an error, which unmaps those before it.
        mapped.map(|()| foreign)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let pages = self.window.pages();
        let unmapped = (0..pages).try_for_each(|page| {
            let flush = match page + 1 == pages {
                false => 0,
                true if pages == 1 => uvmf::INVLPG | uvmf::LOCAL,
                true => uvmf::TLB_FLUSH | uvmf::LOCAL,
            };
            // SAFETY: this value owns the mapping, and nobody uses it any more.
            unsafe { hypercall::update_va_mapping(self.window.address(page), Pte::EMPTY, flush) }
        });
        if unmapped.is_ok() {
            // SAFETY: dropped once, here; nothing is mapped in it any more.
            unsafe { ManuallyDrop::drop(&mut self.window) };
        } else {
            crate::console::print(format_args!("foreign: a page cannot be unmapped; its addresses stay reserved\n"));
        }
    }
}

ring_memory!(Foreign);
