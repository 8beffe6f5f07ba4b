//! Machine memory by machine address: at 0 while the loader's map is in force, at [`layout::DIRECT`] from then on.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::layout;

static OFFSET: AtomicU64 = AtomicU64::new(0);

/// From now on, memory is found in the direct map.
pub fn use_direct_map() {
    OFFSET.store(layout::DIRECT, Ordering::Relaxed);
}

/// Where a machine address is seen.
pub fn at<T>(address: u64) -> *mut T {
    address.wrapping_add(OFFSET.load(Ordering::Relaxed)) as *mut T
}

/// Reads a plain value. Only for what firmware, loader and boot code wrote, at addresses that the memory map covers.
pub fn read<T: Copy>(address: u64) -> T {
    // SAFETY: the callers read boot information, modules and firmware tables, which both maps cover.
    unsafe { at::<T>(address).read_unaligned() }
}
