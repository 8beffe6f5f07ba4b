//! The core's heap: small things of domains. Frames are not taken from it.

use talc::TalcLock;
use talc::source::Manual;

use crate::lock::SpinLock;
use crate::physical;

#[global_allocator]
static HEAP: TalcLock<SpinLock, Manual> = TalcLock::new(Manual);

/// Gives the heap its first memory.
pub fn init(address: u64, bytes: u64) {
    // SAFETY: the memory was taken from the boot-time allocator for this and belongs to nobody else.
    unsafe { HEAP.lock().claim(physical::at(address), bytes as usize) };
}
