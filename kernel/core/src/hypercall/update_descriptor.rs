//! `update_descriptor` (10): writes one descriptor of a GDT or LDT frame, or of any frame of the domain.
//!
//! - Arguments: the machine address of the descriptor; its new value.
//! - Returns: 0.
//! - Faults: EINVAL: the address is not a multiple of 8, the frame is not the domain's or is a page table, or no guest
//!   may have such a descriptor.
//! - Notes: DPL 3 is forced; see [`crate::segment`].
//! - Source: `xen.h`.

use crate::mm::PageType;
use crate::{Args, Caller, HcResult, Platform, guest, segment};
use abi::{Errno, Mfn, PAGE_SHIFT, PAGE_SIZE};

/// The hypercall.
pub fn call<P: Platform>(c: &mut Caller<'_, P>, a: &mut Args) -> HcResult {
    let [address, descriptor, ..] = *a;
    let safe = segment::admit(descriptor).filter(|_| address % 8 == 0).ok_or(Errno::EINVAL)?;
    let mfn = Mfn(address >> PAGE_SHIFT);
    let held = c.core.get_page_and_type(mfn, c.domain, PageType::Writable);
    let frame = held
        .or_else(|_| c.core.get_page_and_type(mfn, c.domain, PageType::SegmentDescriptor))
        .map_err(|_| Errno::EINVAL)?;
    guest::store(&c.core.platform, frame, (address as usize & (PAGE_SIZE - 1)) / 8, safe);
    c.core.put_page_and_type(frame);
    Ok(0)
}
