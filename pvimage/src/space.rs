//! The address space a PV64 kernel has, and arithmetic on pages.

use abi::layout::HYPERVISOR_VIRT_END;

use crate::PAGE;

const LOW_HALF_END: u64 = 1 << 47;

/// Whether `len` bytes at `start` are all canonical and none is the hypervisor's.
pub(crate) fn usable(start: u64, len: u64) -> bool {
    match start.checked_add(len) {
        Some(end) if start < LOW_HALF_END => end <= LOW_HALF_END,
        Some(_) => start >= HYPERVISOR_VIRT_END.0,
        None => false,
    }
}

/// The start of the page `addr` is in.
pub(crate) const fn page_floor(addr: u64) -> u64 {
    addr & !(PAGE - 1)
}

/// The next page boundary at or after `addr`, which is below 2^63.
pub(crate) const fn page_ceil(addr: u64) -> u64 {
    page_floor(addr + PAGE - 1)
}

/// Pages that hold `bytes`, which is below 2^63.
pub(crate) const fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE)
}
